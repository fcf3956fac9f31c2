"""Sizes are integers of bytes inside; this is the one place that reads and writes units.

``10GiB`` is binary, ``10GB`` and ``10gb`` are decimal, a bare ``K``/``M``/``G``/``T`` is binary as
in every command-line tool. Never bits: accelerate reads ``10gb`` as gigabits, users never mean it.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

_POWERS: Final = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_SIZE: Final = re.compile(r"\s*(\d{1,30}(?:\.\d{1,30})?|\.\d{1,30})\s*([KMGTP]?)(I?B?)\s*", re.IGNORECASE)
MAX_SIZE: Final = 2**63 - 1


def parse_size(text: str) -> int | None:
    """Read a size in bytes, rounded down; None when ``text`` is not a size or exceeds 2**63-1."""
    match = _SIZE.fullmatch(text)
    if match is None:
        return None
    number, prefix, suffix = match[1], match[2].upper(), match[3].upper()
    if suffix == "I" or (suffix == "IB" and not prefix):
        return None
    base = 1000 if prefix and suffix == "B" else 1024
    size = int(Decimal(number) * base ** _POWERS[prefix])
    return size if size <= MAX_SIZE else None


def exact_size(nbytes: int) -> str:
    """Write a size so that `parse_size` reads back the very same number."""
    for unit in ("PiB", "TiB", "GiB", "MiB", "KiB"):
        scale = 1024 ** _POWERS[unit[0]]
        for digits in (1, 10):
            if nbytes >= scale and nbytes * digits % scale == 0:
                whole, tenth = divmod(nbytes * digits // scale, digits)
                return f"{whole}.{tenth}{unit}" if tenth else f"{whole}{unit}"
    return f"{nbytes}B"


def human_size(nbytes: int) -> str:
    """Write a size for people, to one decimal: ``147.2MiB``. Negative sizes keep their sign."""
    sign, rest = ("-", -nbytes) if nbytes < 0 else ("", nbytes)
    for unit in ("PiB", "TiB", "GiB", "MiB", "KiB"):
        scale = 1024 ** _POWERS[unit[0]]
        if rest >= scale:
            return f"{sign}{rest / scale:.1f}{unit}"
    return f"{sign}{rest}B"


def size_up(nbytes: int) -> str:
    """Write a size for a hint, rounded up so that asking for it is enough: ``+0.7GiB``."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        scale = 1024 ** _POWERS[unit[0]]
        if nbytes >= scale:
            tenths = -(-nbytes * 10 // scale)
            return f"{tenths // 10}.{tenths % 10}{unit}" if tenths % 10 else f"{tenths // 10}{unit}"
    return f"{nbytes}B"
