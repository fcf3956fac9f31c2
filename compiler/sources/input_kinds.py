"""What an input is, decided by its name and by what is beside it; nothing is opened but JSON."""

from __future__ import annotations

from difflib import get_close_matches
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from ...ir import Diagnostic, Diagnostics
from ...ir.rules.sources import MISSING_INPUT, UNKNOWN_INPUT
from ...ir.visible import pasted
from .foreign_json import read_foreign_json
from .regular import unreadable_input


class InputKind(StrEnum):
    """The kinds of input."""

    SCRIPT = "script"
    """``model.py`` or ``model.py:factory``."""
    CHECKPOINT = "checkpoint"
    """A safetensors file, an index, or a folder with either."""
    CONFIG = "config"
    """A ``config.json``, or a folder that holds one and no weights."""
    PIPELINE = "pipeline"
    """A folder with a ``model_index.json`` and a folder for each part."""
    PART = "part"
    """A folder with a model of diffusers, which names its class in ``config.json``."""
    PLAN_TEXT = "plan-text"
    PLAN_FILE = "plan-file"
    DEVICE_MAP = "device-map"
    GGUF = "gguf"


_SUFFIXES: Final = {
    ".py": InputKind.SCRIPT,
    ".safetensors": InputKind.CHECKPOINT,
    ".plan": InputKind.PLAN_TEXT,
    ".msgpack": InputKind.PLAN_FILE,
    ".gguf": InputKind.GGUF,
}
_PICKLES: Final = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
_FILES: Final = _PICKLES | _SUFFIXES.keys() | {".json"}
_LISTED: Final = "inputs are .py, .safetensors, .plan, .msgpack, .json, .gguf files and model folders"


def kind_of(spec: str | Path, diagnostics: Diagnostics) -> InputKind | None:
    """Return the kind of an input; None with an error in ``diagnostics``."""
    from .script_spec import split_spec

    path, _ = split_spec(spec)
    try:
        if path.is_dir():
            return _kind_of_folder(path, diagnostics)
        if not path.exists():
            diagnostics.add(missing_input(path))
            return None
    except (OSError, ValueError) as error:
        diagnostics.add(unreadable_input(path, error))
        return None
    kind = _kind_of_json(path) if path.suffix == ".json" else _SUFFIXES.get(path.suffix)
    if kind is None:
        diagnostics.add(_unknown(path))
    if kind is InputKind.CONFIG and path.name != "config.json":
        diagnostics.add(_renamed(path))
        return None
    return kind


def _kind_of_folder(folder: Path, diagnostics: Diagnostics) -> InputKind | None:
    names = sorted(entry.name for entry in folder.iterdir())
    if "model_index.json" in names:
        return InputKind.PIPELINE
    if "config.json" in names and _is_part(folder / "config.json"):
        return InputKind.PART
    if any(name.endswith((".safetensors", ".safetensors.index.json")) for name in names):
        return InputKind.CHECKPOINT
    if "config.json" in names:
        return InputKind.CONFIG
    inner = [name for name in names if Path(name).suffix in _SUFFIXES]
    pickles = [name for name in names if Path(name).suffix in _PICKLES]
    message = f"`{folder}` holds neither safetensors files nor a config.json"
    named = f"name the file: `{pasted(folder / inner[0])}`" if inner else None
    help_ = named or (_PICKLE_HELP if pickles else "download or save the model into it")
    diagnostics.add(Diagnostic(UNKNOWN_INPUT, message, notes=(_LISTED,), help=help_))
    return None


def _is_part(path: Path) -> bool:
    """Say whether diffusers wrote a configuration, and is there to build the class."""
    try:
        content = read_foreign_json(path)
    except (OSError, ValueError, RecursionError):
        return False
    named = isinstance(content, dict) and isinstance(content.get("_class_name"), str)
    return named and "model_type" not in content and find_spec("diffusers") is not None


_PICKLE_HELP: Final = "save the model as safetensors: `model.save_pretrained(FOLDER)`"


def _kind_of_json(path: Path) -> InputKind:
    """Tell the three kinds of JSON apart: an index, a configuration, a device map."""
    if path.name.endswith(".index.json"):
        return InputKind.CHECKPOINT
    named = path.name == "config.json"
    try:
        content = read_foreign_json(path)
    except (OSError, ValueError, RecursionError):
        return InputKind.CONFIG if named else InputKind.DEVICE_MAP
    places = isinstance(content, dict) and all(isinstance(value, str | int) for value in content.values())
    told = isinstance(content, dict) and isinstance(content.get("model_type"), str)
    return InputKind.CONFIG if (named and not places) or told else InputKind.DEVICE_MAP


def missing_input(path: Path) -> Diagnostic:
    """Return what is to be said of a path that leads nowhere; it may be a model's name on the hub."""
    folder = path.parent
    names = sorted({entry.name for entry in folder.iterdir()} - {path.name}) if folder.is_dir() else []
    near = get_close_matches(path.name, names, n=1)
    help_ = f"did you mean `{pasted(folder / near[0])}`?" if near else None
    owner, *rest = path.parts or ("",)
    if owner[:1].isalnum() and len(rest) == 1 and not folder.exists() and path.suffix not in _FILES:
        help_ = f"download a model of the hub first: `hf download {pasted(path)} --local-dir {path.name}`"
    return Diagnostic(MISSING_INPUT, f"there is no `{str(path)[:200]}`", help=help_)


def _renamed(path: Path) -> Diagnostic:
    """A configuration goes by one name for transformers, which also looks for code and weights beside it."""
    folder = pasted(path.with_suffix(""))
    help_ = f"`mkdir {folder} && cp {pasted(path)} {folder}/config.json`, and name the folder"
    return Diagnostic(UNKNOWN_INPUT, f"`{path}` is a configuration under another name", help=help_)


def _unknown(path: Path) -> Diagnostic:
    what = f"a `{path.suffix}` file" if path.suffix else "a file without a suffix"
    help_ = _PICKLE_HELP if path.suffix in _PICKLES else None
    message = f"`{path}` is {what}, which is no known kind of input"
    return Diagnostic(UNKNOWN_INPUT, message, notes=(_LISTED,), help=help_)
