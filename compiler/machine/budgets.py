"""Budgets as people write them, checked and put in filling order.

Accelerators fill first, by host, type and index; then mps, the host's memory, a disk. The order in
which they are written does not matter, and what is written is never changed.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Final, SupportsIndex, TypeAlias

from ...ir import (
    CPU,
    DISK,
    MPS,
    Device,
    Diagnostic,
    Diagnostics,
    Label,
    Source,
    Span,
    device_type,
    near_device_name,
    parse_size,
    read_device_name,
)
from ...ir.patterns import PatternError, expand_braces
from ...ir.rules import budgets as rules
from ...ir.sizes import MAX_SIZE
from ...ir.wording import in_words
from .filling_order import in_filling_order
from .this_machine import POOL, this_machine

DeviceKey: TypeAlias = int | str
Size: TypeAlias = int | str

UNLIMITED: Final = "unlimited"
_MOST_DEVICES: Final = 100_000
_COMMA: Final = re.compile(r",(?![^{}]*\})")
"""A comma that is not within braces."""
_UNITS: Final = ("KiB", "MiB", "GiB", "TiB", "KB", "MB", "GB", "TB")


def devices_from(max_memory: Mapping[DeviceKey, Size] | None, diagnostics: Diagnostics) -> tuple[Device, ...]:
    """Return the devices of a mapping from keys to sizes, in filling order; None is this machine.

    Everything wrong goes to ``diagnostics``; the devices that are right are returned all the same. Where
    ``mps`` and ``cpu`` are listed they share the larger of their budgets: such machines have one memory.
    """
    if max_memory is None:
        return this_machine(diagnostics)
    written: dict[str, object] = {}
    devices: dict[str, Device] = {}
    for key, value in _listed(max_memory):
        name = canonical_name(key)
        if name is None:
            diagnostics.add(unknown_device(_shown(key)))
        elif name in written:
            diagnostics.add(_duplicate(written[name], key, name))
        else:
            written[name] = key
            memory = _checked_size(name, value, diagnostics)
            devices[name] = Device(name, memory, origin="given")
    if not diagnostics.errors:
        _something_is_usable(devices, diagnostics)
    return in_filling_order(_pooled(devices))


def _listed(max_memory: Mapping[DeviceKey, Size]) -> Iterator[tuple[DeviceKey, Size]]:
    """Yield budgets one by one, those of a range each on its own."""
    for key, value in max_memory.items():
        for each in _expanded(key) if isinstance(key, str) else [key]:
            yield each, value


def _pooled(devices: Mapping[str, Device]) -> Iterator[Device]:
    """Yield the devices, mps and the cpu of a host as what they are: two budgets of one memory."""
    for name, device in devices.items():
        host, slash, kind = name.rpartition("/")
        beside = devices.get(f"{host}{slash}{CPU if kind == MPS else MPS}")
        if kind not in {MPS, CPU} or beside is None:
            yield device
        else:
            shared = max(device.memory or 0, beside.memory or 0)
            yield replace(device, pool=host or POOL, pool_memory=shared)


def canonical_name(key: object) -> str | None:
    """Return ``cuda:0`` for ``0``, ``"0"``, ``"cuda"`` and ``torch.device("cuda:0")``; None for nonsense."""
    if isinstance(key, bool):
        return None
    if isinstance(key, SupportsIndex):
        return _numbered(key)
    if not isinstance(key, str) and type(key).__module__ != "torch":
        return None
    return read_device_name(str(key).strip())


def _numbered(key: SupportsIndex) -> str | None:
    try:
        index = operator.index(key)
    except Exception:  # noqa: BLE001  # arrays and tensors of many numbers, objects that pretend
        return None
    return f"cuda:{index}" if 0 <= index < 1_000_000 else None


def unknown_device(text: str, at: Label | None = None) -> Diagnostic:
    """Return the finding for a key that names no device, with the name that was probably meant."""
    meant = near_device_name(text)
    help_ = f"did you mean `{meant}`?" if meant else "write `cuda:0`, `cpu`, `disk`, `mps` or `node1/cuda:0`"
    return Diagnostic(rules.UNKNOWN_DEVICE_NAME, f"`{_shown(text)}` is not a device", at, help=help_)


def _duplicate(first: object, second: object, name: str) -> Diagnostic:
    message = f"`{first}` and `{second}` are both `{name}`"
    return Diagnostic(rules.DUPLICATE_BUDGET, message, help="keep the one that is true")


def _checked_size(name: str, value: object, diagnostics: Diagnostics) -> int | None:
    """Return a budget in bytes; None for a disk without a limit. What is no size counts as 0."""
    if device_type(name) == DISK and (value is None or value == UNLIMITED):
        return None
    nbytes = size_of(value)
    if nbytes is None:
        diagnostics.add(invalid_budget(name, value))
    return nbytes or 0


def size_of(value: object) -> int | None:
    """Return a size in bytes given as a whole number or as text; None when it is none."""
    if isinstance(value, str):
        return parse_size(value)
    if type(value).__name__ in {"bool", "bool_"}:
        return None
    try:
        whole = int(value)  # type: ignore[call-overload]
        exact = bool(whole == value)
    except Exception:  # noqa: BLE001  # whatever an object of somebody else does when it is asked for a number
        return None
    return whole if exact and 0 <= whole <= MAX_SIZE else None


def invalid_budget(name: str, value: object, at: Label | None = None) -> Diagnostic:
    """Return the finding for a budget that is no size."""
    message = f"the budget of `{name}` is `{_shown(value)}`, which is not a size"
    return Diagnostic(rules.INVALID_BUDGET, message, at, help=_size_help(value))


def _shown(value: object) -> str:
    try:
        text = str(value) if isinstance(value, str) else repr(value)
    except Exception as error:  # noqa: BLE001  # an integer with more digits than Python prints, or worse
        return "a huge number" if isinstance(error, ValueError) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _size_help(value: object) -> str:
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]+)\s*", value)
        near = get_close_matches(match[2], _UNITS, n=1, cutoff=0.5) if match else []
        if match and near and parse_size(f"{match[1]}{near[0]}") is not None:
            return f"did you mean `{match[1]}{near[0]}`?"
    if isinstance(value, float) and 0 <= value < MAX_SIZE:
        return f"write a whole number of bytes: `{int(value)}`"
    return "write bytes, or a size such as `10GiB`, up to 2**63-1"


def _something_is_usable(devices: Mapping[str, Device], diagnostics: Diagnostics) -> None:
    if not devices:
        message, help_ = "no device is listed", "list at least one, such as `cpu=16GiB`"
    elif all(device.memory == 0 for device in devices.values()):
        names = in_words(devices)
        message, help_ = f"every listed device has a budget of 0: {names}", "give one of them memory"
    elif all(device_type(name) == DISK for name in devices):
        message, help_ = "a disk stores but does not compute, and nothing else is listed", "add `cpu=16GiB`"
    else:
        return
    diagnostics.add(Diagnostic(rules.NO_USABLE_DEVICE, message, help=help_))


def parse_memory_option(text: str, diagnostics: Diagnostics) -> dict[DeviceKey, Size]:
    """Read ``cuda:0=10GiB,cpu=64GiB``; a bare ``disk`` has no limit.

    The result has canonical names and goes to `devices_from`; what is wrong goes to ``diagnostics``
    with its place in the text and is left out.
    """
    source = Source("--memory", text)
    found: dict[DeviceKey, Size] = {}
    start = 0
    for item in _COMMA.split(text):
        for each in _expanded(item) if item.strip() else ():
            _read_item(each, Span(source, start, start + len(item)), found, diagnostics)
        start += len(item) + 1
    if not found and not diagnostics.errors:
        message = "no device is listed"
        diagnostics.add(
            Diagnostic(rules.MALFORMED_MEMORY_OPTION, message, help="write `cuda:0=10GiB,cpu=64GiB`")
        )
    return found


def _read_item(item: str, span: Span, found: dict[DeviceKey, Size], diagnostics: Diagnostics) -> None:
    key, equals, value = item.partition("=")
    name = canonical_name(key)
    key_label = Label(Span(span.source, span.start, span.start + len(key)), "this device")
    if not equals and name != DISK:
        message = f"`{item.strip()}` is not `DEVICE=SIZE`"
        help_ = f"write `{_meant(item.strip())}`"
        diagnostics.add(
            Diagnostic(rules.MALFORMED_MEMORY_OPTION, message, Label(span, "no size"), help=help_)
        )
    elif name is None:
        diagnostics.add(unknown_device(key.strip(), key_label))
    elif name in found:
        message = f"`{name}` has two budgets"
        diagnostics.add(
            Diagnostic(rules.DUPLICATE_BUDGET, message, key_label, help="keep the one that is true")
        )
    else:
        found[name] = _read_value(name, value if equals else UNLIMITED, span, diagnostics)


def _meant(item: str) -> str:
    """Return what a size without a device, or one behind a colon, was probably meant as."""
    if parse_size(item) is not None and canonical_name(item) is None:
        return f"cuda:0={item}"
    key, colon, size = item.rpartition(":")
    name = canonical_name(key.strip())
    known = colon and name is not None and parse_size(size) is not None and not size.strip().isdigit()
    return f"{name}={size.strip()}" if known else "cuda:0=10GiB,cpu=64GiB"


def _expanded(text: str) -> list[str]:
    """Return the devices a range names, ``cuda:{0..7}``; a brace that means nothing stays, and is refused."""
    try:
        return expand_braces(text, _MOST_DEVICES) if "{" in text else [text]
    except PatternError:
        return [text]


def _read_value(name: str, value: str, span: Span, diagnostics: Diagnostics) -> Size:
    text = value.strip()
    if text == UNLIMITED and device_type(name) == DISK:
        return UNLIMITED
    nbytes = parse_size(text)
    if nbytes is None:
        label = Label(Span(span.source, span.end - len(value), span.end), "not a size")
        diagnostics.add(invalid_budget(name, text, label))
    return nbytes or 0
