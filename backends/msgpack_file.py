"""The plan file: a versioned header, a checksum, and the tables of a plan; docs/plan-file.md has it all.

The only module that imports msgpack. The first two fields of the header are the same in every
version, so that any version can name the one it cannot read.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final, cast

from ..ir import Diagnostic, Plan, PlanError
from ..ir.rules.planfile import INVALID_PLAN_FILE, NOT_A_PLAN_FILE, OTHER_VERSION, PLAN_TOO_LARGE
from .columns import MalformedError, Table, TooLongError
from .later_tables import LATER
from .plan_tables import TABLES, from_tables, to_tables

FORMAT: Final = "compile-plan"
VERSION: Final = 1
_HEADER: Final = ("format", "version", "checksum", "body")
_START: Final = b"\xa6format\xac" + FORMAT.encode() + b"\xa7version"
_FOREIGN: Final = (
    (b"PK\x03\x04", "a zip archive, as `torch.save` writes them"),
    (b"\x80\x02", "a pickle, which can run code when it is opened"),
    (b"\x80\x03", "a pickle, which can run code when it is opened"),
    (b"\x80\x04", "a pickle, which can run code when it is opened"),
    (b"\x80\x05", "a pickle, which can run code when it is opened"),
    (b"GGUF", "a GGUF model"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"\x7fELF", "a program"),
)


def encode_plan(plan: Plan) -> bytes:
    """Write a plan file; equal input gives equal bytes."""
    try:
        tables = to_tables(plan)
    except TooLongError as error:
        message = f"the plan has {error}"
        raise PlanError([Diagnostic(PLAN_TOO_LARGE, message, help="keep it as `.plan` text")]) from None
    body = _packed(tables)
    header = (FORMAT, VERSION, hashlib.sha256(body).digest(), body)
    return _packed(dict(zip(_HEADER, header, strict=True)))


def _packed(value: object) -> bytes:
    return cast("bytes", _msgpack().packb(value))


def _msgpack() -> Any:  # noqa: ANN401 - the library has no types
    """Return the library; it is opened when the first plan file is touched."""
    import msgpack  # type: ignore[import-untyped]

    return msgpack


def decode(data: bytes, name: str = "<bytes>") -> Plan:
    """Read a plan file; raises `PlanError`. Costs memory and time in proportion to ``data``, runs nothing.

    The laws of plans are not checked: `read_plan` does.
    """
    _check_start(data, name)
    try:
        return from_tables(_tables(data))
    except (MalformedError, TooLongError, UnicodeDecodeError) as error:
        reason = "a string is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
    notes = (reason,)
    message = f"`{name}` is damaged or was not made by compile-plan"
    raise PlanError([Diagnostic(INVALID_PLAN_FILE, message, notes=notes, help="copy or compile it again")])


def _check_start(data: bytes, name: str) -> None:
    """Refuse other formats and other versions, each by its name."""
    if data[1 : 1 + len(_START)] != _START:
        message = f"`{name}` is not a plan file: it is {_kind(data)}"
        help_ = "give the plan that `compile-plan -o plan.msgpack` wrote"
        raise PlanError([Diagnostic(NOT_A_PLAN_FILE, message, help=help_)])
    msgpack = _msgpack()
    unpacker = msgpack.Unpacker(max_buffer_size=16)
    unpacker.feed(data[1 + len(_START) :][:9])
    try:
        version = unpacker.unpack()
    except (ValueError, msgpack.UnpackException):
        version = None
    if isinstance(version, int) and version != VERSION:
        message = f"`{name}` is a plan file of version {version}, this compile-plan reads version {VERSION}"
        help_ = "update compile-plan" if version > VERSION else "compile the plan again"
        raise PlanError([Diagnostic(OTHER_VERSION, message, help=help_)])


def _kind(data: bytes) -> str:
    """Say in a few words what some bytes are instead."""
    if not data:
        return "empty"
    for start, kind in _FOREIGN:
        if data.startswith(start):
            return kind
    if data[8:10] == b'{"' and int.from_bytes(data[:8], "little") < 10**9:
        return "a safetensors file"
    if data.lstrip()[:1] in {b"{", b"["}:
        return "JSON (a device_map has the suffix `.json`)"
    if data.isascii():
        return "text (a plan as text has the suffix `.plan`)"
    return "something else"


def _tables(data: bytes) -> dict[str, Table]:
    """Return the tables of a file; what they hold is checked by those who read them."""
    header = _unpacked(data, len(_HEADER))
    if tuple(header) != _HEADER or type(header["version"]) is not int:
        raise MalformedError("the header is not that of version 1")
    body, checksum = header["body"], header["checksum"]
    if not isinstance(body, bytes):
        raise MalformedError("the body is missing")
    if hashlib.sha256(body).digest() != checksum:
        raise MalformedError("the checksum does not fit: bytes are missing or changed")
    tables = _unpacked(body, len(TABLES) + len(LATER))
    found = {
        name: columns
        for name, columns in tables.items()
        if isinstance(columns, dict) and all(isinstance(column, bytes) for column in columns.values())
    }
    known = TABLES | {name: columns for name, columns in LATER.items() if name in found}
    if {name: tuple(columns) for name, columns in found.items()} != known:
        raise MalformedError("the tables are not those of version 1")
    return found


def _unpacked(data: bytes, fields: int) -> dict[str, object]:
    """Unpack a map of at most ``fields`` fields; nested values may be as large, never lists."""
    msgpack = _msgpack()
    try:
        value = msgpack.unpackb(
            data,
            max_map_len=max(fields, 16),
            max_array_len=0,
            max_ext_len=0,
            max_str_len=64,
            max_bin_len=len(data),
        )
    except (ValueError, msgpack.UnpackException) as error:
        raise MalformedError(f"it is not msgpack: {error or type(error).__name__}") from None
    if not isinstance(value, dict):
        raise MalformedError("it is not a map")
    return value
