"""Names of devices and paths of modules, checked once at the edge.

A device name is ``TYPE``, ``TYPE:INDEX`` or ``HOST/TYPE:INDEX``: ``cpu``, ``disk``, ``mps``,
``cuda:0``, ``node1/cuda:3``. A path is names joined by dots; the root of a model is ``""``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from .near import near_name

CPU: Final = "cpu"
DISK: Final = "disk"
MPS: Final = "mps"

_DEVICE: Final = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[a-z][a-z_]*(?::(?:0|[1-9]\d{0,5}))?")
_HOST: Final = re.compile(r"[A-Za-z0-9][\w.-]*")
_TYPES: Final = frozenset(
    {"cpu", "cuda", "disk", "hpu", "meta", "mlu", "mps", "musa", "npu", "sdaa", "vulkan", "xla", "xpu"}
)

_DIGITS: Final = 6
_SINGLE: Final = frozenset({CPU, DISK, MPS})
_SPELLED: Final = re.compile(r"([^/]*/)?([A-Za-z_]*)[:_ -]?(\d{0,6})")
_MEANT: Final = {"gpu": "cuda", "nvidia": "cuda", "device": "cuda", "rocm": "cuda", "hip": "cuda",
                 "metal": MPS, "host": CPU, "ram": CPU}  # fmt: skip


def is_device_name(text: str) -> bool:
    """Say whether ``text`` is spelled like a device this project can place on."""
    return _DEVICE.fullmatch(text) is not None and device_type(text) in _TYPES - {"meta"}


def read_device_name(text: str) -> str | None:
    """Return the canonical name of what people write for a device; None when it is none.

    A number is a CUDA card, as in a device_map; a type alone is its first device; there is one ``cpu``,
    one ``mps`` and one ``disk`` a host, with or without a ``:0``; capitals do not matter.
    """
    if text.isascii() and text.isdigit():
        return f"cuda:{int(text)}" if len(text) <= _DIGITS else None
    host, slash, local = text.rpartition("/")
    kind, colon, number = local.lower().partition(":")
    if kind in _SINGLE and number in {"", "0"} and bool(colon) == bool(number):
        name = f"{host}{slash}{kind}"
    else:
        name = f"{host}{slash}{kind}:{number if colon else 0}"
    return name if is_device_name(name) and (kind not in _SINGLE or name.endswith(kind)) else None


def near_device_name(text: str) -> str | None:
    """Return the device that was probably meant by what is none: ``cuda:7`` for ``gpu7``."""
    match = _SPELLED.fullmatch(text.strip())
    if match is None:
        return None
    host, kind, index = match[1] or "", match[2].lower(), match[3]
    meant = _MEANT.get(kind, kind)
    known = meant if meant in _TYPES else near_name(meant, sorted(_TYPES - {"meta"}))
    if known is None or (not kind and not host):
        return None
    name = known if known in _SINGLE else f"{known}:{int(index or 0)}"
    return next((each for each in (f"{host}{name}", name) if is_device_name(each)), None)


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


BUSIEST: Final = ("transformer", "transformer_2", "unet", "prior", "controlnet")
"""Parts of pipelines that are called in every step of making a picture; the others are called once."""


def join_path(parent: str, name: str) -> str:
    """Join two parts of a path; the root contributes nothing."""
    return f"{parent}.{name}" if parent else name


def is_within(path: str, ancestor: str) -> bool:
    """Say whether ``path`` is ``ancestor`` or lies below it (``a.bc`` is not within ``a.b``)."""
    return not ancestor or path == ancestor or path.startswith(f"{ancestor}.")


def upwards(path: str) -> Iterator[str]:
    """Yield a path, then what it lies in, the nearest first, the root last."""
    yield path
    while path:
        path = path.rpartition(".")[0]
        yield path
