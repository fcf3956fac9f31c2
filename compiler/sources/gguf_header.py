"""The head of a GGUF file, walked with bounds before the `gguf` package reads it: counts must fit the file.

A file says how many entries follow; a reader that believes a number of 2**60 never comes back.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, Final

_FIXED: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value by its type number."""
_STRING: Final = 8
_ARRAY: Final = 9
_DEPTH: Final = 8
_DIMENSIONS: Final = 8
_LEAST_FIELD: Final = 13
"""Bytes of the shortest key and value."""
_LEAST_TENSOR: Final = 24
"""Bytes of the shortest description of a tensor."""


def check_gguf_head(stream: BinaryIO, size: int) -> None:
    """Walk the fields and tensors of a file of ``size`` bytes; raises `ValueError` where they leave it."""
    _Head(stream, size).walk()


class _Head:
    """A place in a file that only moves forward, and never past the end."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._size = size
        self._order = "<"

    def walk(self) -> None:
        """Read over everything before the weights."""
        self._stream.seek(4)
        version = self._stream.read(4)
        if version[:2] == b"\0\0":
            self._order = ">"  # written on a big-endian machine
        if not {*version} & {2, 3}:
            return  # of another layout, which the package refuses by its version
        tensors, fields = self._number("Q"), self._number("Q")
        self._fits(fields, _LEAST_FIELD, "fields")
        self._fits(tensors, _LEAST_TENSOR, "tensors")
        for _ in range(fields):
            self._skip_string()
            self._skip_value(self._number("I"), 0)
        for _ in range(tensors):
            self._skip_string()
            dimensions = self._number("I")
            if dimensions > _DIMENSIONS:
                msg = f"a tensor has {dimensions:,} dimensions"
                raise ValueError(msg)
            self._skip(8 * dimensions + 12)

    def _number(self, code: str) -> int:
        width = struct.calcsize(code)
        return int(struct.unpack(self._order + code, self._stream.read(width))[0])

    def _fits(self, count: int, least: int, what: str) -> None:
        rest = self._size - self._stream.tell()
        if count * least > rest:
            msg = f"it announces {count:,} {what}, {rest:,} bytes are left of it"
            raise ValueError(msg)

    def _skip(self, nbytes: int) -> None:
        self._fits(nbytes, 1, "bytes")
        self._stream.seek(nbytes, 1)

    def _skip_string(self) -> None:
        self._skip(self._number("Q"))

    def _skip_value(self, kind: int, depth: int) -> None:
        if kind in _FIXED:
            self._skip(_FIXED[kind])
        elif kind == _STRING:
            self._skip_string()
        elif kind == _ARRAY and depth < _DEPTH:
            self._skip_array(depth)
        else:
            msg = (
                f"a value is of the unknown type {kind}"
                if kind != _ARRAY
                else "its arrays are nested too deep"
            )
            raise ValueError(msg)

    def _skip_array(self, depth: int) -> None:
        kind, count = self._number("I"), self._number("Q")
        if kind in _FIXED:
            self._fits(count, _FIXED[kind], "entries of an array")
            self._skip(count * _FIXED[kind])
            return
        self._fits(count, 8, "entries of an array")
        for _ in range(count):
            self._skip_value(kind, depth + 1)
