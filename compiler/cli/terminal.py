"""What a terminal can show: styles, widths, escapes. The only module that imports rich.

Text is built as lines of pieces, each a style and a string; whether colour comes out is decided once,
when they are painted. Nothing a file or a model names reaches the terminal unescaped.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, TextIO, TypeAlias

Piece: TypeAlias = tuple[str, str]
"""A style in rich's words (`bold red`, or empty) and the text it applies to."""
Line: TypeAlias = Sequence[Piece]
ColorChoice: TypeAlias = Literal["auto", "always", "never"]

DEFAULT_WIDTH: Final = 80


def paint(lines: Iterable[Line], *, color: bool) -> str:
    """Return the lines as one string, each ended by a newline, with ANSI colours when asked."""
    if not color:
        return "".join("".join(text for _, text in line).rstrip() + "\n" for line in lines)
    from rich.color import ColorSystem
    from rich.style import Style

    def painted(style: str, text: str) -> str:
        return Style.parse(style).render(text, color_system=ColorSystem.STANDARD) if style else text

    return "".join("".join(painted(style, text) for style, text in line) + "\n" for line in lines)


def wants_color(stream: TextIO, choice: ColorChoice, environ: Mapping[str, str] = os.environ) -> bool:
    """Say whether to colour a stream: the option first, then NO_COLOR, FORCE_COLOR, then the terminal."""
    if choice != "auto":
        return choice == "always"
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and environ.get("TERM") != "dumb"


def width_of(stream: TextIO) -> int | None:
    """Return the columns of a terminal; None for a file or a pipe, where nothing is wrapped."""
    return max(40, shutil.get_terminal_size((DEFAULT_WIDTH, 24)).columns) if stream.isatty() else None


def can_show(stream: TextIO, text: str) -> bool:
    """Say whether the stream's encoding has all of these characters."""
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def cell_width(text: str) -> int:
    """Return how many columns a terminal needs for the text."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def clip(text: str, width: int) -> str:
    """Return the text, shortened in the middle when it needs more columns than there are."""
    if cell_width(text) <= width:
        return text
    head, tail = text, text
    while cell_width(head) > (width - 1) // 2:
        head = head[:-1]
    while cell_width(tail) > width - 1 - cell_width(head):
        tail = tail[1:]
    return f"{head}…{tail}"


def wrap(text: str, width: int | None, first: int) -> list[str]:
    """Break the text at blanks into lines; the first starts at column ``first``, and so do the others.

    Without a width only the line breaks of the text itself are kept. A word is never cut, but behind a comma
    if it has no room in a line: numbers of many layers.
    """
    lines: list[str] = []
    for paragraph in text.split("\n"):
        current, used = "", 0
        for blank, word in _words(paragraph, None if width is None else width - first):
            needed = cell_width(word)
            if width is not None and current and first + used + len(blank) + needed > width:
                lines.append(current)
                current, used = word, needed
            else:
                glue = blank if current else ""
                current, used = f"{current}{glue}{word}", used + len(glue) + needed
        lines.append(current)
    return lines


def _words(text: str, room: int | None) -> Iterator[tuple[str, str]]:
    """Yield what stays together, each with what is between it and the one before."""
    for word in text.split(" "):
        parts = [word] if room is None or cell_width(word) <= room else re.split("(?<=,)", word)
        yield from zip((" ", *("" for _ in parts[1:])), parts, strict=True)
