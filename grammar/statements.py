"""Every statement of the language, one row each: its keyword, its node, the words in their order, its form.

The reader of lines, the printer, the messages, the completion and the grammar all follow from these rows;
``python tests/support/shapes_of_grammar.py`` writes what is kept in files (plan.lark among them).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

from ..ir import Role
from .syntax import (
    AtomicClassLine,
    AtomicLine,
    Attribute,
    CacheLine,
    DemandLine,
    DeviceLine,
    Header,
    LinkLine,
    ModelLine,
    ModuleLine,
    NeverLine,
    OptionLine,
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


class Kind(StrEnum):
    """What a word names or measures."""

    PATH = "path"
    DEVICE = "device"
    CLASS = "class"
    NAME = "name"
    TEXT = "text"
    """A name that is always printed between quotes."""
    NUMBER = "number"
    DTYPE = "dtype"
    TENSOR_TYPE = "tensor type"


TERMINALS_OF: Final[dict[Kind, tuple[str, ...]]] = {
    Kind.PATH: ("PATH", "STRING"),
    Kind.DEVICE: ("DEVICE_NAME",),
    Kind.CLASS: ("NAME", "STRING"),
    Kind.NAME: ("NAME", "STRING"),
    Kind.TEXT: ("NAME", "STRING"),
    Kind.NUMBER: ("NUMBER",),
    Kind.DTYPE: ("DTYPE",),
    Kind.TENSOR_TYPE: ("TENSOR_TYPE",),
}


@dataclass(frozen=True, slots=True)
class Slot:
    """One word that becomes a field of the node."""

    field: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of several keywords; which one becomes a field."""

    field: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Many:
    """Words of one kind, at least one, that become a tuple; ``between`` stands between two of them."""

    slot: Slot
    between: str = ""


@dataclass(frozen=True, slots=True)
class Maybe:
    """Words that may be left out together; with a ``flag`` their presence becomes that field."""

    words: tuple[Element, ...]
    flag: str = ""


@dataclass(frozen=True, slots=True)
class Each:
    """Any number of groups, each with a keyword and a node of its own."""

    field: str
    rows: tuple[Row, ...]


Element: TypeAlias = "str | Slot | OneOf | Many | Maybe | Each"


@dataclass(frozen=True, slots=True)
class Row:
    """One statement, or one way to write it."""

    keyword: str
    node: Callable[..., Statement | Attribute]
    words: tuple[Element, ...]
    """What stands behind the keyword."""
    form: str = ""
    """How it is written, for people."""
    fixed: Mapping[str, object] = field(default_factory=dict)
    """Fields that follow from the keyword."""


