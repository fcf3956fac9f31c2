"""Pipelines: several models used one after another, as one tree whose children are the parts.

A pipeline is an object of diffusers, a folder with a ``model_index.json``, or a dictionary of modules. Its
parts are built on the meta device from the folders they are in; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from ...ir import Diagnostic, Diagnostics, PlanError, join_path
from ...ir.names import BUSIEST
from ...ir.rules.configs import CONFIG_FAILED, INVALID_CONFIG
from ...ir.rules.sources import MISSING_EXTRA, NOT_A_MODEL
from ...ir.wording import first_line
from .checkpoint import folder_dtype, read_config
from .config import build_from_config, built_weightless

if TYPE_CHECKING:
    from collections.abc import Callable

INDEX: Final = "model_index.json"


class Parts(nn.Module):
    """Models that are used one after another; those called most often come first."""

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name in sorted(parts, key=lambda name: name not in BUSIEST):
            self.add_module(name, parts[name])

    @property
    def busiest(self) -> tuple[str, ...]:
        """The names of what is called most often."""
        return tuple(name for name, _ in self.named_children() if name in BUSIEST)


def parts_of(given: object) -> dict[str, nn.Module] | None:
    """Return the models of a pipeline or a dictionary of modules by name; None where it is neither.

    Raises:
        PlanError: a name cannot be part of a path.

    """
    if any(kind.__name__ == "DiffusionPipeline" for kind in type(given).__mro__):
        components: Mapping[object, object] = getattr(given, "components", {})
        parts = {name: part for name, part in components.items() if isinstance(part, nn.Module)}
    elif isinstance(given, Mapping) and given and all(isinstance(each, nn.Module) for each in given.values()):
        parts = dict(given)
    else:
        return None
    for name in parts:
        if not isinstance(name, str) or not name or "." in name:
            message = f"a part cannot be called `{str(name)[:60]}`"
            raise PlanError([Diagnostic(NOT_A_MODEL, message, help="use names without dots")])
    return {str(name): part for name, part in parts.items()}


def joined(given: object) -> object:
    """Return a pipeline as one module; anything else as it is."""
    parts = parts_of(given)
    return given if parts is None else Parts(parts)


def whole_by_structure(model: nn.Module) -> Iterator[str]:
    """Yield the paths of what diffusers' models call as one: their children, and the members of their lists.

    Inside of those, results are added to what came in, whichever classes a model says are never split.
    """
    for path, part in model.named_modules():
        if not any(kind.__name__ == "ModelMixin" for kind in type(part).__mro__):
            continue
        for name, child in part.named_children():
            below = join_path(path, name)
            if isinstance(child, nn.ModuleList):
                yield from (join_path(below, number) for number, _ in child.named_children())
            elif any(True for _ in child.children()):
                yield below


def part_folders(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the parts of a pipeline's folder that are models, in the order its index names them."""
    for name, said in read_config(folder / INDEX).items():
        inner = folder / name
        listed = isinstance(said, list) and any(said)
        if listed and "." not in name and (inner / "config.json").is_file():
            yield name, inner


def absent_parts(folder: Path) -> tuple[str, ...]:
    """Return what a pipeline's index says it was saved without."""
    said = read_config(folder / INDEX).items()
    return tuple(name for name, kind in said if isinstance(kind, list) and not any(kind))


def build_parts(folder: Path, dtype: str | None = None) -> Parts:
    """Return the models of a pipeline's folder, without weights, in a dtype or each in that of its own.

    Raises:
        PlanError: the folder has no models, or one of them cannot be built.

    """
    parts = {name: build_part(inner, dtype) for name, inner in part_folders(folder)}
    if not parts:
        message = f"`{folder / INDEX}` names no model that is in the folder"
        raise PlanError([Diagnostic(INVALID_CONFIG, message, help="download the whole pipeline")])
    return Parts(parts)


def build_part(folder: Path, dtype: str | None = None, attention: str | None = None) -> nn.Module:
    """Return the model of a folder of diffusers or transformers, in the dtype of its weights.

    ``attention`` is transformers' name of an implementation; models of diffusers choose their own.
    """
    config = read_config(folder / "config.json")
    weights = any(folder.glob("*.safetensors"))
    kept = dtype or (folder_dtype(folder, Diagnostics()) if weights else None)
    if "_class_name" not in config:
        return build_from_config(folder, dtype=kept, attention=attention).eval()
    try:
        import diffusers
    except ImportError:
        message = f"building the model of `{folder}` needs diffusers"
        help_ = "run `pip install diffusers`"
        raise PlanError([Diagnostic(MISSING_EXTRA, message, help=help_)]) from None
    kind: Any = getattr(diffusers, str(config["_class_name"]), None)
    try:
        return built_weightless(_in_dtype(lambda: kind.from_config(config), kept)).eval()
    except Exception as error:
        message = f"diffusers {diffusers.__version__} cannot build the model of `{folder}`"
        raise PlanError([Diagnostic(CONFIG_FAILED, message, notes=(first_line(error, 300),))]) from error


def _in_dtype(build: Callable[[], nn.Module], dtype: str | None) -> Callable[[], nn.Module]:
    """Return a builder of weights in a dtype; who calls it puts torch's default back."""
    wanted = getattr(torch, dtype or "", None)

    def built() -> nn.Module:
        if isinstance(wanted, torch.dtype):
            torch.set_default_dtype(wanted)
        return build()

    return built
