"""How fast devices are: what their lines say, else what is usual of their types."""

from __future__ import annotations

from typing import Final, NamedTuple

from ...ir import CPU, DISK, MPS, Device, device_type

GB: Final = 1_000_000_000
FEW: Final = 16
"""Rows by which the rate of weights that meet a few is known."""
MANY: Final = 256
"""Rows from which on products reach the operations a device is known for."""


class Speeds(NamedTuple):
    """Bytes per second of a device's memory and of its link to the host, operations per second."""

    bandwidth: float
    link: float
    flops: float
    few: float | None = None
    """Bytes of weights per second where each meets `FEW` rows."""
    launch: float = 0.0
    """Seconds until it is asked for an operation: torch's and Python's share, whatever it then takes."""

    def product(self, nbytes: float, flops: float, rows: float) -> float:
        """Return the seconds of products of weights that meet so many rows each.

        Between what was measured with one row, a few and many it is a straight line: fewer operations a
        second are reached by few rows than by many, and fewer bytes a second than by one.
        """
        one, many = nbytes / self.bandwidth, flops / self.flops
        if self.few is None or rows <= 1 or rows >= MANY:
            return max(one, many)
        few, full = nbytes / self.few, many * MANY / rows
        start, end, first, last = (1, FEW, one, few) if rows <= FEW else (FEW, MANY, few, full)
        return max(one, many, first + (last - first) * (rows - start) / (end - start))


DEFAULTS: Final = {
    CPU: Speeds(50 * GB, 50 * GB, 1e12, launch=6e-6),
    "cuda": Speeds(900 * GB, 24 * GB, 120e12, launch=10e-6),
    DISK: Speeds(3 * GB, 3 * GB, 1.0),
    MPS: Speeds(300 * GB, 100 * GB, 14e12, launch=10e-6),
    "xpu": Speeds(500 * GB, 24 * GB, 100e12, launch=10e-6),
}
"""What is usual of a type, where nothing tells. An operation of dense layers took 5.5 to 7 us on a processor,
one of a mixture 8 and 13 on the host of an H200: of dense ones there it is taken to be 10."""


def speeds(device: Device, dtype: str = "") -> Speeds:
    """Return what is known of a device: its line, else what is usual of its type."""
    usual = DEFAULTS.get(device_type(device.name), DEFAULTS["cuda"])
    flops = dict(device.dtype_flops).get(dtype) or device.flops
    if flops is None:
        flops = max((each for _, each in device.dtype_flops), default=None)
    return Speeds(
        device.bandwidth or usual.bandwidth,
        device.link or usual.link,
        flops or usual.flops,
        device.few,
        usual.launch if device.launch is None else device.launch * 1e-9,
    )


def source_of_speeds(device: Device) -> str:
    """Say in a few words where a device's rates come from."""
    stated = (device.bandwidth, device.link, device.flops or device.dtype_flops, device.launch)
    if not any(stated):
        return f"usual of its type, {device_type(device.name)}"
    return device.measured or "as given"
