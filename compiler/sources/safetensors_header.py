"""The header of a safetensors file, read with bounds and checked against the file: no weights, no torch.

The format's own library needs numpy or torch to open a file. A header is eight bytes of length and
then JSON, so it is read here, and nothing in it is believed before it has been checked.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from math import prod
from operator import itemgetter
from pathlib import Path
from typing import Final, NamedTuple

from ...ir import Diagnostic, Diagnostics
from ...ir.rules.sources import (
    DUPLICATE_TENSOR,
    INVALID_CHECKPOINT,
    TRUNCATED_CHECKPOINT,
    UNKNOWN_TENSOR_DTYPE,
)
from ...ir.wording import in_words, listed
from .foreign_json import check_containers
from .regular import regular, text_instead, unreadable_input

MAX_HEADER: Final = 100_000_000
"""Bytes; the limit of the format's own library."""

MAX_DEPTH: Final = 100
"""Names in a path; no model is nested that deep, and trees are walked by recursion."""

DTYPES: Final[dict[str, tuple[str, int]]] = {
    "BOOL": ("bool", 8),
    "U8": ("uint8", 8),
    "I8": ("int8", 8),
    "U16": ("uint16", 16),
    "I16": ("int16", 16),
    "U32": ("uint32", 32),
    "I32": ("int32", 32),
    "U64": ("uint64", 64),
    "I64": ("int64", 64),
    "F4": ("float4_e2m1fn_x2", 4),
    "F6_E2M3": ("float6_e2m3fn", 6),
    "F6_E3M2": ("float6_e3m2fn", 6),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "F32": ("float32", 32),
    "F64": ("float64", 64),
    "C64": ("complex64", 64),
}
"""The format's name of a dtype: torch's name, and bits per element."""


class StoredTensor(NamedTuple):
    """Where the bytes of one tensor are, and what they are."""

    path: str
    file: int
    """Index into the files of the checkpoint."""
    offset: int
    """Absolute, from the start of the file."""
    nbytes: int
    dtype: str
    """torch's name without the prefix."""
    shape: tuple[int, ...]
    """As torch has it: two packed 4-bit elements count as one."""


class _Invalid(Exception):  # noqa: N818  (carries a finding to the one place that reports it)
    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic.message)
        self.diagnostic = diagnostic


def read_header(path: Path, file: int, diagnostics: Diagnostics) -> tuple[list[StoredTensor], int]:
    """Return the tensors of one file in the order of their bytes, and the size of the file.

    ``file`` is the number the tensors carry. What is wrong goes to ``diagnostics``, and then there
    are no tensors.
    """
    try:
        with regular(path).open("rb") as stream:
            size = path.stat().st_size
            head = stream.read(8)
            length = _header_length(path, head, size)
            text = stream.read(length)
        return _tensors(path, file, text, size), size
    except OSError as error:
        diagnostics.add(unreadable_input(path, error))
    except _Invalid as invalid:
        diagnostics.add(invalid.diagnostic)
    return [], 0


def _header_length(path: Path, head: bytes, size: int) -> int:
    if len(head) < 8:
        raise _truncated(path, f"the file has {size} bytes, a header alone needs more")
    length = int.from_bytes(head, "little")
    if length > MAX_HEADER:
        if text := text_instead(path):
            raise _invalid(path, *text)
        raise _invalid(path, f"it announces a header of {length} bytes, the format allows {MAX_HEADER}")
    if 8 + length > size:
        raise _truncated(path, f"the header ends at byte {8 + length}, the file at byte {size}")
    return length


def _tensors(path: Path, file: int, text: bytes, size: int) -> list[StoredTensor]:
    entries = _entries(path, text)
    start = 8 + len(text)
    layouts: dict[tuple[str, tuple[int, ...]], _Layout] = {}
    if not are_tensor_names(entries):
        wrong = next(name for name in entries if not _is_tensor_name(name))
        raise _invalid(path, f"`{wrong[:80]}` is not the name of a tensor")
    tensors = [_tensor(path, file, name, value, start, layouts) for name, value in entries.items()]
    tensors.sort(key=_place)
    _bytes_are_contiguous(path, tensors, start, size)
    return tensors


_place: Final = itemgetter(2, 3)
"""The offset and the bytes of a tensor."""


def _entries(path: Path, text: bytes) -> dict[str, object]:
    try:
        check_containers(text)
        entries = json.loads(text.decode("utf-8"))
        if _pairs(entries) != text.count(b":"):  # a colon in a name, or a key twice
            entries = json.loads(text.decode(), object_pairs_hook=partial(_unique, path))
    except (ValueError, RecursionError) as error:
        raise _invalid(path, f"its header is not JSON ({error})") from None
    if not isinstance(entries, dict):
        raise _invalid(path, "its header is not an object")
    entries.pop("__metadata__", None)
    return entries


def _pairs(entries: object) -> int:
    """Count keys and values; JSON in which no key is overwritten has at least a colon for each."""
    if not isinstance(entries, dict):
        return 0
    return len(entries) + sum([len(value) for value in entries.values() if isinstance(value, dict)])


