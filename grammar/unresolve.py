"""A plan to syntax: one fact per line, regular stacks as ranges, and in comments what explains it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import TypeVar, assert_never

from ..ir import (
    Account,
    Atomic,
    Cache,
    Constraint,
    Demand,
    Device,
    Link,
    Never,
    Phase,
    Plan,
    Reserve,
    Split,
    TieGroup,
    Together,
    Work,
    Workload,
    exact_size,
    human_size,
)
from ..ir.visible import visible
from .placements import place_lines
from .ranges import fold_paths
from .syntax import (
    AtomicClassLine,
    AtomicLine,
    Attribute,
    CacheLine,
    DemandLine,
    DeviceLine,
    Document,
    Header,
    Line,
    LinkLine,
    ModelLine,
    NeverLine,
    OptionLine,
    Path,
    PhaseLine,
    ReserveLine,
    SplitLine,
    Statement,
    TieLine,
    TogetherLine,
    Word,
    WorkLine,
    WorkloadLine,
)
from .table_text import table_lines
from .words import exact_count, exact_rate, exact_time, path_of

_Node = TypeVar("_Node")


def unresolve(plan: Plan, *, with_modules: bool = False) -> Document:
    """Write a plan as syntax; ``with_modules`` adds the module table."""
    own, others = _device_reserves(plan.devices, plan.reserves)
    blocks: list[Iterable[Line]] = [
        _plain(_heads(plan)),
        [*_device_lines(plan, own), *_plain(map(_link, plan.links))],
        _plain([] if plan.workload is None else [_workload(plan.workload)]),
        _plain([*_constraints(plan.constraints), *_ties(plan.ties)]),
        _plain(
            [*map(_reserve, others), *map(_cache, plan.caches), *_demands(plan.demands), *_work(plan.work)]
        ),
        _plain(table_lines(plan.tree, plan.ties) if with_modules and plan.tree else ()),
        place_lines(plan),
    ]
    lines: list[Line] = []
    for block in blocks:
        for at, line in enumerate(block):
            opens = at == 0 and bool(lines)
            lines.append(Line(line.statement, ("",) if opens else (), line.suffix))
    return Document(tuple(lines))


def _plain(statements: Iterable[Statement]) -> Iterator[Line]:
    return map(Line, statements)


def _heads(plan: Plan) -> Iterator[Statement]:
    yield Header(Word("1"))
    if plan.model.name or plan.model.digest is not None:
        digest = None if plan.model.digest is None else Word(plan.model.digest)
        yield ModelLine(Word(plan.model.name), digest)
    for name, value in plan.options:
        yield OptionLine(Word(name), Word(value))


def _device_reserves(
    devices: Sequence[Device], reserves: Sequence[Reserve]
) -> tuple[dict[str, int], Sequence[Reserve]]:
    """Take the reserves without a purpose that lead the list in device order: they fit on device lines."""
    order = [device.name for device in devices]
    own: dict[str, int] = {}
    at = 0
    for count, reserve in enumerate(reserves):
        if reserve.purpose or reserve.added or reserve.device not in order[at:]:
            return own, reserves[count:]
        at = order.index(reserve.device) + 1
        own[reserve.device] = reserve.nbytes
    return own, ()


def _device_lines(plan: Plan, reserves: dict[str, int]) -> Iterator[Line]:
    accounts = {account.device: account for account in plan.ledger}
    for device in plan.devices:
        attributes = tuple(_attributes(device, reserves.get(device.name)))
        suffix = _account_comment(device, accounts.get(device.name))
        yield Line(DeviceLine(Word(device.name), attributes), suffix=suffix)


def _attributes(device: Device, reserve: int | None) -> Iterator[Attribute]:
    if device.memory is not None:
        yield Attribute("memory", Word(exact_size(device.memory)))
    if device.margin:
        yield Attribute("margin", Word(exact_size(device.margin)))
    if reserve is not None:
        yield Attribute("reserve", Word(exact_size(reserve)))
    if device.pool is not None:
        size = None if device.pool_memory is None else Word(exact_size(device.pool_memory))
        yield Attribute("pool", Word(device.pool), size)
    if device.at is not None:
        yield Attribute("at", Word(device.at))
    rates = (("bandwidth", device.bandwidth, exact_rate), ("few", device.few, exact_rate),
             ("link", device.link, exact_rate), ("latency", device.latency, exact_time),
             ("launch", device.launch, exact_time),
             ("flops", device.flops, exact_count))  # fmt: skip
    for keyword, value, spell in rates:
        if value is not None:
            yield Attribute(keyword, Word(spell(value)))
    for dtype, flops in device.dtype_flops:
        yield Attribute("flops", Word(exact_count(flops)), dtype=Word(dtype))


def _link(link: Link) -> LinkLine:
    latency = None if link.latency is None else Word(exact_time(link.latency))
    return LinkLine(Word(link.a), Word(link.b), Word(exact_rate(link.rate)), latency)


def _workload(load: Workload) -> WorkloadLine:
    prompt = Word(str(load.prompt)) if load.kind == "generate" else None
    return WorkloadLine(load.kind, Word(str(load.rows)), Word(str(load.tokens)), prompt, load.added)


def _cache(cache: Cache) -> CacheLine:
    paths = tuple(folded.path for folded in fold_paths(cache.patterns))
    return CacheLine(Word(exact_size(cache.nbytes)), paths, Word(cache.device), cache.added)


def _account_comment(device: Device, account: Account | None) -> str:
    notes = [" ".join(text.split()) for text in (device.origin, device.measured) if text.strip()]
    if account is not None and account.total:
        notes.append(f"{human_size(account.total)} used")
        notes += [f"{human_size(device.memory - account.total)} free"] if device.memory is not None else []
        notes += [f"most while {account.phase} is in use"] if account.phase else []
    return f"# {visible(', '.join(notes))}" if notes else ""


def _constraints(constraints: Sequence[Constraint]) -> Iterator[Statement]:
    for constraint, run in _runs(constraints, _kind):
        match constraint:
            case Together(patterns):
                yield TogetherLine(tuple(folded.path for folded in fold_paths(patterns)), constraint.added)
            case Phase(patterns):
                yield PhaseLine(tuple(folded.path for folded in fold_paths(patterns)), constraint.added)
            case Atomic(target, by_class=True):
                yield AtomicClassLine(Word(target), constraint.added)
            case Atomic():
                yield from (AtomicLine(path, constraint.added) for path in _paths(run))
            case Split():
                yield from (SplitLine(path, constraint.added) for path in _paths(run))
            case Never(_, device):
                yield from (NeverLine(path, Word(device), constraint.added) for path in _paths(run))
            case _:
                assert_never(constraint)


def _kind(constraint: Constraint) -> object:
    """Say which neighbours may share a line: none for ``together``, ``phase`` and classes."""
    match constraint:
        case Atomic(by_class=False) | Split():
            return type(constraint), constraint.added
        case Never():
            return constraint.device, constraint.added
        case _:
            return object()


def _runs(nodes: Sequence[_Node], key: Callable[[_Node], object]) -> Iterator[tuple[_Node, list[_Node]]]:
    for _, group in groupby(nodes, key):
        run = [*group]
        yield run[0], run


def _paths(run: Sequence[Constraint]) -> Iterator[Path]:
    patterns = [
        node.target if isinstance(node, Atomic) else node.pattern
        for node in run
        if isinstance(node, (Atomic, Split, Never))
    ]
    return (folded.path for folded in fold_paths(patterns))


def _ties(ties: Sequence[TieGroup]) -> Iterator[TieLine]:
    for first, run in _runs(ties, lambda tie: len(tie.tensors)):
        members = fold_paths(first.tensors)
        columns = [fold_paths(column) for column in zip(*(tie.tensors for tie in run), strict=True)]
        if len(run) == 1 and len(members) == 1 and len(first.tensors) > 2:
            yield TieLine((members[0].path,))
        elif len({tuple(folded.count for folded in column) for column in columns}) == 1:
            rows = zip(*([folded.path for folded in column] for column in columns), strict=True)
            yield from map(TieLine, rows)
        else:
            yield from (TieLine(tuple(map(path_of, tie.tensors))) for tie in run)


def _reserve(reserve: Reserve) -> ReserveLine:
    purpose = Word(reserve.purpose) if reserve.purpose else None
    return ReserveLine(Word(exact_size(reserve.nbytes)), Word(reserve.device), purpose, reserve.added)


def _demands(demands: Sequence[Demand]) -> Iterator[DemandLine]:
    for first, run in _runs(demands, lambda demand: (demand.nbytes, demand.purpose, demand.added)):
        size, purpose = Word(exact_size(first.nbytes)), Word(first.purpose)
        paths = [demand.path for demand in run]
        yield from (DemandLine(size, each.path, purpose, first.added) for each in fold_paths(paths))


def _work(work: Sequence[Work]) -> Iterator[WorkLine]:
    for first, run in _runs(work, lambda each: (each.flops, each.tokens, each.launches)):
        flops, tokens, launches = (Word(exact_count(n)) for n in (first.flops, first.tokens, first.launches))
        yield from (
            WorkLine(
                flops,
                each.path,
                tokens if first.tokens else None,
                launches if first.launches else None,
            )
            for each in fold_paths([each.path for each in run])
        )
