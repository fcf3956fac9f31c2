"""Plans in files: the form is chosen by suffix, reading is bounded, writing is all or nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ..ir import Diagnostic, Plan, PlanError, Rule, human_size, verify
from ..ir.near import near_name
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
from ..ir.values import A_PLAN, require
from ..ir.wording import in_words
from .backend import Backend
from .device_map import device_map_diagnostics, emit_device_map
from .device_map_file import read_device_map
from .msgpack_file import decode, encode_plan
from .plan_text import emit, read
from .whole_files import write_whole

MAX_FILE: Final = 2**30
"""No plan comes near it: a million modules are about 20 MiB."""


def _report(plan: Plan) -> bytes:
    """Write the report; it is opened when one is asked for, and the language with it."""
    from .html_report import emit_report

    return emit_report(plan)


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
    Backend("html", ".html", "everything, but only for people", _report),
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
    errno.EEXIST: (NO_SUCH_FOLDER, "the folder of `{}` is not a folder", "write to another path"),
    errno.EISDIR: (IS_A_DIRECTORY, "`{}` is a directory", "name a file in it"),
    errno.EACCES: (PERMISSION_DENIED, "`{}` may not be written", "choose a folder you may write to"),
    errno.EPERM: (PERMISSION_DENIED, "`{}` may not be written", "choose a folder you may write to"),
    errno.EROFS: (PERMISSION_DENIED, "`{}` is on a read-only disk", "write to another disk"),
    errno.ENOSPC: (DISK_FULL, "the disk is full, `{}` was not written", "free some space"),
    errno.EDQUOT: (DISK_FULL, "the disk quota is used up, `{}` was not written", "free some space"),
    errno.ENAMETOOLONG: (WRITE_FAILED, "the name `{}` is too long for this disk", "shorten it"),
    errno.ELOOP: (WRITE_FAILED, "the links of `{}` go round in a loop", "write to another path"),
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
    near = near_name(suffix, (backend.suffix for backend in BACKENDS.values()))
    meant = near and os.fspath(path)[: -len(suffix)] + near
    help_ = f"did you mean `{meant}`?" if meant else "use one of these suffixes"
    raise PlanError([Diagnostic(UNKNOWN_FORM, message, notes=known, help=help_)])


def encode(plan: Plan, name: str) -> bytes:
    """Return the plan in the form a backend's name stands for."""
    backend = BACKENDS.get(name)
    if backend is None:
        known = in_words(BACKENDS)
        raise PlanError([Diagnostic(UNKNOWN_FORM, f"there is no form `{name}`", help=f"use {known}")])
    return backend.emit(plan)


def read_plan(path: str | os.PathLike[str]) -> Plan:
    """Read a plan in the form its suffix names and check every law; raises `PlanError`.

    Override files are not whole plans: read those with `grammar.parse`.
    """
    require("path", path, (str, os.PathLike), "name a file, as `plan.msgpack`")
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
    require("plan", plan, Plan, A_PLAN)
    require("path", path, (str, os.PathLike), "name a file, as `plan.msgpack`")
    write_bytes(backend_for(path).emit(plan), path)


def write_bytes(data: bytes, path: str | os.PathLike[str], *, folders: bool = False) -> None:
    """Write a file whole or not at all, its folders as well if they are missing; raises `PlanError`."""
    try:
        if folders:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(data, Path(path))
    except (OSError, ValueError) as error:
        raise PlanError([write_failure(error, os.fspath(path))]) from error


def write_failure(error: OSError | ValueError, name: str) -> Diagnostic:
    """Describe why what is called `name` was not written."""
    return _failure(error, name, _WRITING, WRITE_FAILED)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return what a file holds, at most `MAX_FILE` bytes; raises `PlanError`."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        raise PlanError([_failure(error, os.fspath(path), _READING, READ_FAILED)]) from error
    if len(data) > MAX_FILE:
        message = f"`{os.fspath(path)}` is larger than {human_size(MAX_FILE)}, no plan is"
        raise PlanError([Diagnostic(FILE_TOO_LARGE, message, help="check the path")])
    return data


def _failure(
    error: OSError | ValueError, name: str, table: Mapping[int, tuple[Rule, str, str]], otherwise: Rule
) -> Diagnostic:
    """Describe a failure; a `ValueError` is about a name that no file can have."""
    number = error.errno or 0 if isinstance(error, OSError) else 0
    reason = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
    rule, message, help_ = table.get(number) or (otherwise, "`{}`: " + reason.lower(), "try another path")
    return Diagnostic(rule, message.replace("{}", name, 1), help=help_)
