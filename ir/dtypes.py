"""Sizes of dtypes by name, as torch stores them and as accelerate counts them.

Both are in eighths of a byte, because accelerate counts a bool as one bit and packs ``int4`` and
``int2``; torch stores no tensor in less than a byte an element unless its name says ``x2``.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from math import prod
from typing import Final

from . import Diagnostic, Diagnostics, Label, Span
from .changes import word_exchanged
from .rules.placement import UNKNOWN_DTYPE

_BYTE: Final = 8
_PACKED: Final = {"fp8": 8, "int4": 4, "int2": 2}
"""What accelerate calls custom dtypes: weights that are packed while they are loaded."""
_ALIASES: Final = {
    "half": "float16", "float": "float32", "double": "float64", "cfloat": "complex64",
    "cdouble": "complex128",
    "short": "int16", "int": "int32", "long": "int64", "chalf": "complex32", "bf16": "bfloat16",
    "fp16": "float16", "fp32": "float32", "fp64": "float64",
}  # fmt: skip
_STORED: Final = {
    "bool": 8, "float16": 16, "bfloat16": 16, "float32": 32, "float64": 64,
    "complex32": 32, "complex64": 64, "complex128": 128,
    "float8_e4m3fn": 8, "float8_e5m2": 8, "float8_e4m3fnuz": 8, "float8_e5m2fnuz": 8, "float8_e8m0fnu": 8,
    "float4_e2m1fn_x2": 8, "quint4x2": 4, "quint2x4": 2, "quint8": 8, "qint8": 8, "qint32": 32,
    "bits1x8": 8, "bits2x4": 8, "bits4x2": 8, "bits8": 8, "bits16": 16,
    **{f"{sign}int{bits}": max(bits, 8) for sign in ("", "u") for bits in (*range(1, 9), 16, 32, 64)},
}  # fmt: skip
_PACKINGS: Final = {"int8": (8, 0, 32), "fp8": (8, 0, 32), "int4": (4, 128, 20), "int2": (2, 64, 18)}
"""Bits of a weight, weights that share a scale (0: a row), bits of the scale and the zero they share.

Rows of float32 scales as bitsandbytes and compressed-tensors have them, groups as GPTQ and AWQ.
"""
_QUANTISED: Final = re.compile(
    r"(?:i?q|nf|w|fp|mxfp|awq|gptq|bnb)?[-_]?([248])[-_]?(?:bits?|[a0-9]|k(?:_[a-z]+)?)?"
)
"""What people call weights of so many bits: ``4bit``, ``q4_k_m``, ``nf4``."""
_TRAILING_BITS: Final = re.compile(r"\D(\d+)$")


def dtype_names() -> tuple[str, ...]:
    """Return every name of a dtype, those that torch has and those of packed weights."""
    return (*_STORED, *_PACKED)


def stored_eighths(dtype: str) -> int | None:
    """Return the eighths of a byte an element takes in memory; None for a dtype torch has not."""
    return _STORED.get(dtype)


def counted_eighths(dtype: str) -> int | None:
    """Return what accelerate counts for an element of a model's tensor; None where it gives up."""
    if dtype == "bool":
        return 1
    if dtype.startswith("float8_"):
        return _BYTE
    bits = _TRAILING_BITS.search(dtype)
    return None if bits is None else int(bits[1]) // _BYTE * _BYTE


def wanted_eighths(dtype: str) -> int:
    """Return what an element will take when weights are loaded as ``dtype``; the name is known."""
    packed = _PACKED.get(dtype)
    return packed if packed is not None else counted_eighths(dtype) or _STORED[dtype]


def is_packed(dtype: str) -> bool:
    """Say whether a wish for a dtype means that somebody quantises: matrices alone, with their scales."""
    return dtype in _PACKINGS


def packed_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Return the bytes of a matrix, or of several, quantised to a packed dtype, scales and zeros included."""
    bits, group, shared = _PACKINGS[dtype]
    *rows, width = shape
    groups = -(-width // group) if group else 1
    return -(-prod(rows) * (width * bits + groups * shared) // _BYTE)


def is_converted(dtype: str) -> bool:
    """Say whether a wish for another dtype changes such a tensor; integers and bools stay."""
    return not dtype.startswith(("uint", "int", "bool"))


def parse_dtype(text: str, diagnostics: Diagnostics, line: Span | None = None) -> str | None:
    """Return the plain name of a dtype; an unknown one is reported, where its line stands, and None."""
    name = text.removeprefix("torch.")
    name = _ALIASES.get(name, name)
    if name in _STORED or name in _PACKED:
        return name
    bits = _QUANTISED.fullmatch(name.lower())
    near = [f"int{bits[1]}"] if bits else get_close_matches(name, [*_STORED, *_PACKED, *_ALIASES], n=1)
    diagnostics.add(
        Diagnostic(
            UNKNOWN_DTYPE,
            f"no dtype is named `{text}`",
            None if line is None else Label(line),
            help=f"did you mean `{near[0]}`?" if near else "use a torch name like `bfloat16`",
            about=text,
            fixes=word_exchanged(line, text, f'"{near[0]}"' if near else None),
        )
    )
    return None
