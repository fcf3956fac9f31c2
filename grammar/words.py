"""How names, paths and numbers are spelled in a text, both ways.

A path is bare when it holds only letters, digits, ``_``, ``-``, ``*`` and dots; any other is quoted.
The root of a model is a single dot. Quotes take away the meaning of braces, not that of wildcards.
"""

from __future__ import annotations

import re
from typing import Final

from ..ir import exact_size, parse_size
from .syntax import Path

_BARE_PATH: Final = re.compile(r"[\w\-*]+(?:\.[\w\-*]+)*")
_BARE_NAME: Final = re.compile(r"[\w\-.]+")
_ESCAPE: Final = re.compile(r"\\(?:u\{([0-9a-fA-F]{1,6})\}|(.))", re.DOTALL)
_NAMED: Final = {"n": "\n", "t": "\t", "r": "\r"}
_SPELLED: Final = {"\n": "\\n", "\t": "\\t", "\r": "\\r", '"': '\\"', "\\": "\\\\"}
_COUNT: Final = re.compile(r"(\d{1,30}(?:\.\d{1,30})?)([KMGTPE]?)")
_PREFIXES: Final = "KMGTPE"
_TAKEN: Final = frozenset({"added", "class", "on"})
"""Keywords that may stand where a path may."""
_TIMES: Final = (("s", 10**9), ("ms", 10**6), ("us", 10**3), ("ns", 1))
_TIME: Final = re.compile(r"(\d{1,30})(?:\.(\d{1,9}))?(ns|us|ms|s)")
ROOT: Final = "."


def quote(text: str) -> str:
    """Write a text between quotes; what cannot be seen is escaped."""
    return f'"{"".join(_SPELLED.get(char) or _visible(char) for char in text)}"'


def _visible(char: str) -> str:
    return char if char.isprintable() else f"\\u{{{ord(char):x}}}"


def unquote(text: str) -> str | None:
    """Read a quoted text, quotes included; None when an escape in it means nothing."""
    body = text[1:-1]
    if "\\" not in body:
        return body
    broken = False

    def plain(match: re.Match[str]) -> str:
        nonlocal broken
        if match[1] is not None:
            code = int(match[1], 16)
            broken |= code > 0x10FFFF
            return "" if broken else chr(code)
        broken |= match[2] not in 'ntr"\\'
        return _NAMED.get(match[2], match[2])

    read = _ESCAPE.sub(plain, body)
    return None if broken else read


def spell_name(text: str) -> str:
    """Write a name bare where that is possible, else between quotes."""
    return text if _BARE_NAME.fullmatch(text) else quote(text)


def spell_path(path: Path) -> str:
    """Write a path: the root as a dot, a literal one between quotes."""
    if path.literal:
        return quote(path.text)
    return path.text or ROOT


def path_of(text: str) -> Path:
    """Return the syntax of a path whose text stands for itself, as in a plan."""
    return Path(text, literal=not is_bare(text))


def is_bare(text: str) -> bool:
    """Say whether a path reads back as itself without quotes; the root counts, some keywords do not."""
    return not text or (text not in _TAKEN and _BARE_PATH.fullmatch(text) is not None)


def parse_rate(text: str) -> int | None:
    """Read bytes per second, ``900GB/s``."""
    return parse_size(text.removesuffix("/s")) if text.endswith("/s") else None


def exact_rate(rate: int) -> str:
    """Write bytes per second so that `parse_rate` reads the same number, in decimal units if possible."""
    for power in range(5, 0, -1):
        scale = 1000**power
        for digits in (1, 10):
            if rate >= scale and rate * digits % scale == 0:
                return f"{_decimal(rate * digits // scale, digits)}{_PREFIXES[power - 1]}B/s"
    return f"{exact_size(rate)}/s"


def parse_time(text: str) -> int | None:
    """Read nanoseconds, ``80us``; None when it is no time, has parts of one, or exceeds 2**63-1."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    part = match[2] or ""
    value, rest = divmod(int(match[1] + part) * dict(_TIMES)[match[3]], 10 ** len(part))
    return value if not rest and value < 2**63 else None


def exact_time(nanoseconds: int) -> str:
    """Write nanoseconds so that `parse_time` reads the same number, in the largest whole unit."""
    unit, scale = next((each for each in _TIMES if nanoseconds and nanoseconds % each[1] == 0), _TIMES[-1])
    return f"{nanoseconds // scale}{unit}"


def parse_count(text: str) -> int | None:
    """Read a decimal count, ``312T``; None when it is none or exceeds 2**63-1."""
    match = _COUNT.fullmatch(text)
    if match is None:
        return None
    whole, _, part = match[1].partition(".")
    scale = 1000 ** (_PREFIXES.find(match[2]) + 1 if match[2] else 0)
    count = int(whole + part) * scale // 10 ** len(part)
    return count if count < 2**63 else None


def exact_count(count: int) -> str:
    """Write a count so that `parse_count` reads the same number: in its largest unit, with all digits."""
    power = min((len(str(count)) - 1) // 3, len(_PREFIXES))
    if power == 0:
        return str(count)
    whole, part = divmod(count, 1000**power)
    digits = f"{part:0{3 * power}}".rstrip("0")
    return f"{whole}.{digits}{_PREFIXES[power - 1]}" if digits else f"{whole}{_PREFIXES[power - 1]}"


def _decimal(value: int, digits: int) -> str:
    whole, tenth = divmod(value, digits)
    return f"{whole}.{tenth}" if tenth else str(whole)
