"""The highest point of every device during a forward: weights, cache, activations, streamed weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from ...ir import DISK, Plan, device_type, human_size
from .replay import Labels
from .sizes import unit_nbytes
from .streaming_sites import Streaming
from .trace import Enter, Op, Origin, Trace


@dataclass(frozen=True, slots=True)
class Peak:
    """One device at its highest."""

    device: str
    path: str
    """The module that was running."""
    weights: int
    cache: int
    activations: int
    streaming: int

    @property
    def nbytes(self) -> int:
        """Everything at that moment."""
        return self.weights + self.cache + self.activations + self.streaming

    def account(self) -> str:
        """Return the parts for people."""
        parts = {
            "weights": self.weights,
            "cache": self.cache,
            "activations": self.activations,
            "streamed weights": self.streaming,
        }
        return ", ".join(f"{name} {human_size(size)}" for name, size in parts.items() if size)


def peaks(trace: Trace, plan: Plan, labels: Labels, streamed: Streaming) -> tuple[Peak, ...]:
    """Return the highest point of each device of the plan, in the plan's order."""
    weights = _weights(trace, plan)
    activations = _activations(trace, labels)
    cache = _cache(trace, labels)
    streaming = _streaming(trace, streamed)
    found = []
    for device in plan.devices:
        if device_type(device.name) == DISK:
            continue
        name = device.name
        best = _highest(len(trace.steps), activations[name], cache[name], streaming[name])
        step, active, cached, fetched = best
        found.append(Peak(name, _path(trace, step), weights[name], cached, active, fetched))
    return tuple(found)


def _path(trace: Trace, step: int) -> str:
    if not 0 <= step < len(trace.steps) or trace.steps[step].call < 0:
        return ""
    return trace.path(trace.steps[step].call)


class _Timeline(defaultdict[int, int]):
    """Changes in bytes by step."""

    def __init__(self) -> None:
        super().__init__(int)

    def hold(self, nbytes: int, born: int, died: int) -> None:
        """Count bytes from one step to another, both included."""
        self[max(born, 0)] += nbytes
        self[died + 1] -= nbytes


def _highest(
    end: int, activations: _Timeline, cache: _Timeline, streaming: _Timeline
) -> tuple[int, int, int, int]:
    best = (0, 0, 0, 0)
    active = cached = fetched = 0
    for step in sorted({*activations, *cache, *streaming}):
        active += activations.get(step, 0)
        cached += cache.get(step, 0)
        fetched += streaming.get(step, 0)
        if step <= end and active + cached + fetched > sum(best[1:]):
            best = (step, active, cached, fetched)
    return best


def _weights(trace: Trace, plan: Plan) -> defaultdict[str, int]:
    held: defaultdict[str, int] = defaultdict(int)
    for unit, nbytes in zip(plan.units, unit_nbytes(trace, plan), strict=True):
        held[str(unit.store)] += nbytes
    return held


def placed_roots(trace: Trace, labels: Labels) -> list[int]:
    """Return the first value of each value's storage, a copy on another device being another storage."""
    moved = {hop.value for hop in labels.hops}
    roots = list(range(len(trace.values)))
    for outer, inner in _same_storage(trace):
        if inner not in moved:
            roots[inner] = roots[outer]
    return roots


def _same_storage(trace: Trace) -> Iterator[tuple[int, int]]:
    for step in trace.steps:
        if isinstance(step, Enter):
            yield from step.arguments
        elif isinstance(step, Op):
            for made in step.outputs:
                used = (v for v in (*step.inputs, *step.loose) if trace.roots[v] == trace.roots[made])
                source = next(used, None)
                if source is not None:
                    yield source, made


def _activations(trace: Trace, labels: Labels) -> defaultdict[str, _Timeline]:
    roots, found = placed_roots(trace, labels), defaultdict[str, _Timeline](_Timeline)
    lives: dict[int, tuple[int, int]] = {}
    for value, root in zip(trace.values, roots, strict=True):
        born, died = lives.get(root, (value.born, value.died))
        lives[root] = (min(born, value.born), max(died, value.died))
    kept = {roots[value] for value in trace.cache}
    copies = {hop.value for hop in labels.hops}
    for root, (born, died) in lives.items():
        value = trace.values[root]
        if root not in kept and value.origin in {Origin.OP, Origin.ENTRY, Origin.INPUT}:
            nbytes = value.own_nbytes if root in copies else value.nbytes
            found[str(labels.values[root])].hold(nbytes, born, died)
    return found


def _cache(trace: Trace, labels: Labels) -> defaultdict[str, _Timeline]:
    roots, found = placed_roots(trace, labels), defaultdict[str, _Timeline](_Timeline)
    for root in dict.fromkeys(roots[value] for value in trace.cache):
        value = trace.values[root]
        if value.origin is Origin.OP:
            found[str(labels.values[root])].hold(value.nbytes, value.born, len(trace.steps))
    return found


def _streaming(trace: Trace, streaming: Streaming) -> defaultdict[str, _Timeline]:
    """Weights read ahead fill the buffer throughout; sites that need more at once exceed it."""
    found: defaultdict[str, _Timeline] = defaultdict(_Timeline)
    held: defaultdict[str, _Timeline] = defaultdict(_Timeline)
    until: dict[int, int] = {}
    for (
        call
    ) in trace.calls:  # in the order they begin: what a call around brought already is not brought again
        for tensor in streaming.sites.get(call.module, ()):
            if call.last > until.get(tensor, -1):
                first = max(call.first, until.get(tensor, -1) + 1)
                held[str(streaming.runs[tensor])].hold(streaming.sizes[tensor], first, call.last)
                until[tensor] = call.last
    for device, buffer in streaming.buffers.items():
        found[device][0] = level = buffer
        now = 0
        for step in sorted(held[device]):
            now += held[device][step]
            found[device][step] += max(now, buffer) - level
            level = max(now, buffer)
    return found