_PATH, _ADDED = Slot("path", Kind.PATH), Maybe(("added",), "added")
_PATHS, _SIZE = Many(Slot("paths", Kind.PATH)), Slot("size", Kind.NUMBER)
_NAME, _DEVICE, _VALUE = Slot("name", Kind.NAME), Slot("device", Kind.DEVICE), Slot("value", Kind.NUMBER)
_TENSOR = (_PATH, ":", Slot("type", Kind.TENSOR_TYPE), Maybe((_SIZE,)))
_SHARES = Maybe(("shares", Slot("shares", Kind.PATH)))
ATTRIBUTES: Final = (
    *(Row(word, Attribute, (_VALUE,), fixed={"keyword": word})
      for word in ("memory", "margin", "reserve", "bandwidth", "link", "latency")),
    Row("flops", Attribute, (Maybe((Slot("dtype", Kind.DTYPE),)), _VALUE), fixed={"keyword": "flops"}),
    Row("pool", Attribute, (Slot("value", Kind.NAME), Maybe((_SIZE,))), fixed={"keyword": "pool"}),
    Row("at", Attribute, (Slot("value", Kind.TEXT),), fixed={"keyword": "at"}),
)  # fmt: skip
STATEMENTS: Final = (
    # the file and what it is for
    Row("plan", Header, (Slot("version", Kind.NUMBER),), "plan 1"),
    Row("model", ModelLine, (Slot("name", Kind.TEXT), Maybe(("digest", Slot("digest", Kind.NAME)))),
        'model "NAME" digest DIGEST'),
    Row("option", OptionLine, (_NAME, Slot("value", Kind.TEXT)), 'option NAME "VALUE"'),
    # places with memory, what joins them, what they are for
    Row("device", DeviceLine, (Slot("name", Kind.DEVICE), Each("attributes", ATTRIBUTES)),
        "device NAME memory SIZE"),
    Row("link", LinkLine,
        (Slot("a", Kind.DEVICE), Slot("b", Kind.DEVICE), "rate", Slot("rate", Kind.NUMBER),
         Maybe(("latency", Slot("latency", Kind.NUMBER)))),
        "link NAME NAME rate RATE latency TIME"),
    Row("workload", WorkloadLine,
        ("rows", Slot("rows", Kind.NUMBER), "prompt", Slot("prompt", Kind.NUMBER),
         "tokens", Slot("tokens", Kind.NUMBER), _ADDED),
        "workload rows COUNT prompt COUNT tokens COUNT", {"kind": "generate"}),
    Row("workload", WorkloadLine,
        (OneOf("kind", ("forward", "loss")), "rows", Slot("rows", Kind.NUMBER),
         "tokens", Slot("tokens", Kind.NUMBER), _ADDED),
        "workload forward rows COUNT tokens COUNT"),
    # rules for the solver; `added` marks what a compile added
    Row("atomic", AtomicLine, (_PATH, _ADDED), "atomic PATTERN"),
    Row("atomic", AtomicClassLine, ("class", Slot("name", Kind.CLASS), _ADDED), "atomic class NAME"),
    Row("split", SplitLine, (_PATH, _ADDED), "split PATTERN"),
    Row("never", NeverLine, (_PATH, "on", _DEVICE, _ADDED), "never PATTERN on DEVICE"),
    Row("together", TogetherLine, (_PATHS, _ADDED), "together PATTERN PATTERN"),
    Row("reserve", ReserveLine,
        (_SIZE, "on", _DEVICE, Maybe(("for", Slot("purpose", Kind.TEXT))), _ADDED),
        'reserve SIZE on DEVICE for "PURPOSE"'),
    Row("cache", CacheLine, (_SIZE, "of", _PATHS, "on", _DEVICE, _ADDED), "cache SIZE of PATTERN on DEVICE"),
    Row("demand", DemandLine, (_SIZE, "with", _PATH, "for", Slot("purpose", Kind.TEXT), _ADDED),
        'demand SIZE with PATH for "PURPOSE"'),
    Row("work", WorkLine,
        (Slot("flops", Kind.NUMBER), "with", _PATH, Maybe(("tokens", Slot("tokens", Kind.NUMBER)))),
        "work COUNT with PATH tokens COUNT"),
    # facts and decisions
    Row("tie", TieLine, (Many(Slot("paths", Kind.PATH), "="),), "tie PATH = PATH"),
    Row("unit", UnitLine, (_PATH,), "unit PATH"),
    Row("place", PlaceLine,
        (_PATH, "on", Slot("store", Kind.DEVICE),
         Maybe(("run", "on", Slot("run", Kind.DEVICE), Maybe(("by", "rows"), "by_rows")))),
        "place PATTERN on DEVICE` or `place PATTERN on DEVICE run on DEVICE by rows"),
    # the module table
    Row("module", ModuleLine, (_PATH, ":", Slot("class_name", Kind.CLASS), Maybe((_SIZE,))),
        "module PATH : CLASS"),
    Row("parameter", TensorLine, (*_TENSOR, _SHARES), "parameter PATH : DTYPE[SHAPE] SIZE",
        {"role": Role.PARAMETER}),
    Row("buffer", TensorLine, (*_TENSOR, Maybe(("transient",), "transient"), _SHARES),
        "buffer PATH : DTYPE[SHAPE] SIZE transient", {"role": Role.BUFFER}),
)  # fmt: skip
MARKS: Final = {":": "COLON", "=": "EQUALS"}


def _forms() -> dict[str, str]:
    forms: dict[str, list[str]] = {}
    for row in sorted(STATEMENTS, key=lambda row: row.keyword):
        forms.setdefault(row.keyword, []).append(row.form)
    return {keyword: "` or `".join(found) for keyword, found in forms.items()}


FORMS: Final = _forms()
"""How each statement is written, by keyword."""


def terminal(word: str) -> str:
    """Return the name of a keyword's or a mark's terminal."""
    return MARKS.get(word, word.upper())


def first_terminals(element: Element) -> tuple[str, ...]:
    """Return what an element may start with."""
    match element:
        case str():
            return (terminal(element),)
        case Slot(_, kind) | Many(Slot(_, kind)):
            return TERMINALS_OF[kind]
        case OneOf(_, words):
            return tuple(map(terminal, words))
        case Maybe(words):
            return first_terminals(words[0])
        case Each(_, rows):
            return tuple(terminal(row.keyword) for row in rows)


def elements(words: tuple[Element, ...]) -> Iterator[str | Slot | OneOf]:
    """Yield the keywords and slots of a row, those inside groups too."""
    for element in words:
        match element:
            case Many(slot, between):
                yield slot
                yield from filter(None, (between,))
            case Maybe(inner):
                yield from elements(inner)
            case Each(_, rows):
                for row in rows:
                    yield row.keyword
                    yield from elements(row.words)
            case _:
                yield element


def _inner_words() -> frozenset[str]:
    found: set[str] = set()
    for row in STATEMENTS:
        for element in elements(row.words):
            found.update(element.words if isinstance(element, OneOf) else ())
            found.update({element} - MARKS.keys() if isinstance(element, str) else ())
    return frozenset(found)


INNER_WORDS: Final = _inner_words()
"""The keywords that stand inside a line."""
