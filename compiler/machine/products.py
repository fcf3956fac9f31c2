"""Published rates of accelerators by the name a driver gives its product."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final, NamedTuple

from ...ir import Device

GB: Final = 1_000_000_000
T: Final = 1_000_000_000_000


class Rates(NamedTuple):
    """Bytes per second of a device's memory and of its link to the host, operations per second."""

    bandwidth: int
    link: int
    flops: int


KNOWN: Final = {
    "A10": Rates(600 * GB, 25 * GB, 125 * T),
    "A100": Rates(1935 * GB, 25 * GB, 312 * T),
    "A40": Rates(696 * GB, 25 * GB, 150 * T),
    "B200": Rates(8000 * GB, 50 * GB, 2250 * T),
    "H100": Rates(3350 * GB, 50 * GB, 989 * T),
    "H200": Rates(4800 * GB, 50 * GB, 989 * T),
    "L4": Rates(300 * GB, 25 * GB, 121 * T),
    "L40": Rates(864 * GB, 25 * GB, 181 * T),
    "L40S": Rates(864 * GB, 25 * GB, 362 * T),
    "RTX 3060": Rates(360 * GB, 25 * GB, 51 * T),
    "RTX 3090": Rates(936 * GB, 25 * GB, 71 * T),
    "RTX 4080": Rates(717 * GB, 25 * GB, 97 * T),
    "RTX 4090": Rates(1008 * GB, 25 * GB, 165 * T),
    "RTX 5090": Rates(1792 * GB, 50 * GB, 209 * T),
    "RTX A6000": Rates(768 * GB, 25 * GB, 155 * T),
    "T4": Rates(300 * GB, 12 * GB, 65 * T),
    "V100": Rates(900 * GB, 12 * GB, 125 * T),
}
"""Dense products in 16 bits, as the makers publish them."""


def known_product(name: str) -> str | None:
    """Return the product of the table that a driver's name contains, the longest that does."""
    words = f" {name.replace(',', ' ').replace('-', ' ')} "
    return next((known for known in sorted(KNOWN, key=len, reverse=True) if f" {known} " in words), None)


def said_product(device: Device) -> str:
    """Return what the driver calls a device's product: the last brackets of where its budget came from."""
    head, _, tail = device.origin.rpartition("(")
    return tail.partition(")")[0] if head else ""


def with_published(devices: Iterable[Device]) -> tuple[Device, ...]:
    """Return the devices with what is published of their products; what is stated or measured stays."""
    return tuple(map(_published, devices))


def _published(device: Device) -> Device:
    product = known_product(said_product(device))
    if product is None:
        return device
    rates = KNOWN[product]
    rated = replace(
        device,
        bandwidth=device.bandwidth or rates.bandwidth,
        link=device.link or rates.link,
        flops=device.flops or (None if device.dtype_flops else rates.flops),
    )
    if rated == device:
        return device
    return replace(rated, measured=device.measured or f"data sheet of {product}")
