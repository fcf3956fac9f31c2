"""How fast this machine is at what the runtime does, measured: copies, products, reads, hops.

Every number is the best of a few runs of the operation itself: pinned copies over the link, products of a
matrix with one row and with a prompt in each dtype with all threads, cold reads of a file as the loader
reads it. What fits a cache is no measure of a memory, so weights are taken in turn from more bytes than
caches hold.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, Final, NamedTuple

from ...ir import CPU, DISK, Device, is_accelerator
from .launching import launch_seconds
from .pages import PIECE, Ahead, bring

MIB: Final = 2**20
DTYPES: Final = ("float32", "bfloat16", "float16")
SECONDS: Final = 0.5
"""The most that one number may take; at least one round is made after a first one that warms up."""
ROUNDS: Final = 7
BLOCK: Final = 4 * MIB
"""Bytes of a file that are written at once."""


class Products(NamedTuple):
    """Rates of products with weights in one dtype."""

    reads: int
    """Bytes of weights a second when they meet one row: what writing a token waits for."""
    flops: int
    """Operations a second when they meet a prompt."""
    few: int | None = None
    """Bytes of weights a second when they meet a few rows: what an expert of a mixture gets of a prompt."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured of one device; None where it has no such thing."""

    name: str
    product: str = ""
    """What its driver or system calls it."""
    memory: int | None = None
    """Bytes a second of its memory, read and written."""
    link: int | None = None
    """Bytes a second from pinned host memory, or from the disk."""
    hop: float | None = None
    """Seconds of a small transfer and the wait that comes with it."""
    products: dict[str, Products] = field(default_factory=dict[str, Products])
    """By dtype."""
    launch: float | None = None
    """Seconds until it is asked for one operation, Python's share included."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is moved and multiplied for one number."""

    copied: int = 256 * MIB
    weights: int = 512 * MIB
    """All matrices together: more than caches hold."""
    side: int = 4096
    tokens: int = 256
    few: int = 16


def measure(devices: tuple[Device, ...], folder: str, sizes: Sizes | None = None) -> Iterator[Speed]:
    """Yield the speed of every device listed that computes here, and of the disk under a folder."""
    sizes = Sizes() if sizes is None else sizes
    torch = _torch()
    for device in devices:
        if device.name == CPU:
            yield _host(torch, sizes)
        elif is_accelerator(device.name) and torch is not None:
            yield _card(torch, device, sizes)
    yield _disk(folder, sizes)


def _disk(folder: str, sizes: Sizes) -> Speed:
    try:
        return Speed(DISK, link=disk_rate(folder, sizes.copied))
    except OSError:  # it is full, or not to be written to
        return Speed(DISK)


def _torch() -> Any:  # noqa: ANN401
    try:
        import torch
    except (ImportError, OSError):
        return None
    return torch


def best(step: Callable[[], float | None]) -> float:
    """Return the seconds of the fastest of a few runs after a first one; a step may time itself."""
    found, end = float("inf"), time.perf_counter() + SECONDS
    step()
    for _ in range(ROUNDS):
        start = time.perf_counter()
        told = step()
        now = time.perf_counter()
        found = min(found, now - start if told is None else told)
        if now > end:
            break
    return max(found, 1e-9)


def rounded(value: float) -> int:
    """Keep two digits: a third would not be the same twice."""
    digits = max(0, len(str(int(value))) - 2)
    return int(round(value, -digits))


def _host(torch: Any, sizes: Sizes) -> Speed:  # noqa: ANN401
    if torch is None:
        return Speed(CPU, host_product(), memory=_copied_by_one_thread(sizes.copied))
    source = torch.ones(sizes.copied, dtype=torch.uint8)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)

    memory = rounded(2 * sizes.copied / best(copy))
    products, launch = _products(torch, CPU, sizes), launch_seconds(torch, CPU, best)
    return Speed(CPU, host_product(), memory, products=products, launch=launch)


def _copied_by_one_thread(nbytes: int) -> int:
    source, target = memoryview(bytearray(nbytes)), memoryview(bytearray(nbytes))

    def copy() -> None:
        target[:] = source

    return rounded(2 * nbytes / best(copy))


def host_product() -> str:
    """Return what this machine's processor is called; empty where the system does not tell."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:  # noqa: PTH123
            return next(
                (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), ""
            )
    except OSError:
        import platform

        return platform.processor()


def _card(torch: Any, device: Device, sizes: Sizes) -> Speed:  # noqa: ANN401
    name = device.name
    try:
        memory, link, hop = _copies(torch, name, sizes)
    except RuntimeError:  # others have its memory
        return Speed(name, product_of_card(torch, name))
    products, launch = _products(torch, name, sizes), launch_seconds(torch, name, best)
    return Speed(name, product_of_card(torch, name), memory, link, hop, products, launch)


def _copies(torch: Any, name: str, sizes: Sizes) -> tuple[int, int, float]:  # noqa: ANN401
    """Return the rates of a card's memory and of its link from pinned memory, and the seconds of a hop."""
    here = torch.empty(sizes.copied, dtype=torch.uint8, device=name)
    there = torch.empty_like(here)
    host = torch.empty(sizes.copied, dtype=torch.uint8, pin_memory=not name.startswith("mps"))
    small, back = here[:4096], torch.empty(4096, dtype=torch.uint8)
    timed = _timer(torch, name)

    def hop() -> None:
        back.copy_(small)
        small.copy_(back)
        torch.accelerator.synchronize(name)

    memory = rounded(2 * sizes.copied / best(timed(lambda: there.copy_(here))))
    link = rounded(sizes.copied / best(timed(lambda: here.copy_(host, non_blocking=True))))
    return memory, link, best(hop) / 2


