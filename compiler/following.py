"""What finished plans are for, from Python: loading by them, replaying them, asking what was streamed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ..ir import Diagnostics, Plan
from .api import check_keywords, compile_plan
from .keywords import PlanOptions

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .keywords import Dtype
    from .loading import Materialize, RuntimeReport
    from .tracing import Verification
    from .tracing.inputs.example_inputs import Inputs


def load_model(
    plan: Plan | str | Path,
    model: nn.Module,
    checkpoint: str | Path | None = None,
    *,
    strict: bool = True,
    progress: Callable[[int, int], None] | bool | None = None,
    dtype: Dtype | None = None,
    materialize: Materialize | None = None,
    devices: Mapping[str, str | torch.device] | None = None,
    map_memory: bool = True,
    host: str | None = None,
    diagnostics: Diagnostics | None = None,
) -> nn.Module:
    """Put a model where its plan says, its weights read from a safetensors checkpoint.

    See `compile_plan.compiler.loading.load_model`.
    """
    from .loading import load_model as load

    parts = _parts(model)
    if parts is not None:
        from .driver.phases import load_parts
        from .loading.asked import asked_plan

        folder = None if checkpoint is None else Path(checkpoint)
        more = {"progress": progress, "dtype": dtype, "materialize": materialize, "diagnostics": diagnostics}
        load_parts(
            asked_plan(plan), parts, folder, strict=strict, devices=devices, map_memory=map_memory, **more
        )
        return model
    return load(
        plan,
        model,
        checkpoint,
        strict=strict,
        progress=progress,
        dtype=dtype,
        materialize=materialize,
        devices=devices,
        map_memory=map_memory,
        host=host,
        diagnostics=diagnostics,
    )


def _parts(model: object) -> dict[str, nn.Module] | None:
    """Return the models of a pipeline or a dictionary of modules; None for a module."""
    from .sources.pipelines import parts_of

    return parts_of(model)


def runtime_report(model: nn.Module) -> RuntimeReport:
    """Return what a loaded model streamed since this was last asked: bytes, waits, rows found and missed.

    See `compile_plan.compiler.loading.runtime_report`.
    """
    from .loading import runtime_report as report
    from .sources.live import checked_module

    return report(checked_module(model))


def load_pretrained(
    folder: str | Path,
    plan: Plan | str | Path | None = None,
    *,
    dtype: Dtype | None = None,
    auto_class: Any = None,  # noqa: ANN401  # transformers has no type for its classes of classes
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    pickled: bool = False,
    progress: Callable[[int, int], None] | bool | None = None,
    materialize: Materialize | None = None,
    devices: Mapping[str, str | torch.device] | None = None,
    map_memory: bool = True,
    host: str | None = None,
    diagnostics: Diagnostics | None = None,
    **options: Unpack[PlanOptions],
) -> nn.Module:
    """Load a transformers folder by a plan, in eval mode: class, dtype, generation settings from the folder.

    Args:
        folder: a folder with a ``config.json`` and safetensors files.
        plan: a plan, or a path to one in any form; None compiles one for this machine; under torchrun, the
            first process compiles one for the machines of all, unless ``max_memory`` names this one's alone.
        dtype: what floating-point weights become; None, or ``auto``, is what transformers would choose.
        auto_class: a class of transformers (``AutoModelForSequenceClassification``, or a model's own) in
            place of the one the configuration names.
        attn_implementation: which attention computes (``sdpa``, ``eager``, ...); None is what transformers
            would choose.
        trust_remote_code: whether Python files beside the configuration may run.
        pickled: whether weights that are in ``.bin`` files alone are read, by transformers with
            ``weights_only``; they are read whole before they are moved to their places.
        progress: as for `load_model`; None shows a bar on a terminal.
        materialize: as for `load_model`.
        devices: as for `load_model`.
        map_memory: as for `load_model`.
        host: as for `load_model`: a plan of several hosts is loaded by a process on each, under torchrun.
        diagnostics: as for `load_model`.
        options: those of `compile_model` (``max_memory``, ``offload``, ...) for a plan that is None.

    Returns:
        The model, its weights where the plan says. Quantised folders are read by transformers' own
        quantizer; what rests on the host is streamed where the method's weights can be moved.

    Raises:
        PlanError: the folder cannot be read or built, or something does not fit; nothing was loaded.

    """
    from .driver import pretrained as whole
    from .driver.phases import load_pipeline
    from .driver.together import compiled_together, name_here
    from .lines.files import read_overrides
    from .loading.asked import asked_folder, asked_name_of_dtype, asked_plan, check_whole
    from .sources.pipelines import INDEX

    def compiled(given: Path | nn.Module) -> Plan:
        if given_plan is not None:
            return given_plan
        asked = {**options, "overrides": lines, "dtype": chosen if isinstance(given, Path) else None}
        return compiled_together(lambda said: compile_plan(given, **said), asked, host)

    check_keywords("load_pretrained", options, PlanOptions)
    there = asked_folder(folder)
    chosen = asked_name_of_dtype(dtype)
    given_plan = None if plan is None else asked_plan(plan)
    check_whole(
        auto_class=auto_class,
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
        pickled=pickled,
    )
    if plan is not None:
        whole.check_asked("a plan that is given", options, "leave it out, or place the plan anew with it")
    lines = read_overrides(options.get("overrides"))
    chosen = chosen or (
        whole.dtype_of_lines(lines) if given_plan is None else whole.planned_dtype(given_plan)
    )
    settings: dict[str, Any] = {
        "dtype": chosen,
        "attention": attn_implementation,
        "progress": progress,
        "materialize": materialize,
        "devices": devices,
        "map_memory": map_memory,
        "diagnostics": diagnostics,
    }
    model: nn.Module
    if (there / INDEX).is_file():
        single = {"auto_class": auto_class, "pickled": pickled, "host": host}
        whole.check_asked("a pipeline", single, "leave it out: the parts are loaded as diffusers names them")
        model, placed = load_pipeline(there, compiled, **settings)
    else:
        model, placed = whole.load_whole(
            there,
            compiled,
            auto_class=auto_class,
            trust_remote_code=trust_remote_code,
            pickled=pickled,
            host=lambda placed: host if plan is not None else name_here(placed, host),
            **settings,
        )
    whole.tell(placed, model)
    return model


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
    from .driver.inputs import opened_plan
    from .driver.options import read_options
    from .sources.live import checked_module
    from .tracing import verify_plan as verify

    diagnostics = Diagnostics()
    sizes = read_options({"batch": batch, "seq": seq}, diagnostics)
    diagnostics.raise_errors()
    module = checked_module(model)
    bound = opened_plan(plan, module, diagnostics)
    replayed = verify(bound, module, inputs, batch=sizes.batch, seq=sizes.seq)
    return replace(replayed, diagnostics=tuple(dict.fromkeys((*diagnostics, *replayed.diagnostics))))
