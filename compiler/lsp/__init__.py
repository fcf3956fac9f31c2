"""The language server of .plan texts: what an editor asks is answered by pure functions over texts."""

from __future__ import annotations

from .features import check, format_edit, rename_device, renamed_word
from .values import Completion, Edit, Fix, Hover

__all__ = [
    "Completion",
    "Edit",
    "Fix",
    "Hover",
    "check",
    "format_edit",
    "rename_device",
    "renamed_word",
]
