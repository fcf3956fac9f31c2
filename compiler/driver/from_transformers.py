"""Loading by a class of transformers itself: what its own code must do, with what it raises as a finding."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir import Diagnostic, PlanError
from ...ir.rules.configs import CONFIG_FAILED
from ...ir.wording import first_line
from ..sources.checkpoint import read_config

if TYPE_CHECKING:
    from torch import nn

_MISSING = "install what the note names, then load again"


def loaded_by(auto_class: Any, folder: Path, message: str, help_: str, **said: Any) -> nn.Module:  # noqa: ANN401
    """Let transformers load a folder, told what is not None; what it raises becomes a finding.

    ``auto_class`` is a class of transformers, or None for the one the folder names. ``help_`` is for all but
    a library that is not there.
    """
    asked = {name: value for name, value in said.items() if value is not None}
    kind = auto_class or _class_of(folder)
    try:
        model: nn.Module = kind.from_pretrained(folder, local_files_only=True, **asked)
    except Exception as error:
        help_ = _MISSING if isinstance(error, ImportError) else help_
        found = Diagnostic(CONFIG_FAILED, message, notes=(first_line(error, 300),), help=help_)
        raise PlanError([found]) from error
    return model.eval()


def _class_of(folder: Path) -> Any:  # noqa: ANN401
    """Return the class of transformers that a folder names; the usual one where it names none."""
    import transformers

    listed = read_config(folder / "config.json").get("architectures")
    named = getattr(transformers, listed[0], None) if isinstance(listed, list) and listed else None
    return named or transformers.AutoModelForCausalLM
