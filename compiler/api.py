"""The functions people call from Python; each opens only what it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..ir import Plan
from .driver.options import Objective, Offload, Options, Strategy
from .machine.budgets import DeviceKey, Size

if TYPE_CHECKING:
    from torch import dtype as torch_dtype
    from torch import nn

    from .lines.files import Override
    from .tracing import Verification
    from .tracing.inputs.example_inputs import Inputs

    Dtype: TypeAlias = str | torch_dtype


def compile_model(
    model: nn.Module,
    *,
    max_memory: Mapping[DeviceKey, Size] | None = None,
    no_split_module_classes: str | Sequence[str] | None = None,
    dtype: Dtype | None = None,
    special_dtypes: Mapping[str, Dtype] | None = None,
    offload_buffers: bool = False,
    strategy: Strategy = "auto",
    objective: Objective | None = None,
    offload: Offload = "stream",
    overrides: Override | Sequence[Override] | None = None,
    example_inputs: Inputs = None,
    **more: Any,  # noqa: ANN401  # the remaining fields of Options, typed there
) -> Plan:
    """Compile a placement plan for a model; its weights are neither read nor moved.

    Args:
        model: a live module, on any device; the meta device costs no memory.
        max_memory: bytes by device (``0``, ``"0"``, ``"cuda:0"``, ``"cpu"``, ``"disk"``, ``"mps"``,
            ``"xpu:1"``), as integers or sizes like ``"10GiB"``; None is what this machine has free.
            Devices that are not named are not used. Never changed.
        no_split_module_classes: classes never split; None takes the model's ``_no_split_modules``.
        dtype: what floating-point weights will be loaded as, if that is smaller than they are.
        special_dtypes: the same for single tensors, by path.
        offload_buffers: whether buffers of streamed units may stay off the accelerators.
        strategy: ``auto`` (greedy, then exact search), ``accelerate``, ``balanced``,
            ``balanced_low_0`` or ``sequential``.
        objective: ``fewest-devices``, ``balance``, ``headroom``, ``latency`` or ``throughput``.
        offload: what happens to what fits no accelerator: ``stream``, ``compute``, ``auto``, ``none``.
        overrides: plans, ``.plan`` texts (with a line break) or paths; their lines are constraints.
        example_inputs: arguments of one forward call (a tuple, or a dict of keywords); the model is
            traced on the meta device and the plan follows its dataflow.
        more: any other field of `compile_plan.compiler.driver.options.Options`.

    Returns:
        The placed plan. Warnings are in ``plan.diagnostics``; a plan without problems has none.

    Raises:
        PlanError: the request cannot be met; ``.diagnostics`` says why and what would help.

    """
    from .driver.check import checked
    from .driver.compile import compile_live
    from .lines.files import read_overrides

    options = Options(
        max_memory=max_memory,
        no_split=_names(no_split_module_classes),
        dtype=None if dtype is None else _dtype_name(dtype),
        special_dtypes=tuple((path, _dtype_name(kind)) for path, kind in (special_dtypes or {}).items()),
        offload_buffers=offload_buffers,
        strategy=strategy,
        objective=objective,
        offload=offload,
        **more,
    )
    return compile_live(model, checked(options), read_overrides(overrides), example_inputs=example_inputs)


def infer_auto_device_map(
    model: nn.Module,
    max_memory: Mapping[DeviceKey, Size] | None = None,
    no_split_module_classes: str | Sequence[str] | None = None,
    dtype: Dtype | None = None,
    special_dtypes: Mapping[str, Dtype] | None = None,
    verbose: bool = False,  # noqa: FBT001, FBT002  # accelerate's signature
    clean_result: bool = True,  # noqa: FBT001, FBT002
    offload_buffers: bool = False,  # noqa: FBT001, FBT002
    fallback_allocation: bool = False,  # noqa: FBT001, FBT002
) -> dict[str, int | str]:
    """Return the device map ``accelerate.infer_auto_device_map`` 1.15 returns, faster.

    A drop-in: same arguments, same dict wherever accelerate's is valid. Where accelerate crashes or
    leaves tensors without a place, this map is complete.
    """
    from .driver.drop_in import infer_auto_device_map as infer

    return infer(
        model,
        max_memory=max_memory,
        no_split_module_classes=no_split_module_classes,
        dtype=dtype,
        special_dtypes=special_dtypes,
        verbose=verbose,
        clean_result=clean_result,
        offload_buffers=offload_buffers,
        fallback_allocation=fallback_allocation,
    )


def load_model(
    plan: Plan | str | Path,
    model: nn.Module,
    checkpoint: str | Path | None = None,
    *,
    strict: bool = True,
    progress: Callable[[int, int], None] | None = None,
    **more: Any,  # noqa: ANN401  # options of `loading.load_model`, typed there
) -> nn.Module:
    """Put a model where its plan says, its weights read from a safetensors checkpoint.

    See `compile_plan.compiler.loading.load_model`.
    """
    from .loading import load_model as load

    return load(plan, model, checkpoint, strict=strict, progress=progress, **more)


def verify_plan(
    plan: Plan | str | Path,
    model: nn.Module,
    inputs: Inputs = None,
    *,
    batch: int | None = None,
    seq: int | None = None,
) -> Verification:
    """Replay the model's forward under a plan with every tensor labelled by its device.

    Args:
        plan: a placed plan, or a path to one in any form.
        model: the model it is for; only its structure is used.
        inputs: arguments of one forward call; None makes them from the model's transformers config.
        batch: rows of such inputs; None is what the plan was compiled for.
        seq: tokens of such inputs; None is what the plan was compiled for.

    Returns:
        Where devices would meet, what moves, what is streamed and the peak of each device.

    Raises:
        PlanError: the plan cannot be read or the model cannot be traced.

    """
    from ..backends import read_plan
    from .tracing import verify_plan as verify

    return verify(plan if isinstance(plan, Plan) else read_plan(plan), model, inputs, batch=batch, seq=seq)


def _names(classes: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if classes is None:
        return None
    return (classes,) if isinstance(classes, str) else tuple(sorted(classes))


def _dtype_name(dtype: Dtype) -> str:
    return str(dtype).removeprefix("torch.")
