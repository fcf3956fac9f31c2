"""Plans in files: the form is chosen by suffix, reading is bounded, writing is all or nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NoReturn

from ..ir import Diagnostic, Plan, PlanError, Rule, human_size, verify
from ..ir.rules.planfile import (
    DISK_FULL,
    FILE_TOO_LARGE,
    IS_A_DIRECTORY,
    NO_SUCH_FILE,
    NO_SUCH_FOLDER,
    PERMISSION_DENIED,
    READ_FAILED,
    UNKNOWN_FORM,
    WRITE_FAILED,
    WRITE_ONLY_FORM,
)
from .backend import Backend
from .device_map import device_map_diagnostics, emit_device_map
from .device_map_file import read_device_map
from .html_report import emit_report
from .msgpack_file import decode, encode_plan
from .plan_text import emit, read

MAX_FILE: Final = 2**30
"""No plan comes near it: a million modules are about 20 MiB."""

_TABLE: Final = (
    Backend("plan", ".plan", "places and rules as text, not the ledger", emit, read),
    Backend("msgpack", ".msgpack", "everything", encode_plan, decode),
    Backend(
        "device-map",
        ".json",
        "where modules are stored, not budgets, rules or reasons",
        emit_device_map,
        read_device_map,
        device_map_diagnostics,
    ),
    Backend("html", ".html", "everything, but only for people", emit_report),
)
BACKENDS: Final[Mapping[str, Backend]] = {backend.name: backend for backend in _TABLE}
"""Every form a plan can be written in, by name."""

_READING: Final = {
    errno.ENOENT: (NO_SUCH_FILE, "there is no file `{}`", "check the path"),
    errno.ENOTDIR: (NO_SUCH_FILE, "there is no file `{}`", "check the path"),
    errno.EISDIR: (IS_A_DIRECTORY, "`{}` is a directory, not a plan", "name a file in it"),
    errno.EACCES: (PERMISSION_DENIED, "`{}` may not be read", "change its permissions"),
    errno.EPERM: (PERMISSION_DENIED, "`{}` may not be read", "change its permissions"),
}
_WRITING: Final = {
    errno.ENOENT: (NO_SUCH_FOLDER, "the folder of `{}` does not exist", "create it with `mkdir -p`"),
    errno.ENOTDIR: (NO_SUCH_FOLDER, "the folder of `{}` is not a folder", "write to another path"),
    errno.EISDIR: (IS_A_DIRECTORY, "`{}` is a directory", "name a file in it"),
    errno.EACCES: (PERMISSION_DENIED, "`{}` may not be written", "choose a folder you may write to"),
    errno.EPERM: (PERMISSION_DENIED, "`{}` may not be written", "choose a folder you may write to"),
    errno.EROFS: (PERMISSION_DENIED, "`{}` is on a read-only disk", "write to another disk"),
    errno.ENOSPC: (DISK_FULL, "the disk is full, `{}` was not written", "free some space"),
    errno.EDQUOT: (DISK_FULL, "the disk quota is used up, `{}` was not written", "free some space"),
    errno.EFBIG: (DISK_FULL, "`{}` exceeds the file size limit, it was not written", "raise the limit"),
}


def backend_for(path: str | os.PathLike[str]) -> Backend:
    """Return the backend for a file name's suffix; raises `PlanError` for an unknown one."""
    suffix = Path(path).suffix.lower()
    for backend in BACKENDS.values():
        if backend.suffix == suffix:
            return backend
    known = tuple(f"`{b.suffix}` ({b.name}) holds {b.expresses}" for b in BACKENDS.values())
    message = f"`{os.fspath(path)}` does not end in the suffix of a form of plans"
    raise PlanError([Diagnostic(UNKNOWN_FORM, message, notes=known, help="use one of these suffixes")])


def encode(plan: Plan, name: str) -> bytes:
    """Return the plan in the form a backend's name stands for."""
    backend = BACKENDS.get(name)
    if backend is None:
        known = ", ".join(f"`{known}`" for known in BACKENDS)
        raise PlanError([Diagnostic(UNKNOWN_FORM, f"there is no form `{name}`", help=f"use {known}")])
    return backend.emit(plan)


def read_plan(path: str | os.PathLike[str]) -> Plan:
    """Read a plan in the form its suffix names and check every law; raises `PlanError`.

    Override files are not whole plans: read those with `grammar.parse`.
    """
    backend = backend_for(path)
    if backend.read is None:
        message = f"`{os.fspath(path)}`: plans in the form `{backend.name}` can be written but not read"
        raise PlanError([Diagnostic(WRITE_ONLY_FORM, message, help="read the `.msgpack` or `.plan` file")])
    plan = backend.read(read_bytes(path), os.fspath(path))
    broken = verify(plan)
    if broken:
        raise PlanError(broken)
    return plan


def write_plan(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Write a plan in the form the suffix names: whole or, whatever happens, not at all."""
    write_bytes(backend_for(path).emit(plan), path)


def write_bytes(data: bytes, path: str | os.PathLike[str]) -> None:
    """Write a file as `write_whole` does; raises `PlanError` where that fails."""
    try:
        write_whole(data, Path(path))
    except OSError as error:
        _refuse(error, path, _WRITING, WRITE_FAILED)


def write_whole(data: bytes, path: Path) -> None:
    """Replace a file in one step: a temporary file beside it, flushed to the disk, then renamed.

    A symbolic link is followed, so that the link stays one; the mode of an existing file is kept.
    """
    target = path.resolve() if path.is_symlink() else path
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if target.exists() and not target.is_file():
        target.write_bytes(data)  # a pipe or /dev/stdout cannot be renamed over
        return
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask()
    handle, temporary = tempfile.mkstemp(prefix=".compile-plan-", dir=target.parent)
    try:
        with open(handle, "wb") as file:  # noqa: PTH123 - it is open already
            file.write(data)
            file.flush()
            os.fchmod(handle, mode)
            os.fsync(handle)
        Path(temporary).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
    _flush_folder(target.parent)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _flush_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where folders can be flushed."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return what a file holds, at most `MAX_FILE` bytes; raises `PlanError`."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        _refuse(error, path, _READING, READ_FAILED)
    if len(data) > MAX_FILE:
        message = f"`{os.fspath(path)}` is larger than {human_size(MAX_FILE)}, no plan is"
        raise PlanError([Diagnostic(FILE_TOO_LARGE, message, help="check the path")])
    return data


def _refuse(
    error: OSError,
    path: str | os.PathLike[str],
    table: Mapping[int, tuple[Rule, str, str]],
    otherwise: Rule,
) -> NoReturn:
    known = table.get(error.errno or 0)
    reason = error.strerror or type(error).__name__
    rule, message, help_ = known or (otherwise, "`{}`: " + reason.lower(), "try another path")
    raise PlanError([Diagnostic(rule, message.replace("{}", os.fspath(path), 1), help=help_)]) from error
