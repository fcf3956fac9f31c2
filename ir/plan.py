"""The plan IR: frozen nodes, compared by what they mean.

A plan is a value. Two plans that put the same things in the same places under the same rules are
equal, whatever file they came from; spans, the module table (the digest stands for it), the ledger
and the reasons explain a plan and take no part in its equality.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

from .diagnostic import Diagnostic
from .findings import Finding
from .source import Span
from .tree import ModuleTree


class Reason(StrEnum):
    """Why a unit is where it is."""

    WRITTEN = "written"
    """A person or another program wrote it."""
    GREEDY = "greedy"
    """First device in order with room."""
    TIED = "tied"
    """It shares storage with a unit placed there."""
    FALLBACK = "fallback"
    """Moved there to repair an empty device or an avoidable spill."""
    SEARCHED = "searched"
    """The exact search put it there."""
    BALANCED = "balanced"
    """A balancing strategy put it there."""
    SPILLED = "spilled"
    """No accelerator had room."""
    ADDED = "added"
    """A compile put it there; the text it was read from does not say why."""


@dataclass(frozen=True, slots=True)
class Model:
    """What the plan is for: a name for people, the structural digest for machines (or None)."""

    name: str
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """A place with a memory budget. Devices are listed in filling order."""

    name: str
    memory: int | None
    """Bytes; None is unlimited (a disk)."""
    margin: int = 0
    """Bytes of the budget never planned with."""
    pool: str | None = None
    """Devices with the same pool share one physical memory."""
    pool_memory: int | None = None
    """Bytes of that physical memory; None means the largest budget in the pool."""
    at: str | None = None
    """Folder of a disk device."""
    bandwidth: int | None = None
    """Bytes per second of the device's own memory."""
    link: int | None = None
    """Bytes per second between the host's memory and this device."""
    flops: int | None = None
    """Operations per second, whatever the dtype."""
    origin: str = field(default="", compare=False)
    """Where the budget came from, for people: ``given``, ``free on this machine``."""
    latency: int | None = None
    """Nanoseconds until the first byte of a copy between the host's memory and this device arrives."""
    dtype_flops: tuple[tuple[str, int], ...] = ()
    """Operations per second in single dtypes, where they differ from ``flops``."""
    measured: str = field(default="", compare=False)
    """Where the rates came from, for people: ``measured``, ``data sheet``."""
    few: int | None = None
    """Bytes of weights per second where each meets a few rows (16): more than one, fewer than a prompt."""
    launch: int | None = None
    """Nanoseconds torch needs to ask the device for one operation, whatever the operation then takes."""
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Link:
    """A road between two devices or two hosts, the same both ways."""

    a: str
    b: str
    rate: int
    """Bytes per second."""
    latency: int | None = None
    """Nanoseconds until the first byte arrives."""
    span: Span | None = field(default=None, compare=False, repr=False)


WORKLOADS: Final = ("generate", "forward", "loss", "train")


@dataclass(frozen=True, slots=True)
class Workload:
    """What the model is used for: the ledger and the objective assume it."""

    kind: str = "generate"
    """One of `WORKLOADS`: tokens are written one by one, or one forward, or a forward with its loss, or a
    step of training."""
    rows: int = 1
    """Sequences at once."""
    prompt: int = 512
    """Tokens each sequence starts with; 0 unless tokens are generated."""
    tokens: int = 128
    """Tokens each sequence gets written; for the others the tokens it reads."""
    added: bool = field(default=False, compare=False)
    """Whether a compile assumed it, not a person."""
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Unit:
    """What gets a device: a module, or a bare tensor of a split module.

    Units may nest: the deepest wins, the later among equals. In a bound plan a module nested in another
    unit is visited: it runs on its own device, and its results come back to where that unit runs.
    In a plan that is not bound to a model yet ``path`` may hold the wildcards ``*`` and ``**``.
    """

    path: str
    store: str | None = None
    """The device that holds the bytes; None while unplaced."""
    run: str | None = None
    """The device that computes; equal to ``store`` unless the unit is streamed."""
    reason: Reason | None = field(default=None, compare=False)
    by_rows: bool = False
    """Whether only the rows a call needs travel: looked-up lines of a table, chosen experts."""
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class TieGroup:
    """Two or more tensor paths that share storage: one cost, one place. In tree order."""

    tensors: tuple[str, ...]
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Atomic:
    """Never split what this names: a path pattern, or every module of a class."""

    target: str
    by_class: bool = False
    added: bool = field(default=False, compare=False)
    """Whether a compile added it, not a person."""
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Split:
    """Always open what this pattern names: its children become units."""

    pattern: str
    added: bool = field(default=False, compare=False)
    """Whether a compile added it, not a person."""
    span: Span | None = field(default=None, compare=False, repr=False)


STREAMING: Final = "streaming"
"""Instead of a device in `Never`: what is named is used where it is stored."""
VISITING: Final = "visiting"
"""Instead of a device in `Never`: what is named runs where the module around it runs."""
WAYS: Final = frozenset({STREAMING, VISITING})
"""What `Never` may name that is no device."""


