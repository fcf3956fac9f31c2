"""Diagnostics are values: a rule, what happened, where, the numbers, and what would help.

Users get diagnostics, bugs get exceptions. `PlanError` is the one exception users can meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from .changes import Fixes
from .source import Span


class Severity(StrEnum):
    """How bad it is; nothing else is a diagnostic."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of diagnostic. Codes are never renamed and never reused."""

    code: str
    severity: Severity
    summary: str

    @property
    def page(self) -> str:
        """What ``--explain-code`` prints: why it is reported, an example, and the way out.

        Each code has a Markdown file in ``ir/rules/pages``, opened only when somebody asks.
        """
        from importlib.resources import files

        text = (files(__name__.rpartition(".")[0]) / "rules" / "pages" / f"{self.code}.md").read_text("utf-8")
        return text.partition("\n\n")[2]


@dataclass(frozen=True, slots=True)
class Label:
    """A place in a text with a few words for the caret."""

    span: Span
    text: str = ""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. ``message`` is a sentence in lower case without a full stop and makes sense alone."""

    rule: Rule
    message: str
    at: Label | None = None
    also: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()
    help: str | None = None
    about: str = field(default="", compare=False)
    """The path, device or option it is about, for programs; ``""`` where it is about none."""
    fixes: Fixes = field(default=(), compare=False, repr=False)
    """What ``help`` says, as data: only where making it needs no person."""

    @property
    def code(self) -> str:
        """The rule's code, ``unknown-device``."""
        return self.rule.code

    @property
    def severity(self) -> Severity:
        """The rule's severity."""
        return self.rule.severity


class Diagnostics:
    """Collects findings in order of discovery; each finding once."""

    def __init__(self, found: Iterable[Diagnostic] = ()) -> None:
        self._found: dict[Diagnostic, None] = dict.fromkeys(found)

    def __iter__(self) -> Iterator[Diagnostic]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def add(self, diagnostic: Diagnostic) -> None:
        """Add one finding unless the very same was added before."""
        self._found.setdefault(diagnostic)

    def extend(self, found: Iterable[Diagnostic]) -> None:
        """Add several findings."""
        for diagnostic in found:
            self.add(diagnostic)

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """The findings that stop the work."""
        return tuple(d for d in self if d.severity is Severity.ERROR)

    def raise_errors(self) -> None:
        """Raise `PlanError` with everything found if any of it is an error."""
        if self.errors:
            raise PlanError(tuple(self))


class PlanError(Exception):
    """What was asked cannot be done; ``diagnostics`` says why and what would help."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics: tuple[Diagnostic, ...] = tuple(diagnostics)
        super().__init__("\n".join(_one_line(d) for d in self.diagnostics))


def _one_line(diagnostic: Diagnostic) -> str:
    head = f"{diagnostic.severity}[{diagnostic.code}]: {diagnostic.message}"
    notes = "".join(f"\n  note: {note}" for note in diagnostic.notes)
    return head + notes + (f"\n  help: {diagnostic.help}" if diagnostic.help else "")
