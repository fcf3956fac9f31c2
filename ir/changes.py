"""What makes a finding go away, as data: changes to the text it was found in, for an editor to apply.

A change names what it is about, never offsets it would have to find again: what stands at a span, a line, a
word of a line. Only what needs no person is a fix; everything else is said in ``help`` alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from .source import Span


@dataclass(frozen=True, slots=True)
class Rewrite:
    """What stands at a span becomes another text."""

    span: Span
    text: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """The word of the line at a span that names something, or has it among its braces, becomes another."""

    span: Span
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class WriteLine:
    """The statement of the line at a span becomes another; its comment stays."""

    span: Span
    text: str


@dataclass(frozen=True, slots=True)
class RemoveLine:
    """The line at a span is taken away."""

    span: Span


@dataclass(frozen=True, slots=True)
class AddLine:
    """A line is added: a device behind the other devices, anything else at the end."""

    text: str


@dataclass(frozen=True, slots=True)
class RenamePrefix:
    """A prefix of every path that has it becomes another; ``""`` is none, the others end in a dot."""

    old: str
    new: str


TextChange: TypeAlias = Rewrite | Exchange | WriteLine | RemoveLine | AddLine | RenamePrefix


@dataclass(frozen=True, slots=True)
class Fix:
    """Changes that are made together."""

    changes: tuple[TextChange, ...]


Fixes: TypeAlias = tuple[Fix, ...]
"""Several ways out; the first is the likeliest. A finding whose text is not at hand has none."""


def rewritten(span: Span | None, text: str | None) -> Fixes:
    """Offer a text for what stands at a span."""
    return () if span is None or text is None else (Fix((Rewrite(span, text),)),)


def word_exchanged(span: Span | None, name: str, text: str | None) -> Fixes:
    """Offer another name for the word of a line that names something."""
    return () if span is None or text is None else (Fix((Exchange(span, name, text),)),)


def line_written(span: Span | None, text: str | None, *instead: Span | None) -> Fixes:
    """Offer a statement for that of a line and for the lines it stands in for."""
    if span is None or text is None:
        return ()
    return (Fix((WriteLine(span, text), *(RemoveLine(each) for each in instead if each is not None))),)


def line_removed(*spans: Span | None) -> Fixes:
    """Offer to take away one of these lines."""
    return tuple(Fix((RemoveLine(span),)) for span in spans if span is not None)


def line_added(text: str) -> Fixes:
    """Offer one line more."""
    return (Fix((AddLine(text),)),)
