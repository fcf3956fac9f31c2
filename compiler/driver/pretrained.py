"""The whole job for a folder with weights: the class, a plan for this machine, and the weights in place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...backends.predictions import predicted_text
from ...ir import (
    CPU,
    DISK,
    Diagnostic,
    Diagnostics,
    Plan,
    PlanError,
    device_type,
    human_size,
    unit_of_tensors,
)
from ...ir.rules.sources import MISSING_INPUT
from ...ir.rules.usage import OPTION_WITHOUT_EFFECT
from ...ir.wording import in_words
from ..machine.machine_file import main_dtype
from ..sources.config import build_from_config
from ..sources.config_numbers import WIDTHS
from ..sources.input_kinds import missing_input
from .folders import plain_dtype
from .from_transformers import loaded_by
from .options import Options, settled
from .quantised_folder import load_quantised, quantizer_of

if TYPE_CHECKING:
    from torch import nn


def check_asked(what: str, asked: Mapping[str, object], help_: str) -> None:
    """Raise `PlanError` for options that do nothing for what is loaded."""
    found = [name for name, value in asked.items() if value is not None and value is not False]
    if found:
        message = f"{in_words(found)} would do nothing for {what}"
        raise PlanError([Diagnostic(OPTION_WITHOUT_EFFECT, message, help=help_)])


def check_folder(folder: Path) -> None:
    """Raise `PlanError` if there is no such folder."""
    if not folder.exists():
        raise PlanError([missing_input(folder)])
    if not folder.is_dir():
        help_ = "give the folder with the model and its config.json"
        raise PlanError([Diagnostic(MISSING_INPUT, f"`{folder}` is a file", help=help_)])


def built_for(
    folder: Path,
    dtype: str | None,
    auto_class: Any,  # noqa: ANN401  # a class of transformers, or None
    *,
    trust_remote_code: bool,
    attention: str | None = None,
) -> nn.Module:
    """Return the model a folder describes, on the meta device, in evaluation mode.

    Raises:
        PlanError: the folder has no configuration, or its class cannot be built.

    """
    from ..sources.live import paused_collection

    with paused_collection():
        return build_from_config(
            folder,
            dtype=dtype,
            auto_class=auto_class,
            trust_remote_code=trust_remote_code,
            attention=attention,
        ).eval()


def dtype_of(folder: Path) -> str | None:
    """Return the dtype transformers loads a folder in: said, or that of the first float stored."""
    from ..sources.checkpoint import folder_dtype

    return folder_dtype(folder, Diagnostics())


def planned_dtype(plan: Plan) -> str | None:
    """Return the dtype a plan was asked for, where its weights are in it or packed: they are loaded so."""
    asked = dict(plan.options).get("dtype")
    main = None if plan.tree is None else main_dtype(plan.tree)
    return asked if asked in WIDTHS and main is not None and (main == asked or main not in WIDTHS) else None


def dtype_of_lines(lines: Iterable[Plan]) -> str | None:
    """Return the dtype that lines beside no plan ask for, where models compute in it."""
    return plain_dtype(settled(Options(), lines, Diagnostics()))


def is_pickled(folder: Path) -> bool:
    """Say whether the only weights of a folder are in pickles."""
    return not any(folder.glob("*.safetensors")) and any(folder.glob("*.bin"))


def load_pickled(
    folder: Path,
    dtype: str | None,
    auto_class: Any,  # noqa: ANN401  # a class of transformers, or None
    attention: str | None,
) -> nn.Module:
    """Let transformers read pickled weights, of which torch unpickles tensors and nothing that runs code."""
    message = f"transformers cannot read the pickled weights of `{folder}`"
    help_ = "save the model as safetensors where you trust it: `model.save_pretrained(FOLDER)`"
    how = {"use_safetensors": False, "weights_only": True, "attn_implementation": attention}
    return loaded_by(auto_class, folder, message, help_, dtype=dtype or "auto", **how)


def with_generation(model: nn.Module, folder: Path) -> None:
    """Give a model that generates the generation settings saved beside its weights."""
    if not (folder / "generation_config.json").is_file() or not hasattr(model, "generation_config"):
        return
    from transformers import GenerationConfig

    settings: Any = GenerationConfig.from_pretrained(folder, local_files_only=True)
    model.generation_config = settings


def told(plan: Plan, model: object) -> str:
    """Return a paragraph of what went where, and how fast it will be where the plan predicts that."""
    sizes: dict[tuple[str, str], int] = {}
    tree = plan.tree
    if tree is not None and tree.nbytes is not None:
        for owner, nbytes in zip(unit_of_tensors(tree, plan.units), tree.nbytes, strict=True):
            unit = plan.units[owner]
            place = unit.store or CPU, unit.run or unit.store or CPU
            sizes[place] = sizes.get(place, 0) + nbytes
    parts = [_placed(human_size(nbytes), *place) for place, nbytes in sizes.items() if nbytes]
    text = f"{type(model).__name__} is loaded: {', '.join(parts) or 'as its plan says'}"
    if plan.outcome is not None and plan.outcome.predicted is not None:
        text += f"; {predicted_text(plan.outcome.predicted)}"
    return f"{text}\n"


def _placed(size: str, store: str, run: str) -> str:
    if store == run:
        return f"{size} on {store}"
    if device_type(store) == DISK and device_type(run) == CPU:
        return f"{size} on {store}, read while it runs"
    return f"{size} on {store}, streamed to {run}"


def tell(plan: Plan, model: object) -> None:
    """Write that paragraph where a person reads it: on a terminal, nowhere else."""
    if sys.stderr.isatty():
        sys.stderr.write(told(plan, model))


def load_whole(
    folder: Path,
    compiled: Callable[[Path | nn.Module], Plan],
    *,
    dtype: str | None = None,
    auto_class: Any = None,  # noqa: ANN401  # a class of transformers, or None
    trust_remote_code: bool = False,
    attention: str | None = None,
    pickled: bool = False,
    devices: Mapping[str, Any] | None = None,
    host: Callable[[Plan], str | None] = lambda _: None,
    **loading: Any,  # noqa: ANN401  # what `load_model` takes
) -> tuple[nn.Module, Plan]:
    """Load a folder by the plan that ``compiled`` returns for it, or for the model that was asked for.

    Raises:
        PlanError: the folder cannot be read or built, or something does not fit; nothing was loaded.

    """
    from ..loading import load_model

    check_folder(folder)
    if quantizer_of(folder) is not None:
        plan = compiled(folder)
        said = {"dtype": dtype, "attn_implementation": attention}
        model = load_quantised(folder, plan, auto_class, devices, said, **loading)
    elif pickled and is_pickled(folder):
        read = load_pickled(folder, dtype, auto_class, attention)
        plan = compiled(read)
        model = load_model(plan, read, devices=devices, host=host(plan), **loading)
    else:
        other = dtype is not None or auto_class is not None or attention is not None
        planned = None if other else compiled(folder)
        chosen = dtype or dtype_of(folder)
        built = built_for(
            folder, chosen, auto_class, trust_remote_code=trust_remote_code, attention=attention
        )
        plan = compiled(built) if planned is None else planned
        model = load_model(plan, built, folder, devices=devices, host=host(plan), **loading)
    with_generation(model, folder)
    return model, plan
