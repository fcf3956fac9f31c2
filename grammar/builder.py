"""One line's words to a statement. The grammar has checked their order; here they get their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from ..ir import Role, Source, Span
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
    Path,
    PlaceLine,
    ReserveLine,
    SplitLine,
    Statement,
    TensorLine,
    TieLine,
    TogetherLine,
    UnitLine,
    Word,
    WorkLine,
    WorkloadLine,
)
from .words import ROOT, is_bare, unquote


class Token(NamedTuple):
    """A word of one line: the name of its terminal, its text, and where in the line it is."""

    type: str
    text: str
    start: int
    end: int


class MalformedWordError(Exception):
    """A quoted word with an escape that means nothing."""

    def __init__(self, token: Token) -> None:
        super().__init__(token.text)
        self.token = token


class _Words:
    """The words of a line behind the keyword, taken one after the other."""

    def __init__(self, tokens: list[Token], source: Source, start: int) -> None:
        self._tokens = tokens
        self._source = source
        self._start = start
        self._at = 0

    @property
    def left(self) -> bool:
        """Say whether words are left."""
        return self._at < len(self._tokens)

    def take(self) -> Token:
        """Take the next word as it is."""
        self._at += 1
        return self._tokens[self._at - 1]

    def next_is(self, *types: str) -> bool:
        """Say whether the next word is of one of these types."""
        return self.left and self._tokens[self._at].type in types

    def skip(self, kind: str) -> bool:
        """Take the next word if it is of this type."""
        if not self.next_is(kind):
            return False
        self._at += 1
        return True

    def word(self) -> Word:
        """Take a name, a number or a device."""
        token = self.take()
        text = _unquoted(token) if token.type == "STRING" else token.text
        return Word(text, self._span(token))

    def size(self) -> Word | None:
        """Take a number if one is next."""
        return self.word() if self.next_is("NUMBER") else None

    def path(self) -> Path:
        """Take a path or pattern."""
        token = self.take()
        if token.type == "STRING":
            text = _unquoted(token)
            return Path(text, not is_bare(text), self._span(token))
        text = "" if token.text == ROOT else token.text
        return Path(text, literal=False, span=self._span(token))

    def _span(self, token: Token) -> Span:
        return Span(self._source, self._start + token.start, self._start + token.end)


def _unquoted(token: Token) -> str:
    text = unquote(token.text)
    if text is None:
        raise MalformedWordError(token)
    return text


def build(tokens: list[Token], source: Source, start: int) -> Statement:
    """Build the statement of one line; ``start`` is the offset of the line in the text."""
    words = _Words(tokens, source, start)
    return _BUILDERS[words.take().type](words)


def _model(words: _Words) -> ModelLine:
    return ModelLine(words.word(), words.word() if words.skip("DIGEST") else None)


def _device(words: _Words) -> DeviceLine:
    name = words.word()
    attributes: list[Attribute] = []
    while words.left:
        keyword = words.take().text
        dtype = words.word() if words.next_is("DTYPE") else None
        value = words.word()
        attributes.append(Attribute(keyword, value, words.size() if keyword == "pool" else None, dtype))
    return DeviceLine(name, tuple(attributes))


def _atomic(words: _Words) -> AtomicClassLine | AtomicLine:
    if words.skip("CLASS"):
        return AtomicClassLine(words.word(), words.skip("ADDED"))
    return AtomicLine(words.path(), words.skip("ADDED"))


def _link(words: _Words) -> LinkLine:
    a, b = words.word(), words.word()
    words.skip("RATE")
    return LinkLine(a, b, words.word(), words.word() if words.skip("LATENCY") else None)


def _workload(words: _Words) -> WorkloadLine:
    kind = words.take().text if words.next_is("FORWARD", "LOSS") else "generate"
    words.skip("ROWS")
    rows = words.word()
    prompt = words.word() if words.skip("PROMPT") else None
    words.skip("TOKENS")
    return WorkloadLine(kind, rows, prompt, words.word(), words.skip("ADDED"))


def _cache(words: _Words) -> CacheLine:
    size = words.word()
    words.skip("OF")
    paths = _paths(words)
    words.skip("ON")
    return CacheLine(size, paths, words.word(), words.skip("ADDED"))


def _never(words: _Words) -> NeverLine:
    path = words.path()
    words.skip("ON")
    return NeverLine(path, words.word(), words.skip("ADDED"))


def _paths(words: _Words) -> tuple[Path, ...]:
    paths = [words.path()]
    while words.skip("EQUALS") or words.next_is("PATH", "STRING"):
        paths.append(words.path())
    return tuple(paths)


def _reserve(words: _Words) -> ReserveLine:
    size = words.word()
    words.skip("ON")
    device = words.word()
    return ReserveLine(size, device, words.word() if words.skip("FOR") else None, words.skip("ADDED"))


def _demand(words: _Words) -> DemandLine:
    size = words.word()
    words.skip("WITH")
    path = words.path()
    words.skip("FOR")
    return DemandLine(size, path, words.word(), words.skip("ADDED"))


def _work(words: _Words) -> WorkLine:
    flops = words.word()
    words.skip("WITH")
    return WorkLine(flops, words.path(), words.word() if words.skip("TOKENS") else None)


def _place(words: _Words) -> PlaceLine:
    path = words.path()
    words.skip("ON")
    store = words.word()
    if not words.skip("RUN"):
        return PlaceLine(path, store)
    words.skip("ON")
    run = words.word()
    return PlaceLine(path, store, run, words.skip("BY") and words.skip("ROWS"))


def _module(words: _Words) -> ModuleLine:
    path = words.path()
    words.skip("COLON")
    return ModuleLine(path, words.word(), words.size())


def _tensor(words: _Words, role: Role) -> TensorLine:
    path = words.path()
    words.skip("COLON")
    kind, size = words.word(), words.size()
    if words.skip("TRANSIENT"):
        role = Role.TRANSIENT
    return TensorLine(role, path, kind, size, words.path() if words.skip("SHARES") else None)


_BUILDERS: Final[dict[str, Callable[[_Words], Statement]]] = {
    "PLAN": lambda words: Header(words.word()),
    "MODEL": _model,
    "OPTION": lambda words: OptionLine(words.word(), words.word()),
    "DEVICE": _device,
    "ATOMIC": _atomic,
    "LINK": _link,
    "WORKLOAD": _workload,
    "CACHE": _cache,
    "SPLIT": lambda words: SplitLine(words.path(), words.skip("ADDED")),
    "NEVER": _never,
    "TOGETHER": lambda words: TogetherLine(_paths(words), words.skip("ADDED")),
    "TIE": lambda words: TieLine(_paths(words)),
    "RESERVE": _reserve,
    "DEMAND": _demand,
    "WORK": _work,
    "UNIT": lambda words: UnitLine(words.path()),
    "PLACE": _place,
    "MODULE": _module,
    "PARAMETER": lambda words: _tensor(words, Role.PARAMETER),
    "BUFFER": lambda words: _tensor(words, Role.BUFFER),
}
