"""How plans are made from Python; each function opens only what it needs."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ..ir import Diagnostics, Plan
from ..ir.near import near_name
from .driver.options import Objective, Offload, Strategy, Use
from .keywords import CompileOptions
from .machine.budgets import DeviceKey, Size

if TYPE_CHECKING:
    from torch import nn

    from ..ir import Reserve
    from .keywords import Dtype
    from .lines.files import Override
    from .tracing.inputs.example_inputs import Inputs


def compile_model(  # noqa: PLR0913  # each option is typed here for editors
    model: nn.Module,
    *,
    max_memory: Mapping[DeviceKey, Size] | None = None,
    no_split_module_classes: str | Iterable[str] | None = None,
    dtype: Dtype | None = None,
    special_dtypes: Mapping[str, Dtype] | None = None,
    offload_buffers: bool = False,
    strategy: Strategy = "auto",
    objective: Objective | None = None,
    offload: Offload = "auto",
    overrides: Override | Iterable[Override] | None = None,
    example_inputs: Inputs = None,
    fallback: bool | None = None,
    reserves: Mapping[DeviceKey, Size] | Iterable[Reserve] | None = None,
    margin: Size | None = None,
    runtime: Size | None = None,
    kv_cache: Size | None = None,
    workload: Use | None = None,
    rows: int | None = None,
    batch: int | None = None,
    seq: int | None = None,
    cache_tokens: int | None = None,
    prompt: int | None = None,
    generate: int | None = None,
    optimizer: str | None = None,
    time_limit: float | None = None,
) -> Plan:
    """Compile a placement plan for a model; its weights are neither read nor moved.

    Args:
        model: a live module, on any device; the meta device costs no memory.
        max_memory: bytes by device (``0``, ``"0"``, ``"cuda:0"``, ``"cpu"``, ``"disk"``, ``"mps"``,
            ``"xpu:1"``), as integers or sizes like ``"10GiB"``; None is what this machine has free.
            Devices that are not named are not used. Never changed.
        no_split_module_classes: classes never split; None takes the model's ``_no_split_modules``. Names
            that the model itself declares may be absent from it.
        dtype: what floating-point weights will be loaded as; of a live module, if that is smaller than they
            are, as accelerate counts.
        special_dtypes: the same for single tensors, by path.
        offload_buffers: whether buffers of streamed units may stay off the accelerators.
        strategy: ``auto`` (greedy, then exact search), ``accelerate``, ``balanced``,
            ``balanced_low_0`` or ``sequential``.
        objective: ``latency``, ``accelerator-bytes``, ``fewest-devices``, ``balance``, ``headroom`` or
            ``throughput``; None keeps everything on accelerators if it fits, else takes the fewest seconds.
        offload: what happens to what fits no accelerator: ``auto``, ``stream``, ``compute``, ``none``.
        overrides: plans, ``.plan`` texts or paths; their lines win.
        example_inputs: arguments of one forward call (a tuple, or a dict of keywords); the model is
            traced on the meta device and the plan follows its dataflow.
        fallback: strategy ``accelerate`` only: whether a later module may fill an empty device; None does.
        reserves: bytes kept free, by device as ``max_memory``, or as `Reserve` with a purpose.
        margin: bytes of every accelerator that are never planned with; None leaves devices theirs.
        runtime: bytes of every accelerator that its driver takes; None is what is usual of a budget read
            from this machine, and 0 of one that is given.
        kv_cache: bytes of KV cache of the whole model, shared out over its layers; ``"2GiB"`` too.
        workload: what the model is used for: ``generate``, ``forward``, ``loss`` or ``train``; None is what a
            `workload` line says, else ``generate``. This and ``rows``, ``prompt``, ``generate`` size the
            ledger where the forward can be traced, or a configuration says what is kept of a token.
        rows: sequences at a time; None is 1.
        batch: the same, for the traced forward alone: no workload is assumed beside it.
        seq: tokens of a sequence in the forward that is traced.
        cache_tokens: tokens the KV cache must hold; None is the prompt and what is written.
        prompt: tokens read per request; of a forward, a loss or a step of training those it reads; None is
            512.
        generate: tokens written per request; None is 128.
        optimizer: the optimizer of torch that ``train`` takes a step of; None is ``adamw``.
        time_limit: seconds after which the exact search is ended; None is 60.

    Returns:
        The placed plan. Warnings are in ``plan.diagnostics``; a plan without problems has none.

    Raises:
        PlanError: the request cannot be met; ``.diagnostics`` says why and what would help.

    """
    return _compiled(
        model,
        module=True,
        max_memory=max_memory,
        no_split_module_classes=no_split_module_classes,
        dtype=dtype,
        special_dtypes=special_dtypes,
        offload_buffers=None if offload_buffers is False else offload_buffers,
        strategy=None if _is_word(strategy, "auto") else strategy,
        objective=objective,
        offload=None if _is_word(offload, "auto") else offload,
        overrides=overrides,
        example_inputs=example_inputs,
        fallback=fallback,
        reserves=reserves,
        margin=margin,
        runtime=runtime,
        kv_cache=kv_cache,
        workload=workload,
        rows=rows,
        batch=batch,
        seq=seq,
        cache_tokens=cache_tokens,
        prompt=prompt,
        generate=generate,
        optimizer=optimizer,
        time_limit=time_limit,
    )


def _is_word(value: object, word: str) -> bool:
    return isinstance(value, str) and value == word


def compile_plan(
    input: nn.Module | Plan | str | Path,  # noqa: A002  # what the command calls it
    **options: Unpack[CompileOptions],
) -> Plan:
    """Compile a plan from any input the command takes; the keywords are those of `compile_model`.

    Args:
        input: a module; a path to a script (``model.py:build``), a folder or file with safetensors, a
            config.json, a GGUF file, or a plan in any form; or a plan. A finished plan comes back, checked,
            unless an option asks for placing: then it starts from what people wrote in it, and its options
            stay where they are not given again.
        options: as for `compile_model`, and ``trust_remote_code``: run the code that comes with a folder.

    Returns:
        The placed plan.

    Raises:
        PlanError: the input cannot be read, an option would do nothing for it, or the request cannot be met.

    """
    check_keywords("compile_plan", options, CompileOptions)
    return _compiled(input, module=False, **options)


def check_keywords(function: str, given: Mapping[str, object], known: type) -> None:
    """Raise what Python raises for a keyword a function has not, with the one that was meant."""
    for name in sorted(given.keys() - known.__annotations__.keys()):
        meant = _ELSEWHERE.get(name) or near_name(name, known.__annotations__)
        hint = f"; did you mean {meant!r}?" if meant else ""
        msg = f"{function}() got an unexpected keyword argument {name!r}{hint}"
        raise TypeError(msg)


_ELSEWHERE = {"torch_dtype": "dtype", "memory": "max_memory", "device_map": "strategy", "batch_size": "rows"}
"""Keywords of other libraries, and ours."""


def _signature() -> inspect.Signature:
    """Return what `compile_plan` takes, in full, for help and for editors that ask at run time."""
    first = inspect.Parameter("input", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    own = inspect.signature(compile_model)
    more = inspect.Parameter("trust_remote_code", inspect.Parameter.KEYWORD_ONLY, default=False)
    return own.replace(parameters=[first, *[*own.parameters.values()][1:], more])


compile_plan.__signature__ = _signature()  # type: ignore[attr-defined]


def _compiled(given: object, *, module: bool, **options: Unpack[CompileOptions]) -> Plan:
    """Read the options once, open the input, and compile it."""
    from .driver.inputs import compile_opened, open_input
    from .driver.options import read_options
    from .driver.workload import with_workload
    from .lines.files import read_overrides

    diagnostics = Diagnostics()
    values: dict[str, Any] = dict(options)
    overrides, inputs = values.pop("overrides", None), values.pop("example_inputs", None)
    renamed = {_FIELDS.get(name, name): value for name, value in values.items()}
    read = read_options(renamed, diagnostics, spelled=_spelled)
    if module:
        from .sources.live import checked_module
        from .sources.pipelines import joined

        given = checked_module(joined(given))
    diagnostics.raise_errors()
    lines = read_overrides(overrides)
    read = with_workload(read, lines)
    opened = open_input(given, read, lines)
    return compile_opened(opened, read, lines, example_inputs=inputs, spelled=_spelled)


def _spelled(field: str) -> str:
    return _KEYWORDS.get(field, field)


_FIELDS = {"max_memory": "devices", "no_split_module_classes": "no_split"}
_KEYWORDS = {field: keyword for keyword, field in _FIELDS.items()}


def infer_auto_device_map(
    model: nn.Module,
    max_memory: Mapping[DeviceKey, Size] | None = None,
    no_split_module_classes: str | Iterable[str] | None = None,
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
