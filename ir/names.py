"""Names of devices and paths of modules, checked once at the edge.

A device name is ``TYPE``, ``TYPE:INDEX`` or ``HOST/TYPE:INDEX``: ``cpu``, ``disk``, ``mps``,
``cuda:0``, ``node1/cuda:3``. A path is names joined by dots; the root of a model is ``""``.
"""

from __future__ import annotations

import re
from typing import Final

CPU: Final = "cpu"
DISK: Final = "disk"

_DEVICE: Final = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[a-z][a-z_]*(?::(?:0|[1-9]\d{0,5}))?")
_HOST: Final = re.compile(r"[A-Za-z0-9][\w.-]*")
_TYPES: Final = frozenset(
    {"cpu", "cuda", "disk", "hpu", "meta", "mlu", "mps", "musa", "npu", "sdaa", "vulkan", "xla", "xpu"}
)


def is_device_name(text: str) -> bool:
    """Say whether ``text`` is spelled like a device this project can place on."""
    return _DEVICE.fullmatch(text) is not None and device_type(text) in _TYPES - {"meta"}


def is_host_name(text: str) -> bool:
    """Say whether ``text`` is spelled like a host: no device, and what may stand before the ``/`` of one."""
    return _HOST.fullmatch(text) is not None and not is_device_name(text)


def host_of(name: str) -> str:
    """Return ``node1`` for ``node1/cuda:0``, ``""`` for a device of the one host there is."""
    return name.rpartition("/")[0]


def device_type(name: str) -> str:
    """Return ``cuda`` for ``node1/cuda:0``, ``cpu`` for ``cpu``."""
    return name.rpartition("/")[2].partition(":")[0]


def is_accelerator(name: str) -> bool:
    """Say whether the device computes and is neither the host's memory nor a disk."""
    return device_type(name) not in {CPU, DISK}


def join_path(parent: str, name: str) -> str:
    """Join two parts of a path; the root contributes nothing."""
    return f"{parent}.{name}" if parent else name


def is_within(path: str, ancestor: str) -> bool:
    """Say whether ``path`` is ``ancestor`` or lies below it (``a.bc`` is not within ``a.b``)."""
    return not ancestor or path == ancestor or path.startswith(f"{ancestor}.")