def _unique(path: Path, pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    counts = Counter(name for name, _ in pairs)
    twice = sorted(name for name, count in counts.items() if count > 1)
    names = in_words((name[:80] for name in twice), 3)
    help_ = "save the checkpoint again"
    raise _Invalid(Diagnostic(DUPLICATE_TENSOR, f"`{path}` lists {names} twice", help=help_))


class _Layout(NamedTuple):
    """What a dtype and a shape of the format are in torch."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int | None
    """None where elements do not fill whole bytes."""


def _tensor(
    path: Path,
    file: int,
    name: str,
    value: object,
    start: int,
    layouts: dict[tuple[str, tuple[int, ...]], _Layout],
) -> StoredTensor:
    try:
        code, sizes, (begin, end) = value["dtype"], value["shape"], value["data_offsets"]  # type: ignore[index]  # a KeyError or TypeError says so
        key = code, tuple(sizes)
        integers = type(begin) is type(end) is int
    except (KeyError, TypeError, ValueError):
        raise _invalid(path, f"`{name[:80]}` lacks a dtype, a shape or two offsets") from None
    if not integers or type(code) is not str or type(sizes) is not list:
        raise _invalid(path, f"`{name[:80]}` lacks a dtype, a shape or two offsets")
    if not _ARE_INTEGERS(map(type, sizes)):
        raise _invalid(path, f"the shape of `{name[:80]}` is {_short(sizes)}")
    layout = layouts.get(key)
    if layout is None:
        layout = layouts[key] = _layout(path, name, code, sizes)
    if layout.nbytes != end - begin:
        raise _invalid(path, f"`{name}` is {code}{_short(sizes)} but has {end - begin} bytes")
    fields = name, file, start + begin, end - begin, layout.dtype, layout.shape
    return tuple.__new__(StoredTensor, fields)  # without the call a constructor is


_ARE_INTEGERS: Final = frozenset({int}).issuperset


def _layout(path: Path, name: str, code: str, sizes: list[int]) -> _Layout:
    if any(size < 0 for size in sizes):
        raise _invalid(path, f"the shape of `{name[:80]}` is {_short(sizes)}")
    if code not in DTYPES:
        known = listed(sorted(DTYPES))
        message = f"`{name[:80]}` in `{path}` has the unknown dtype `{code[:40]}`"
        raise _Invalid(Diagnostic(UNKNOWN_TENSOR_DTYPE, message, notes=(f"known are {known}",)))
    dtype, bits = DTYPES[code]
    shape = tuple(sizes) if code != "F4" or not sizes else (*sizes[:-1], sizes[-1] // 2)
    nbytes, rest = divmod(prod(sizes) * bits, 8)
    return _Layout(dtype, shape, None if rest else nbytes)


def are_tensor_names(names: Collection[str]) -> bool:
    """Say whether all are; usual names are seen to be at once."""
    joined = f" {' '.join(names)} "
    short = max(map(len, names), default=1) < MAX_DEPTH
    usual = short and joined.isprintable() and not any(mark in joined for mark in ("..", " .", ". ", "  "))
    return usual or all(map(_is_tensor_name, names))


def _is_tensor_name(name: str) -> bool:
    whole = 0 < len(name) <= 4096 and ".." not in name and name[0] != "." and name[-1] != "."
    return whole and name.isprintable() and name.count(".") < MAX_DEPTH


def _bytes_are_contiguous(path: Path, tensors: list[StoredTensor], start: int, size: int) -> None:
    at, last = start, "the header"
    for tensor in tensors:
        if tensor.offset != at:
            what = "overlaps" if tensor.offset < at else "leaves a hole after"
            raise _invalid(path, f"`{tensor.path}` {what} {last}")
        at, last = at + tensor.nbytes, f"`{tensor.path}`"
    if at > size:
        cut = next(t.path for t in tensors if t.offset + t.nbytes > size)
        detail = f"`{cut}` and what follows it end at byte {at}, the file at byte {size}"
        raise _truncated(path, detail)
    if at < size:
        raise _invalid(path, f"{size - at} bytes follow the last tensor")


def _short(sizes: Sequence[object]) -> str:
    return str(sizes) if len(sizes) <= 8 else f"{str(sizes[:8])[:-1]}, ...]"


def _invalid(path: Path, detail: str, help_: str = "download or save the file again") -> _Invalid:
    message = f"`{path}` is not a valid safetensors file: {detail}"
    return _Invalid(Diagnostic(INVALID_CHECKPOINT, message, help=help_))


def _truncated(path: Path, detail: str) -> _Invalid:
    message = f"`{path}` is cut short: {detail}"
    return _Invalid(Diagnostic(TRUNCATED_CHECKPOINT, message, help="download or copy the file again"))


def duplicated_names(tensors: list[StoredTensor]) -> Iterator[tuple[StoredTensor, StoredTensor]]:
    """Yield pairs of tensors of the same name, from different files."""
    seen: dict[str, StoredTensor] = {}
    for tensor in tensors:
        first = seen.setdefault(tensor.path, tensor)
        if first is not tensor:
            yield first, tensor
