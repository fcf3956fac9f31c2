"""What an editor is told. Places are offsets into the text; only the server knows lines and columns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Edit:
    """Characters ``start`` to ``end`` of a text are to be ``text``."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Completion:
    """A word that may stand here: the edit that writes it, and a few words about it."""

    edit: Edit
    kind: str
    """``keyword``, ``module``, ``tensor``, ``class``, ``device`` or ``purpose``."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Hover:
    """What is known about the word between two offsets, as Markdown."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Lens:
    """What an editor shows above the line between two offsets."""

    start: int
    end: int
    title: str


@dataclass(frozen=True, slots=True)
class Action:
    """A change an editor offers, with what it is called there."""

    title: str
    edits: tuple[Edit, ...]


def apply_edits(text: str, edits: tuple[Edit, ...]) -> str:
    """Return the text after edits that do not overlap."""
    for edit in sorted(edits, key=lambda each: (each.start, each.end), reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text
