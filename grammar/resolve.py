"""Syntax to a plan: sizes become bytes, braces become paths, and what contradicts itself is reported.

Whether a path exists is not known here: a text is read without its model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import assert_never

from ..ir import (
    WAYS,
    Atomic,
    Cache,
    Constraint,
    Demand,
    Device,
    Diagnostic,
    Diagnostics,
    Label,
    Link,
    Model,
    Never,
    Phase,
    Plan,
    Reason,
    Reserve,
    Split,
    TieGroup,
    Together,
    Unit,
    Work,
    Workload,
)
from ..ir.changes import line_removed, line_written
from ..ir.rules.language import (
    LINE_NEVER_WINS,
    MALFORMED_NUMBER,
    MALFORMED_PATTERN,
    REPEATED_LINE,
    UNSUPPORTED_VERSION,
)
from ..ir.rules.laws import DUPLICATE_DEVICE
from ..ir.source import Span
from ..ir.wording import joined_words
from .readers import WordReader
from .syntax import (
    AtomicClassLine,
    AtomicLine,
    CacheLine,
    DemandLine,
    DeviceLine,
    Document,
    Header,
    Line,
    LinkLine,
    ModelLine,
    ModuleLine,
    NeverLine,
    OptionLine,
    Path,
    PhaseLine,
    PlaceLine,
    ReserveLine,
    SplitLine,
    TensorLine,
    TieLine,
    TogetherLine,
    UnitLine,
    Word,
    WorkLine,
    WorkloadLine,
)
from .table import TableBuilder

VERSION = "1"


def resolve(document: Document, diagnostics: Diagnostics) -> Plan:
    """Return what a document means; mistakes go to ``diagnostics`` and their lines are left out."""
    last = document.lines[-1].span if document.lines else None
    resolver = _Resolver(diagnostics, len(last.source.text) if last is not None else 0)
    for line in document.lines:
        resolver.read(line)
    return resolver.plan()


@dataclass
class _Resolver:
    diagnostics: Diagnostics
    length: int
    model: Model | None = None
    devices: dict[str, Device] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    workload: Workload | None = None
    caches: list[Cache] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)
    option_spans: dict[str, Span] = field(default_factory=dict)
    constraints: list[Constraint] = field(default_factory=list)
    ties: list[TieGroup] = field(default_factory=list)
    reserves: list[Reserve] = field(default_factory=list)
    demands: list[Demand] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)
    units: list[Unit] = field(default_factory=list)
    once: dict[str, Span | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reader = WordReader(self.diagnostics, self.length)
        self.table = TableBuilder(self.reader, self.diagnostics)

    def plan(self) -> Plan:
        """Return the plan of everything read so far."""
        for warning in _never_winning(self.units):
            self.diagnostics.add(warning)
        return Plan(
            model=self.model or Model(""),
            devices=tuple(self.devices.values()),
            options=tuple(sorted(self.options.items())),
            option_spans=self.option_spans,
            constraints=tuple(self.constraints),
            ties=tuple(self.ties),
            reserves=tuple(self.reserves),
            demands=tuple(self.demands),
            work=tuple(self.work),
            units=tuple(self.units),
            tree=self.table.tree(self.ties),
            links=tuple(self.links),
            workload=self.workload,
            caches=tuple(self.caches),
        )

    def read(self, line: Line) -> None:
        """Take in one line."""
        statement, span = line.statement, line.span
        match statement:
            case Header() | ModelLine() | OptionLine():
                self._head(statement, span)
            case DeviceLine():
                self._device(statement, span)
            case AtomicClassLine() | AtomicLine() | SplitLine() | NeverLine() | TogetherLine() | PhaseLine():
                self.constraints += self._constraint(statement, span)
            case TieLine():
                self.ties += self._tie(statement, span)
            case ReserveLine() | CacheLine() | DemandLine():
                self._bytes(statement, span)
            case LinkLine() | WorkloadLine() | WorkLine():
                self._speed(statement, span)
            case UnitLine() | PlaceLine():
                self.units += self._unit(statement, span)
            case ModuleLine() | TensorLine():
                self.table.read(statement, span)
            case _:
                assert_never(statement)

    def _first(self, what: str, span: Span | None) -> bool:
        """Say whether ``what`` stands here for the first time; report it otherwise."""
        if what not in self.once:
            self.once[what] = span
            return True
        here, there = _label(span, "again"), _label(self.once[what], "first here")
        message = f"{what} is given twice"
        either = line_removed(self.once[what], span)
        self.diagnostics.add(
            Diagnostic(
                REPEATED_LINE, message, here, (there,) if there else (), help="keep one of them", fixes=either
            )
        )
        return False

    def _head(self, statement: Header | ModelLine | OptionLine, span: Span | None) -> None:
        match statement:
            case Header(version):
                self._first("`plan`", span)
                if version.text != VERSION:
                    message = f"this text is version {version.text[:20]} of the language, version 1 is read"
                    hint = "install the release that wrote it, or write `plan 1`"
                    at = _label(version.span, "not 1")
                    fixes = line_written(span, f"plan {VERSION}")
                    self.diagnostics.add(Diagnostic(UNSUPPORTED_VERSION, message, at, help=hint, fixes=fixes))
            case ModelLine(name, digest):
                if self._first("`model`", span):
                    self.model = Model(name.text, digest.text if digest else None)
            case OptionLine(name, value):
                if self._first(f"option `{name.text}`", span):
                    self.options[name.text] = value.text
                    self.option_spans |= {} if span is None else {name.text: span}
            case _:
                assert_never(statement)

    def _device(self, line: DeviceLine, span: Span | None) -> None:
        for written in self.reader.expand(Path(line.name.text, span=line.name.span)):
            name = self.reader.device(Word(written, line.name.span))
            if name is None:
                return
            if name in self.devices:
                there = _label(self.devices[name].span, "declared here")
                message = f"device `{name}` is declared twice"
                self.diagnostics.add(
                    Diagnostic(DUPLICATE_DEVICE, message, _label(span, "declared again"),
                               (there,) if there else (), help="keep one line", about=name,
                               fixes=line_removed(self.devices[name].span, span))
                )  # fmt: skip
                return
            self.devices[name], reserve = self.reader.attributes(line, name, span)
            if reserve is not None:
                self._reserve(Reserve(reserve, name, span=span), span)

    def _speed(self, line: LinkLine | WorkloadLine | WorkLine, span: Span | None) -> None:
        match line:
            case LinkLine():
                self._link(line, span)
            case WorkloadLine():
                self._workload(line, span)
            case WorkLine():
                self.work += self._work(line, span)
            case _:
                assert_never(line)

    def _link(self, line: LinkLine, span: Span | None) -> None:
        a, b, rate = self.reader.end(line.a), self.reader.end(line.b), self.reader.rate(line.rate)
        latency = None if line.latency is None else self.reader.time(line.latency)
        if a is None or b is None or rate is None:
            return
        if self._first(f"the link of `{min(a, b)}` and `{max(a, b)}`", span):
            self.links.append(Link(a, b, rate, latency, span))

    def _workload(self, line: WorkloadLine, span: Span | None) -> None:
        words = (line.rows, line.prompt, line.tokens)
        rows, prompt, tokens = (0 if word is None else self.reader.count(word) for word in words)
        if rows is None or prompt is None or tokens is None or not self._first("`workload`", span):
            return
        if not rows or not (prompt or tokens):
            message = f"a workload of {rows} rows with {prompt + tokens} tokens does nothing"
            usual = "workload rows 1 prompt 512 tokens 128"
            self.diagnostics.add(
                Diagnostic(
                    MALFORMED_NUMBER, message, _label(span, "here"),
                    help=f"write `{usual}`", fixes=line_written(span, usual),
                )
            )  # fmt: skip
            return
        self.workload = Workload(line.kind, rows, prompt, tokens, line.added, span)

    def _constraint(
        self,
        statement: AtomicClassLine | AtomicLine | SplitLine | NeverLine | TogetherLine | PhaseLine,
        span: Span | None,
    ) -> Iterator[Constraint]:
        expand, added = self.reader.expand, statement.added
        match statement:
            case AtomicClassLine(name):
                yield Atomic(name.text, by_class=True, added=added, span=span)
            case AtomicLine(path):
                yield from (Atomic(each, added=added, span=span) for each in expand(path))
            case SplitLine(path):
                yield from (Split(each, added, span) for each in expand(path))
            case NeverLine(path, word):
                device = word.text if word.text in WAYS else self.reader.device(word)
                if device is not None:
                    yield from (Never(each, device, added, span) for each in expand(path))
            case TogetherLine(paths):
                yield Together(tuple(each for path in paths for each in expand(path)), added, span)
            case PhaseLine(paths):
                yield Phase(tuple(each for path in paths for each in expand(path)), added, span)
            case _:
                assert_never(statement)

    def _tie(self, line: TieLine, span: Span | None) -> Iterator[TieGroup]:
        """One side ties all it names; several sides are tied member by member."""
        sides = [self.reader.expand(path) for path in line.paths]
        if not all(sides):
            return
        groups = [tuple(sides[0])] if len(sides) == 1 else list(zip(*sides, strict=False))
        counts = {len(side) for side in sides}
        if len(counts) > 1 or len(groups[0]) < 2:
            many = joined_words([str(len(side)) for side in sides])
            self.diagnostics.add(
                Diagnostic(
                    MALFORMED_PATTERN,
                    f"a tie joins at least two tensors, its sides equally many; these name {many}",
                    _label(span, "here"),
                    help="write `tie a.weight = b.weight`",
                )
            )
            return
        yield from (TieGroup(group, span) for group in groups)

    def _bytes(self, statement: ReserveLine | CacheLine | DemandLine, span: Span | None) -> None:
        nbytes, added = self.reader.size(statement.size), statement.added
        match statement:
            case ReserveLine(_, word, purpose):
                device = self.reader.device(word)
                if device is not None and nbytes is not None:
                    text = purpose.text if purpose else ""
                    self._reserve(Reserve(nbytes, device, text, added, span), span)
            case CacheLine(_, written, word):
                device = self.reader.device(word)
                patterns = tuple(each for path in written for each in self.reader.expand(path))
                if device is not None and nbytes is not None and patterns:
                    self.caches.append(Cache(nbytes, patterns, device, added, span))
            case DemandLine(_, path, purpose):
                if nbytes is not None:
                    paths = self.reader.expand(path)
                    self.demands += (Demand(nbytes, each, purpose.text, added, span) for each in paths)
            case _:
                assert_never(statement)

    def _reserve(self, reserve: Reserve, span: Span | None) -> None:
        """Keep a reserve; what a compile added may stand beside what a person wrote."""
        whose = "a compile's" if reserve.added else "the"
        purpose = f" for `{reserve.purpose}`" if reserve.purpose else ""
        if self._first(f"{whose} reserve{purpose} on `{reserve.device}`", span):
            self.reserves.append(reserve)

    def _work(self, line: WorkLine, span: Span | None) -> Iterator[Work]:
        flops = self.reader.count(line.flops)
        tokens = 0 if line.tokens is None else self.reader.count(line.tokens)
        launches = 0 if line.launches is None else self.reader.count(line.launches)
        if flops is not None and tokens is not None and launches is not None:
            yield from (Work(flops, each, tokens, launches, span) for each in self.reader.expand(line.path))

    def _unit(self, statement: UnitLine | PlaceLine, span: Span | None) -> Iterator[Unit]:
        match statement:
            case UnitLine(path):
                yield from (Unit(each, span=span) for each in self.reader.expand(path))
            case PlaceLine(path, store_word, run_word, by_rows, added):
                store, run = self._places(store_word, run_word)
                if store is not None and run is not None:
                    reason = Reason.ADDED if added else Reason.WRITTEN
                    for each in self.reader.expand(path):
                        yield Unit(each, store, run, reason, by_rows, span)
            case _:
                assert_never(statement)

    def _places(self, store: Word, run: Word | None) -> tuple[str | None, str | None]:
        stored = self.reader.device(store)
        return stored, stored if run is None else self.reader.device(run)


def _label(span: Span | None, text: str) -> Label | None:
    return None if span is None else Label(span, text)


def _never_winning(units: list[Unit]) -> Iterator[Diagnostic]:
    """Find lines whose every path a later line decides."""
    winner = {unit.path: unit for unit in units}
    if len(winner) == len(units):
        return
    decides = {unit.span.start for unit in winner.values() if unit.span}
    for unit in units:
        span, later = unit.span, winner[unit.path].span
        if span is None or later is None or span.start in decides:
            continue
        decides.add(span.start)
        yield Diagnostic(
            LINE_NEVER_WINS,
            f"this line for `{unit.path or '.'}` decides nothing",
            Label(span, "never wins"),
            (Label(later, "this line decides"),),
            help="remove the line",
            about=unit.path,
            fixes=line_removed(span),
        )