@dataclass(frozen=True, slots=True)
class Never:
    """Never store or run what this pattern names on the device; one of `WAYS`: never in that way."""

    pattern: str
    device: str
    added: bool = field(default=False, compare=False)
    """Whether a compile added it, not a person."""
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Together:
    """Everything these patterns name is stored on one device."""

    patterns: tuple[str, ...]
    added: bool = field(default=False, compare=False)
    """Whether a compile added it, not a person."""
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Phase:
    """What these patterns name is in use at one time, what another phase names at another."""

    patterns: tuple[str, ...]
    added: bool = field(default=False, compare=False)
    """Whether a compile added it, not a person."""
    span: Span | None = field(default=None, compare=False, repr=False)


Constraint: TypeAlias = Atomic | Split | Never | Together | Phase


@dataclass(frozen=True, slots=True)
class Reserve:
    """Bytes kept free on a device for a purpose; the purpose names the ledger line it enters."""

    nbytes: int
    device: str
    purpose: str = ""
    added: bool = field(default=False, compare=False)
    """Whether a compile added it, not a person."""
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Demand:
    """Bytes that are needed wherever the named module runs: its KV cache, its activations."""

    nbytes: int
    path: str
    purpose: str
    added: bool = field(default=False, compare=False)
    """Whether a compile added it, not a person."""
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations of what is named in one forward, everything below it included."""

    flops: int
    path: str
    tokens: int = 0
    """Tokens the forward read, all sequences together; 0 for a model that reads none."""
    launches: int = 0
    """Operations the forward asked the device for, whatever each of them takes; 0 where nobody counted."""
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Cache:
    """Bytes of a device that hold the rows used last of what is streamed to it by rows."""

    nbytes: int
    patterns: tuple[str, ...]
    """Everything they name shares the bytes."""
    device: str
    added: bool = field(default=False, compare=False)
    """Whether a compile added it, not a person."""
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Account:
    """The ledger of one device, in bytes."""

    device: str
    weights: int = 0
    buffers: int = 0
    kv_cache: int = 0
    activations: int = 0
    streaming: int = 0
    row_cache: int = 0
    """Rows used last of what is streamed by rows."""
    runtime: int = 0
    """What the device's driver and libraries take for themselves."""
    reserve: int = 0
    margin: int = 0
    phase: str = ""
    """What is in use when the device holds most, and what the lines above count; empty for all the time."""

    @property
    def total(self) -> int:
        """Everything the device must hold; never above its memory."""
        return (
            self.weights + self.buffers + self.kv_cache + self.activations
            + self.streaming + self.row_cache + self.runtime + self.reserve + self.margin
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the cost model says of a placement, in seconds of its workload."""

    prompt: float
    """Reading the prompt once; for a forward or a loss the whole of it."""
    token: float
    """Writing one token; 0 when none is written."""
    prompt_limit: str = ""
    """What the prompt waits for most: ``memory of cpu``, ``link to cuda:0``, ``hops``."""
    token_limit: str = ""
    simple: str = ""
    """What the best simple alternative does with the rest: ``streaming the rest``."""
    simple_seconds: float | None = None
    """The whole workload with the simple alternative."""
    seconds: float | None = None
    """The whole workload as planned."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the search reached and what it proved."""

    objective: str
    value: float
    bound: float
    status: str
    """``optimal``, ``in-order`` (the best that keeps the order), ``unproven`` (best known, any order),
    or ``kept`` (the simple plan was as good)."""
    hops: int = 0
    """How often consecutive units run on different devices."""
    notes: tuple[str, ...] = ()
    predicted: Prediction | None = None

    @property
    def gap(self) -> float:
        """Distance from the bound, relative to it; 0 when proven optimal."""
        return abs(self.value - self.bound) / max(abs(self.bound), 1.0)


@dataclass(frozen=True, slots=True)
class Plan:
    """A placement plan in any stage: from a traced model without places to a complete plan."""

    model: Model
    devices: tuple[Device, ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    """The options it was compiled with, in alphabetical order."""
    option_spans: Mapping[str, Span] = field(default_factory=dict[str, Span], compare=False, repr=False)
    """Where the lines of a text stand that say them."""
    constraints: tuple[Constraint, ...] = ()
    ties: tuple[TieGroup, ...] = ()
    reserves: tuple[Reserve, ...] = ()
    demands: tuple[Demand, ...] = ()
    work: tuple[Work, ...] = ()
    """What a trace measured; units that nothing here covers are taken by their weights."""
    units: tuple[Unit, ...] = ()
    """In execution order."""
    links: tuple[Link, ...] = ()
    workload: Workload | None = None
    """None: nobody said."""
    caches: tuple[Cache, ...] = ()
    tree: ModuleTree | None = field(default=None, compare=False, repr=False)
    ledger: tuple[Account, ...] = field(default=(), compare=False)
    outcome: Outcome | None = field(default=None, compare=False)
    findings: tuple[Finding, ...] = field(default=(), compare=False, repr=False)
    """What passes found on the way; `emit-warnings` turns them into diagnostics."""
    diagnostics: tuple[Diagnostic, ...] = field(default=(), compare=False, repr=False)

    def __repr__(self) -> str:
        """Say what it is in a line: a plan has thousands of rows, `print_plan` and `report` show them."""
        places = dict.fromkeys(unit.store for unit in self.units if unit.store is not None)
        where = f" on {', '.join(places)}" if places else ""
        count = f"{len(self.units):,} unit{'' if len(self.units) == 1 else 's'}"
        return f"<Plan {self.model.name!r}: {count}{where}>"
