"""What the runtime of a loaded model did since it was last asked: bytes, waits, rows found and missed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from .execution import Execution
from .pinning import TierReport, refused_by_driver, tiers_of

if TYPE_CHECKING:
    from torch import nn

    from ...ir import Diagnostic
    from .hosts.wire import Wire
    from .streaming.site import Site


@dataclass(frozen=True, slots=True)
class SiteReport:
    """One module whose weights come while it runs."""

    path: str
    device: str
    """Where it runs."""
    calls: int
    """Calls that all of it came for."""
    ahead: int
    """Calls that found everything under way already."""
    nbytes: int
    """Bytes copied for it."""
    seconds: float
    """The thread that computes waited for bytes."""
    row_hits: int
    """Rows that were in the cache when a call chose them."""
    row_misses: int
    """Rows that were brought."""


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """One device that weights are brought to."""

    device: str
    nbytes: int
    """Bytes copied to it."""
    stalled: float
    """Seconds its computing waited for copies."""
    row_hits: int
    row_misses: int


@dataclass(frozen=True, slots=True)
class HostReport:
    """One other host that tensors go to or come from."""

    host: str
    sent: int
    """Bytes of tensors that went there."""
    received: int
    """Bytes of tensors that came from there."""
    messages: int
    """Tensors, both ways."""


@dataclass(frozen=True, slots=True)
class RuntimeReport:
    """What happened since the last report, site by site and in all."""

    sites: tuple[SiteReport, ...]
    devices: tuple[DeviceReport, ...]
    hosts: tuple[HostReport, ...] = ()
    """The other hosts of the plan."""
    tiers: tuple[TierReport, ...] = ()
    """Where what is streamed rests now."""
    findings: tuple[Diagnostic, ...] = ()
    """What keeps the runtime from its rate: memory that a driver did not take."""

    def data(self) -> dict[str, Any]:
        """Return it as what JSON can hold; sizes are bytes, times seconds."""
        told = [{"code": one.code, "message": one.message, "help": one.help} for one in self.findings]
        return {**asdict(replace(self, findings=())), "findings": told}

    def to_json(self) -> str:
        """Return it as one JSON object; sizes are bytes, times seconds."""
        return json.dumps(self.data(), indent=2)


def runtime_report(model: nn.Module) -> RuntimeReport:
    """Return what was streamed and sent since the last call; what does not happen has an empty list.

    It waits for the cards whose stalls it reads.
    """
    execution = next((found for found in map(Execution.of, model.modules()) if found is not None), None)
    stream = None if execution is None else execution.stream
    hosts = () if execution is None or execution.road is None else _hosts(execution.road.wire)
    if stream is None:
        return RuntimeReport((), (), hosts)
    stream.notice_fork()
    with stream.lock:  # a forward in another thread adds to what is read
        waits = stream.supply.waits()
    stalls = {str(device): each.read(wait=True) for device, each in waits.items()}
    sites = tuple(_reported(site) for site in stream.sites)
    names = dict.fromkeys(site.device for site in sites)
    devices = tuple(_summed(name, sites, stalls.get(name)) for name in names)
    tiers = tiers_of(stream.sites)
    pinning = None if execution is None else execution.registering
    return RuntimeReport(sites, devices, hosts, tiers, tuple(refused_by_driver(tiers, pinning)))


def _hosts(wire: Wire) -> tuple[HostReport, ...]:
    """Take what was counted on the way to other hosts."""
    counted = wire.sent.copy(), wire.received.copy(), wire.messages.copy()
    for counter in (wire.sent, wire.received, wire.messages):
        counter.clear()
    others = (number for number in range(len(wire.hosts)) if number != wire.me)
    return tuple(
        HostReport(wire.hosts[number], *(counter[number] for counter in counted)) for number in others
    )


def _reported(site: Site) -> SiteReport:
    tally = site.tally.take()
    device = str(site.streamed[0].device) if site.streamed else ""
    return SiteReport(
        site.path,
        device,
        tally.calls,
        tally.ahead,
        tally.nbytes,
        tally.seconds,
        tally.hits,
        tally.misses,
    )


def _summed(device: str, sites: Sequence[SiteReport], stalled: float | None) -> DeviceReport:
    """Add up the sites of a device; one without streams stalls when the thread that computes does."""
    here = [site for site in sites if site.device == device]
    waited = sum(site.seconds for site in here)
    return DeviceReport(
        device,
        sum(site.nbytes for site in here),
        (stalled or 0.0) + (0.0 if device.startswith("cuda") else waited),
        sum(site.row_hits for site in here),
        sum(site.row_misses for site in here),
    )