def product_of_card(torch: Any, name: str) -> str:  # noqa: ANN401
    """Return what a card's driver calls it; empty where it does not tell."""
    kind, _, index = name.partition(":")
    try:
        return str(torch.get_device_module(kind).get_device_name(int(index or 0)))
    except Exception:  # noqa: BLE001  # drivers raise anything
        return ""


def _timer(torch: Any, name: str) -> Callable[[Callable[[], object]], Callable[[], float | None]]:  # noqa: ANN401
    """Return what turns an operation into a step: timed by the card's own events, where it has them."""
    if name == CPU:
        return lambda run: lambda: _done(run)
    if not name.startswith("cuda"):
        return lambda run: lambda: _settled(torch, name, run)

    def events(run: Callable[[], object]) -> Callable[[], float | None]:
        def step() -> float:
            with torch.cuda.device(name):
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                begin.record()
                run()
                end.record()
                end.synchronize()
                return float(begin.elapsed_time(end)) / 1e3

        return step

    return events


def _done(run: Callable[[], object]) -> None:
    run()


def _settled(torch: Any, name: str, run: Callable[[], object]) -> None:  # noqa: ANN401
    run()
    torch.accelerator.synchronize(name)


def _products(torch: Any, name: str, sizes: Sizes) -> dict[str, Products]:  # noqa: ANN401
    found: dict[str, Products] = {}
    for word in DTYPES:
        try:
            found[word] = _product(torch, name, getattr(torch, word), sizes)
        except (RuntimeError, TypeError):  # a dtype the device does not multiply
            continue
    return found


def _product(torch: Any, name: str, dtype: Any, sizes: Sizes) -> Products:  # noqa: ANN401
    linear, timed = torch.nn.functional.linear, _timer(torch, name)
    shapes = _shapes(name, sizes.side)
    nbytes = sum(rows * columns for rows, columns in shapes) * dtype.itemsize
    sets = [
        [torch.ones(shape, dtype=dtype, device=name) for shape in shapes]
        for _ in range(max(1, sizes.weights // nbytes))
    ]
    turns = cycle(sets)

    def seconds(tokens: int, times: int) -> float:
        """Return the seconds in which weights of so many sets meet rows of so many tokens, by set."""
        widths = {columns for _, columns in shapes}
        given = {width: torch.ones(tokens, width, dtype=dtype, device=name) for width in widths}

        def step() -> None:
            for _ in range(times):
                for weight in next(turns):
                    linear(given[weight.shape[1]], weight)

        return best(timed(step)) / times

    with torch.no_grad():
        reads, few = nbytes / seconds(1, len(sets)), nbytes / seconds(sizes.few, 1)
        flops = 2 * sizes.tokens * nbytes / dtype.itemsize / seconds(sizes.tokens, 1)
    return Products(rounded(reads), rounded(flops), rounded(few))


def _shapes(name: str, side: int) -> list[tuple[int, int]]:
    """Return the matrices that are multiplied: on a processor half of the bytes in small ones.

    An expert's are a tenth of a dense layer's and are read more slowly there, where the pages are small.
    """
    if name != CPU:
        return [(side, side)]
    half, expert = side // 2, side * 3 // 16
    return [(side, side), *[(half, expert), (expert, half)] * round(side * side / (2 * half * expert))]


def disk_rate(folder: str, nbytes: int) -> int:
    """Return how fast a cold file is read as the loader reads it.

    The file has no name while it is there: nothing is left of it, however the measuring ends.
    """
    nbytes = max(BLOCK, nbytes // BLOCK * BLOCK)
    handle, path = tempfile.mkstemp(dir=folder)
    with open(handle, "wb") as file:  # noqa: PTH123  # it is open
        os.unlink(path)  # noqa: PTH108
        file.writelines(os.urandom(BLOCK) for _ in range(0, nbytes, BLOCK))
        file.flush()
        os.fsync(handle)
        return rounded(nbytes / best(lambda: _read_all(handle, nbytes)))


def _read_all(handle: int, nbytes: int) -> None:
    """Have the pages of a file brought ahead of a copy of them, none of them in memory before."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    with mmap.mmap(handle, nbytes, access=mmap.ACCESS_COPY) as pages, mmap.mmap(-1, PIECE) as slot:
        address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        with Ahead([(address, nbytes)]), memoryview(pages) as view:
            for first in range(0, nbytes, PIECE):
                bring(address + first, PIECE)
                slot[:] = view[first : first + PIECE]
