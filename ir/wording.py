"""How messages say things: names between backquotes, what is left out counted, errors of others in a line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def in_words(names: Iterable[object], most: int | None = None, none: str = "nothing") -> str:
    """Return names as a message lists them; of more than ``most`` the first, and how many more there are."""
    return listed([f"`{name}`" for name in names], most) or none


def listed(texts: Sequence[str], most: int | None = None) -> str:
    """Return texts one behind the other, as ``a, b and 3 more``."""
    shown = texts if most is None else texts[:most]
    left = len(texts) - len(shown)
    return ", ".join(shown) + (f" and {left:,} more" if left else "")


def joined_words(texts: Sequence[str], last: str = "and") -> str:
    """Return texts as a sentence names them: ``a, b and c``."""
    return f" {last} ".join(filter(None, (", ".join(texts[:-1]), *texts[-1:])))


def first_line(error: BaseException, most: int | None = None) -> str:
    """Return what went wrong, as ``ValueError: first line``; of a longer line the first ``most`` letters."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:most]}"
