"""What a line that cannot be read may mean: the lines its writer may have wanted, the likeliest first.

Whoever asks keeps the first that reads. A guess adds, exchanges or joins words; no name or size is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from ..ir import parse_size, read_device_name

_PAIR: Final = re.compile(r'[{\s]*"?([\w.*{},-]+)"?\s*(?:[:=]|->)\s*"?([\w:/]+)"?[\s,}]*')
_SLICE: Final = re.compile(r"\[(\d{0,9}):(\d{1,9})\]")
_INDEX: Final = re.compile(r"\[(\d{1,9})\]")
_APART: Final = re.compile(r"\b(\d+(?:\.\d+)?)\s+([KMGTP]i?B)\b", re.IGNORECASE)
_FORBIDDING: Final = frozenset({"avoid", "ban", "exclude", "forbid", "no", "not", "prevent"})
_BETWEEN: Final = frozenset({"on", "to", "in", "onto", "at", "from", "=", ":", "->"})
_MARKS: Final = ("//", "--", ";", "/*", "%", "'")
"""What starts a comment elsewhere."""


def comment(row: str) -> str | None:
    """Return a line that is a comment elsewhere as one here."""
    text = row.strip()
    mark = next((each for each in _MARKS if text.startswith(each)), None)
    return None if mark is None else f"# {text.removeprefix(mark).removesuffix('*/').strip()}".rstrip()


def statements(row: str) -> Iterator[str]:
    """Yield statements that a line without a known keyword may mean."""
    text = row.partition("#")[0].strip().rstrip(";,")
    pair = _PAIR.fullmatch(text)
    device = read_device_name(pair[2]) if pair else None
    if pair and device:
        yield f"place {pair[1]} on {device}"
    verb, *words = text.split() or [""]
    named = [word for word in words if word.lower() not in _BETWEEN]
    device = read_device_name(named[-1].lower()) if named else None
    if len(named) == 2 and device is not None:
        keyword = "never" if verb.lower().rstrip(":") in _FORBIDDING else "place"
        yield f"{keyword} {named[0]} on {device}"
    if named[1:] in (["whole"], ["together"]):
        yield f"atomic {named[0]}"


def repaired(row: str) -> Iterator[str]:
    """Yield lines that a line with a known keyword may mean."""
    text = row.partition("#")[0].strip()
    dotted = _INDEX.sub(r".\1", _SLICE.sub(_range, text))
    if dotted != text:
        yield dotted
    keyword, *words = _APART.sub(r"\1\2", text).replace("=", " ").split()
    if keyword == "device" and len(words) >= 2:
        said = [word for word in words[1:] if word != ":"]
        yield " ".join((keyword, words[0].rstrip(":"), "memory", *said))
        yield " ".join((keyword, words[0].rstrip(":"), *said))
    if keyword == "reserve":
        yield from _size_first(keyword, words)


def _range(found: re.Match[str]) -> str:
    """Read a slice of Python, whose end is not in it."""
    first, last = int(found[1] or 0), int(found[2]) - 1
    return f".{{{first}..{last}}}" if last > first else f".{first}"


def _size_first(keyword: str, words: list[str]) -> Iterator[str]:
    """Yield ``reserve SIZE on DEVICE`` for the words of one, however they are ordered."""
    named = [word for word in words[:3] if word.lower() not in _BETWEEN]
    sizes = [word for word in named if parse_size(word) is not None and read_device_name(word) is None]
    devices = [word for word in named if read_device_name(word.rstrip(":")) is not None]
    if len(sizes) == len(devices) == 1:
        rest = words[max(map(words.index, (*sizes, *devices))) + 1 :]
        yield " ".join((keyword, sizes[0], "on", devices[0].rstrip(":"), *rest))
