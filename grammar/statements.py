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
    PhaseLine,
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
class Field:
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

    slot: Field
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
    rows: tuple[Way, ...]


Element: TypeAlias = "str | Field | OneOf | Many | Maybe | Each"


@dataclass(frozen=True, slots=True)
class Way:
    """One way to write a statement; most have one."""

    keyword: str
    node: Callable[..., Statement | Attribute]
    words: tuple[Element, ...]
    """What stands behind the keyword."""
    form: str = ""
    """How it is written, for people."""
    fixed: Mapping[str, object] = field(default_factory=dict)
    """Fields that follow from the keyword."""


_PATH, _ADDED = Field("path", Kind.PATH), Maybe(("added",), "added")
_PATHS, _SIZE = Many(Field("paths", Kind.PATH)), Field("size", Kind.NUMBER)
_NAME, _DEVICE, _VALUE = Field("name", Kind.NAME), Field("device", Kind.DEVICE), Field("value", Kind.NUMBER)
_TENSOR = (_PATH, ":", Field("type", Kind.TENSOR_TYPE), Maybe((_SIZE,)))
_SHARES = Maybe(("shares", Field("shares", Kind.PATH)))
ATTRIBUTES: Final = (
    *(Way(word, Attribute, (_VALUE,), fixed={"keyword": word})
      for word in ("memory", "margin", "reserve", "bandwidth", "few", "link", "latency", "launch")),
    Way("flops", Attribute, (Maybe((Field("dtype", Kind.DTYPE),)), _VALUE), fixed={"keyword": "flops"}),
    Way("pool", Attribute, (Field("value", Kind.NAME), Maybe((_SIZE,))), fixed={"keyword": "pool"}),
    Way("at", Attribute, (Field("value", Kind.TEXT),), fixed={"keyword": "at"}),
)  # fmt: skip
STATEMENTS: Final = (
    # the file and what it is for
    Way("plan", Header, (Field("version", Kind.NUMBER),), "plan 1"),
    Way("model", ModelLine, (Field("name", Kind.TEXT), Maybe(("digest", Field("digest", Kind.NAME)))),
        'model "NAME" digest DIGEST'),
    Way("option", OptionLine, (_NAME, Field("value", Kind.TEXT)), 'option NAME "VALUE"'),
    # places with memory, what joins them, what they are for
    Way("device", DeviceLine, (Field("name", Kind.DEVICE), Each("attributes", ATTRIBUTES)),
        "device NAME memory SIZE"),
    Way("link", LinkLine,
        (Field("a", Kind.DEVICE), Field("b", Kind.DEVICE), "rate", Field("rate", Kind.NUMBER),
         Maybe(("latency", Field("latency", Kind.NUMBER)))),
        "link NAME NAME rate RATE latency TIME"),
    Way("workload", WorkloadLine,
        ("rows", Field("rows", Kind.NUMBER), "prompt", Field("prompt", Kind.NUMBER),
         "tokens", Field("tokens", Kind.NUMBER), _ADDED),
        "workload rows COUNT prompt COUNT tokens COUNT", {"kind": "generate"}),
    Way("workload", WorkloadLine,
        (OneOf("kind", ("forward", "loss", "train")), "rows", Field("rows", Kind.NUMBER),
         "tokens", Field("tokens", Kind.NUMBER), _ADDED),
        "workload forward rows COUNT tokens COUNT"),
    # rules for the solver; `added` marks what a compile added
    Way("atomic", AtomicLine, (_PATH, _ADDED), "atomic PATTERN"),
    Way("atomic", AtomicClassLine, ("class", Field("name", Kind.CLASS), _ADDED), "atomic class NAME"),
    Way("split", SplitLine, (_PATH, _ADDED), "split PATTERN"),
    Way("never", NeverLine, (_PATH, "on", _DEVICE, _ADDED), "never PATTERN on DEVICE"),
    Way("together", TogetherLine, (_PATHS, _ADDED), "together PATTERN PATTERN"),
    Way("phase", PhaseLine, (_PATHS, _ADDED), "phase PATTERN PATTERN"),
    Way("reserve", ReserveLine,
        (_SIZE, "on", _DEVICE, Maybe(("for", Field("purpose", Kind.TEXT))), _ADDED),
        'reserve SIZE on DEVICE for "PURPOSE"'),
    Way("cache", CacheLine, (_SIZE, "of", _PATHS, "on", _DEVICE, _ADDED), "cache SIZE of PATTERN on DEVICE"),
    Way("demand", DemandLine, (_SIZE, "with", _PATH, "for", Field("purpose", Kind.TEXT), _ADDED),
        'demand SIZE with PATH for "PURPOSE"'),
    Way("work", WorkLine,
        (Field("flops", Kind.NUMBER), "with", _PATH, Maybe(("tokens", Field("tokens", Kind.NUMBER))),
         Maybe(("launches", Field("launches", Kind.NUMBER)))),
        "work COUNT with PATH tokens COUNT launches COUNT"),
    # facts and decisions
    Way("tie", TieLine, (Many(Field("paths", Kind.PATH), "="),), "tie PATH = PATH"),
    Way("unit", UnitLine, (_PATH,), "unit PATH"),
    Way("place", PlaceLine,
        (_PATH, "on", Field("store", Kind.DEVICE),
         Maybe(("run", "on", Field("run", Kind.DEVICE), Maybe(("by", "rows"), "by_rows"))), _ADDED),
        "place PATTERN on DEVICE` or `place PATTERN on DEVICE run on DEVICE by rows"),
    # the module table
    Way("module", ModuleLine, (_PATH, ":", Field("class_name", Kind.CLASS), Maybe((_SIZE,))),
        "module PATH : CLASS"),
    Way("parameter", TensorLine, (*_TENSOR, _SHARES), "parameter PATH : DTYPE[SHAPE] SIZE",
        {"role": Role.PARAMETER}),
    Way("buffer", TensorLine, (*_TENSOR, Maybe(("transient",), "transient"), _SHARES),
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
        case Field(_, kind) | Many(Field(_, kind)):
            return TERMINALS_OF[kind]
        case OneOf(_, words):
            return tuple(map(terminal, words))
        case Maybe(words):
            return first_terminals(words[0])
        case Each(_, rows):
            return tuple(terminal(row.keyword) for row in rows)


def elements(words: tuple[Element, ...]) -> Iterator[str | Field | OneOf]:
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
