"""Files written whole or not at all: beside their place first, then renamed over what was there.

The temporary file is locked for as long as its writer lives. Whoever writes next into the folder removes
those that nobody locks: what a killed run left, and never what another one is writing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

try:
    import fcntl
except ImportError:  # no such locks on this system: nothing is cleaned there, all else holds
    fcntl = None  # type: ignore[assignment]

_PREFIX: Final = ".compile-plan-"
_OURS: Final = re.compile(rf"{re.escape(_PREFIX)}[a-z0-9_]{{8}}")
_DESCRIPTOR: Final = re.compile(r"/(?:dev|proc/(?:self|thread-self|\d+))/fd/(\d+)")
_STANDARD: Final = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_MOST_LINKS: Final = 40
_CLOEXEC: Final = getattr(os, "O_CLOEXEC", 0)
_AS_IT_IS: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""Neither through a link nor waiting for a pipe."""
_TRIES: Final = 100


def write_whole(data: bytes, path: Path) -> None:
    """Replace a file in one step; raises `OSError`, or `ValueError` for what is no path at all.

    Symbolic links stay links. Owner, group and mode of what is replaced are kept as far as this process
    may give them. What cannot be renamed over (a pipe, a device, `/dev/stdout`) is written to.
    """
    descriptor = descriptor_of(path)
    if descriptor is not None:
        _write_all(descriptor, data)
        return
    target = _followed(path)
    try:
        before = target.stat()
    except FileNotFoundError:
        before = None
    if before is not None and stat.S_ISDIR(before.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if before is not None and not stat.S_ISREG(before.st_mode):
        with target.open("wb", buffering=0) as file:
            _write_all(file.fileno(), data)
        return
    _remove_leftovers(target.parent)
    _replace(data, target, before)
    _flush_folder(target.parent)


def descriptor_of(path: str | os.PathLike[str]) -> int | None:
    """Return the open file of this process that a path stands for, through links; None for all others.

    Opening such a path again would start at the first byte: what is behind ``>>`` would be lost.
    """
    for each in _links(Path(path)):
        name = os.path.normpath(each)
        if name in _STANDARD:
            return _STANDARD[name]
        found = _DESCRIPTOR.fullmatch(name)
        owner = name.split("/")[2] if name.startswith("/proc/") else "self"
        if found and owner in {"self", "thread-self", str(os.getpid())}:
            return int(found[1])
    return None


def _links(path: Path) -> Iterator[Path]:
    """Yield a path, what it links to, what that links to; raises `OSError` for a loop."""
    for _ in range(_MOST_LINKS):
        yield path.absolute()
        if not path.is_symlink():
            return
        path = path.parent / path.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def _followed(path: Path) -> Path:
    *_, last = _links(path)
    return last


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _replace(data: bytes, target: Path, before: os.stat_result | None) -> None:
    handle, temporary = _locked_file(target.parent)
    try:
        with open(handle, "wb") as file:  # noqa: PTH123 - it is open already
            file.write(data)
            file.flush()
            _take_after(handle, before)
            os.fsync(handle)
            temporary.replace(target)  # while the lock is held: nobody takes it for a leftover
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _locked_file(folder: Path) -> tuple[int, Path]:
    """Make a file that no other run removes as long as this one lives."""
    for _ in range(_TRIES):
        temporary = folder / f"{_PREFIX}{secrets.token_hex(4)}"
        try:
            handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | _CLOEXEC, 0o600)
        except FileExistsError:
            continue
        if _lock(handle, wait=True) and not _still_named(handle, temporary):
            os.close(handle)  # another run cleaned up between the two lines above
            continue
        return handle, temporary
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))


def _lock(handle: int, *, wait: bool) -> bool:
    """Lock an open file; False where somebody else holds the lock, or where files cannot be locked."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _still_named(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary files of runs that were killed; what cannot be removed stays."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        names = [entry.path for entry in entries if _OURS.fullmatch(entry.name)]
        for name in names:
            with contextlib.suppress(OSError):
                _remove_leftover(Path(name))


def _remove_leftover(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | _CLOEXEC | _AS_IT_IS)
    try:
        if stat.S_ISREG(os.fstat(handle).st_mode) and _lock(handle, wait=False):
            path.unlink()
    finally:
        os.close(handle)


def _take_after(handle: int, before: os.stat_result | None) -> None:
    """Give a new file the mode that is usual, or owner, group and mode of the file it replaces."""
    if before is None:
        os.fchmod(handle, 0o666 & ~_umask())
        return
    mode = stat.S_IMODE(before.st_mode)
    for owner, group in ((before.st_uid, before.st_gid), (-1, before.st_gid)):
        try:
            os.fchown(handle, owner, group)
        except OSError:
            continue
        os.fchmod(handle, mode)
        return
    os.fchmod(handle, mode & ~stat.S_IRWXG)  # for that group, not for the one the file has now


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
