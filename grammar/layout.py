"""Syntax to text: the only code that decides about blanks, for the printer and the formatter alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from ..ir import Role
from .syntax import (
    AtomicClassLine,
    AtomicLine,
    Attribute,
    CacheLine,
    DemandLine,
    DeviceLine,
    Document,
    Header,
    LinkLine,
    ModelLine,
    ModuleLine,
    NeverLine,
    OptionLine,
    Path,
    PlaceLine,
    ReserveLine,
    SplitLine,
    Statement,
    TensorLine,
    TieLine,
    TogetherLine,
    UnitLine,
    WorkLine,
    WorkloadLine,
)
from .words import quote, spell_name, spell_path


def lay_out(document: Document) -> str:
    """Write a document: one statement per line, comments where they were."""
    rows: list[str] = []
    for line in document.lines:
        rows += line.before
        text = " ".join(_words(line.statement))
        rows.append(f"{text}  {line.suffix}" if line.suffix else text)
    rows += document.after
    return "".join(f"{row}\n" for row in rows)


def _words(statement: Statement) -> Iterator[str]:
    match statement:
        case Header() | ModelLine() | OptionLine() | DeviceLine():
            return _head(statement)
        case AtomicClassLine() | AtomicLine() | SplitLine() | NeverLine() | TogetherLine():
            return _rule(statement)
        case TieLine() | WorkLine() | UnitLine() | PlaceLine():
            return _fact(statement)
        case ReserveLine() | CacheLine() | DemandLine():
            return _bytes(statement)
        case LinkLine() | WorkloadLine():
            return _speed(statement)
        case ModuleLine() | TensorLine():
            return _row(statement)
        case _:
            assert_never(statement)


def _head(statement: Header | ModelLine | OptionLine | DeviceLine) -> Iterator[str]:
    match statement:
        case Header(version):
            yield from ("plan", version.text)
        case ModelLine(name, digest):
            yield from ("model", quote(name.text))
            if digest is not None:
                yield from ("digest", spell_name(digest.text))
        case OptionLine(name, value):
            yield from ("option", spell_name(name.text), quote(value.text))
        case DeviceLine(name, attributes):
            yield from ("device", name.text)
            for attribute in attributes:
                yield from _attribute(attribute)
        case _:
            assert_never(statement)


def _attribute(attribute: Attribute) -> Iterator[str]:
    yield attribute.keyword
    if attribute.dtype is not None:
        yield attribute.dtype.text
    match attribute.keyword:
        case "at":
            yield quote(attribute.value.text)
        case "pool":
            yield spell_name(attribute.value.text)
        case _:
            yield attribute.value.text
    if attribute.size is not None:
        yield attribute.size.text


def _rule(statement: AtomicClassLine | AtomicLine | SplitLine | NeverLine | TogetherLine) -> Iterator[str]:
    match statement:
        case AtomicClassLine(name):
            yield from ("atomic", "class", spell_name(name.text))
        case AtomicLine(path):
            yield from ("atomic", spell_path(path))
        case SplitLine(path):
            yield from ("split", spell_path(path))
        case NeverLine(path, device):
            yield from ("never", spell_path(path), "on", device.text)
        case TogetherLine(paths):
            yield from ("together", *map(spell_path, paths))
        case _:
            assert_never(statement)
    yield from _mark(added=statement.added)


def _mark(*, added: bool) -> Iterator[str]:
    if added:
        yield "added"


def _fact(statement: TieLine | WorkLine | UnitLine | PlaceLine) -> Iterator[str]:
    match statement:
        case TieLine(paths):
            yield from ("tie", " = ".join(map(spell_path, paths)))
        case WorkLine(flops, path, tokens):
            yield from ("work", flops.text, "with", spell_path(path))
            if tokens is not None:
                yield from ("tokens", tokens.text)
        case UnitLine(path):
            yield from ("unit", spell_path(path))
        case PlaceLine(path, store, run, by_rows):
            yield from ("place", spell_path(path), "on", store.text)
            if run is not None:
                yield from ("run", "on", run.text)
            if by_rows:
                yield from ("by", "rows")
        case _:
            assert_never(statement)


def _bytes(statement: ReserveLine | CacheLine | DemandLine) -> Iterator[str]:
    match statement:
        case ReserveLine(size, device, purpose):
            yield from ("reserve", size.text, "on", device.text)
            if purpose is not None:
                yield from ("for", quote(purpose.text))
        case CacheLine(size, paths, device):
            yield from ("cache", size.text, "of", *map(spell_path, paths), "on", device.text)
        case DemandLine(size, path, purpose):
            yield from ("demand", size.text, "with", spell_path(path), "for", quote(purpose.text))
        case _:
            assert_never(statement)
    yield from _mark(added=statement.added)


def _speed(statement: LinkLine | WorkloadLine) -> Iterator[str]:
    match statement:
        case LinkLine(a, b, rate, latency):
            yield from ("link", a.text, b.text, "rate", rate.text)
            if latency is not None:
                yield from ("latency", latency.text)
        case WorkloadLine(kind, rows, prompt, tokens, added):
            yield "workload"
            if kind != "generate":
                yield kind
            yield from ("rows", rows.text)
            if prompt is not None:
                yield from ("prompt", prompt.text)
            yield from ("tokens", tokens.text)
            yield from _mark(added=added)
        case _:
            assert_never(statement)


def _row(statement: ModuleLine | TensorLine) -> Iterator[str]:
    match statement:
        case ModuleLine(path, class_name, size):
            yield from ("module", spell_path(path), ":", spell_name(class_name.text))
            if size is not None:
                yield size.text
        case TensorLine(role, path, kind, size, shares):
            keyword = "parameter" if role is Role.PARAMETER else "buffer"
            yield from (keyword, spell_path(path), ":", kind.text)
            yield from _tensor_details(size.text if size else None, role, shares)
        case _:
            assert_never(statement)


def _tensor_details(size: str | None, role: Role, shares: Path | None) -> Iterator[str]:
    if size is not None:
        yield size
    if role is Role.TRANSIENT:
        yield "transient"
    if shares is not None:
        yield from ("shares", spell_path(shares))
