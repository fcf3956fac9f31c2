"""The syntax tree: what was written, word by word, with spans and comments.

Nodes compare by what was written; spans take no part in equality, so formatting can be checked by
comparing trees. A node keeps the spelling of numbers (``10GB`` stays ``10GB``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from ..ir import Role, Span


@dataclass(frozen=True, slots=True)
class Word:
    """A word: a name, a number, a device. Of a quoted one the text between the quotes, decoded."""

    text: str
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Path:
    """A path or pattern. A literal one was quoted because of its characters: its braces do not expand."""

    text: str
    literal: bool = False
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Header:
    """``plan 1``."""

    version: Word


@dataclass(frozen=True, slots=True)
class ModelLine:
    """``model "gpt2" digest 1f0c9a``."""

    name: Word
    digest: Word | None = None


@dataclass(frozen=True, slots=True)
class OptionLine:
    """``option strategy "auto"``."""

    name: Word
    value: Word


@dataclass(frozen=True, slots=True)
class Attribute:
    """A keyword of a device line with its value.

    ``size`` only for ``pool NAME SIZE``, ``dtype`` only for ``flops DTYPE COUNT``.
    """

    keyword: str
    value: Word
    size: Word | None = None
    dtype: Word | None = None


@dataclass(frozen=True, slots=True)
class DeviceLine:
    """``device cuda:0 memory 10GiB``."""

    name: Word
    attributes: tuple[Attribute, ...] = ()


@dataclass(frozen=True, slots=True)
class LinkLine:
    """``link NAME NAME rate RATE latency TIME``."""

    a: Word
    b: Word
    rate: Word
    latency: Word | None = None


@dataclass(frozen=True, slots=True)
class WorkloadLine:
    """``workload rows COUNT prompt COUNT tokens COUNT``; the other kinds are named and have no prompt."""

    kind: str
    rows: Word
    tokens: Word
    prompt: Word | None = None
    added: bool = False


@dataclass(frozen=True, slots=True)
class AtomicClassLine:
    """``atomic class GPT2Block``."""

    name: Word
    added: bool = False


@dataclass(frozen=True, slots=True)
class AtomicLine:
    """``atomic PATTERN``."""

    path: Path
    added: bool = False


@dataclass(frozen=True, slots=True)
class SplitLine:
    """``split PATTERN``."""

    path: Path
    added: bool = False


@dataclass(frozen=True, slots=True)
class NeverLine:
    """``never PATTERN on DEVICE``."""

    path: Path
    device: Word
    added: bool = False


@dataclass(frozen=True, slots=True)
class TogetherLine:
    """``together PATTERN PATTERN``."""

    paths: tuple[Path, ...]
    added: bool = False


@dataclass(frozen=True, slots=True)
class PhaseLine:
    """``phase PATTERN PATTERN``."""

    paths: tuple[Path, ...]
    added: bool = False


@dataclass(frozen=True, slots=True)
class TieLine:
    """``tie PATH = PATH``."""

    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class ReserveLine:
    """``reserve SIZE on DEVICE for "PURPOSE"``."""

    size: Word
    device: Word
    purpose: Word | None = None
    added: bool = False


@dataclass(frozen=True, slots=True)
class CacheLine:
    """``cache SIZE of PATTERN on DEVICE``."""

    size: Word
    paths: tuple[Path, ...]
    device: Word
    added: bool = False


@dataclass(frozen=True, slots=True)
class DemandLine:
    """``demand SIZE with PATH for "PURPOSE"``."""

    size: Word
    path: Path
    purpose: Word
    added: bool = False


@dataclass(frozen=True, slots=True)
class WorkLine:
    """``work COUNT with PATH tokens COUNT launches COUNT``."""

    flops: Word
    path: Path
    tokens: Word | None = None
    launches: Word | None = None


@dataclass(frozen=True, slots=True)
class UnitLine:
    """``unit PATH``: a unit without a place."""

    path: Path


@dataclass(frozen=True, slots=True)
class PlaceLine:
    """``place PATTERN on DEVICE run on DEVICE by rows added``."""

    path: Path
    store: Word
    run: Word | None = None
    by_rows: bool = False
    added: bool = False


@dataclass(frozen=True, slots=True)
class ModuleLine:
    """``module PATH : CLASS``; with a size the module has one weight of that many bytes."""

    path: Path
    class_name: Word
    size: Word | None = None


@dataclass(frozen=True, slots=True)
class TensorLine:
    """``parameter PATH : DTYPE[SHAPE] SIZE``, and ``buffer`` likewise."""

    role: Role
    path: Path
    type: Word
    size: Word | None = None
    shares: Path | None = None
    transient: bool = False


Statement: TypeAlias = (
    Header
    | ModelLine
    | OptionLine
    | DeviceLine
    | LinkLine
    | WorkloadLine
    | AtomicClassLine
    | AtomicLine
    | SplitLine
    | NeverLine
    | TogetherLine
    | PhaseLine
    | TieLine
    | ReserveLine
    | CacheLine
    | DemandLine
    | WorkLine
    | UnitLine
    | PlaceLine
    | ModuleLine
    | TensorLine
)


@dataclass(frozen=True, slots=True)
class Line:
    """A statement with its comments: lines above it (``""`` is a blank one) and one behind it."""

    statement: Statement
    before: tuple[str, ...] = ()
    suffix: str = ""
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Document:
    """A whole text; ``after`` are the comments behind the last statement."""

    lines: tuple[Line, ...] = ()
    after: tuple[str, ...] = ()
