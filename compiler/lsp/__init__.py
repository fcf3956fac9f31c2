"""The language server of .plan texts: what an editor asks is answered by pure functions over texts."""

from __future__ import annotations

from .completion import complete
from .features import check, format_edit, rename_device, renamed_word
from .fixes import fixes
from .hovering import hover
from .lenses import lenses
from .shapes import Action, Completion, Edit, Hover, Lens, apply_edits
from .start import serve

__all__ = [
    "Action",
    "Completion",
    "Edit",
    "Hover",
    "Lens",
    "apply_edits",
    "check",
    "complete",
    "fixes",
    "format_edit",
    "hover",
    "lenses",
    "rename_device",
    "renamed_word",
    "serve",
]
