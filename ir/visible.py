"""Text of others as it may be shown: what steers a terminal, or hides in a line, is escaped."""

from __future__ import annotations

import shlex
import unicodedata
from os import PathLike, fspath
from typing import Final

_JOINERS: Final = "\u200c\u200d"
_TAB: Final = "    "


def shown(char: str) -> str:
    """Return one character as it may be shown: tabs as blanks, whatever steers a terminal as an escape."""
    if char == "\t":
        return _TAB
    if char in _JOINERS or unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}:
        return char
    return char.encode("unicode_escape").decode("ascii")


def visible(text: str, *, keep: str = "") -> str:
    """Return the text with everything that steers a terminal escaped, but for the characters to keep."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char in keep else shown(char) for char in text)


def pasted(path: str | PathLike[str]) -> str:
    """Return a path as a shell takes it in a command that people paste: never as an option or a program."""
    name = fspath(path)
    return shlex.quote(f"./{name}" if name.startswith("-") else name)
