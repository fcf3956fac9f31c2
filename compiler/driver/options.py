"""What a compilation is asked to do: one frozen value for the command line, for Python and for plans.

What a plan remembers of its options are strings (its `option` lines); they are read back when it is placed
anew, and stay unless an option is given again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal, TypeAlias, cast

from ...ir import WORKLOADS, Device, Diagnostic, Diagnostics, Plan, Reserve, Workload
from ...ir.near import near_name
from ...ir.rules.usage import OPTION_WITHOUT_EFFECT, UNKNOWN_OPTION
from ...ir.wording import listed
from . import option_values as read
from .option_values import Asked, Reading

Strategy: TypeAlias = Literal["auto", "accelerate", "balanced", "balanced_low_0", "sequential"]
Objective: TypeAlias = Literal[
    "fewest-devices", "balance", "headroom", "latency", "throughput", "accelerator-bytes"
]
Offload: TypeAlias = Literal["stream", "compute", "auto", "none"]
Use: TypeAlias = Literal["generate", "forward", "loss", "train"]

STRATEGIES: Final = ("auto", "accelerate", "balanced", "balanced_low_0", "sequential")
OBJECTIVES: Final = (
    "fewest-devices", "balance", "headroom", "latency", "throughput", "accelerator-bytes",
)  # fmt: skip
OFFLOADS: Final = ("stream", "compute", "auto", "none")

AUTOMATIC: Final = "auto"
"""Example inputs made from the model's transformers config."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one compilation; every default is what most people want."""

    devices: tuple[Device, ...] | None = None
    """Budgets that were given; None is those of the plan, else this machine's free memory."""
    no_split: tuple[str, ...] | None = None
    """Class names never split; None takes the model's own list."""
    dtype: str | None = None
    special_dtypes: tuple[tuple[str, str], ...] = ()
    strategy: Strategy = "auto"
    objective: Objective | None = None
    """None: the first devices in order, none of them empty, then fewest hops; where something spills, the
    least predicted seconds."""
    offload: Offload = "auto"
    """What may be done with what fits no accelerator; ``auto`` is whatever is quickest."""
    offload_buffers: bool = False
    fallback: bool = True
    """Strategy ``accelerate`` only: bring a later module forward rather than leave a device empty."""
    reserves: tuple[Reserve, ...] = ()
    margin: int | None = None
    """Bytes never planned with, on every accelerator; None leaves the devices theirs."""
    runtime: int | None = None
    """Bytes of every accelerator that its driver and libraries take; None: 0 of a given budget, and what is
    usual of one read from this machine."""
    kv_cache: int | None = None
    """Bytes of KV cache for the whole model, shared out over its layers."""
    workload: Use | None = None
    """What the model is used for; None: a `workload` line says it, else it generates."""
    rows: int | None = None
    batch: int | None = None
    seq: int | None = None
    cache_tokens: int | None = None
    prompt: int = 512
    generate: int = 128
    """Tokens read and tokens written."""
    optimizer: str | None = None
    """Name of the optimizer a step of training takes."""
    used: Workload | None = None
    """What the options and `workload` lines above say together; None: nobody said."""
    time_limit: float = 60.0
    """Seconds after which the exact search is ended, with a warning; 0 keeps a simple plan that is legal."""
    trust_remote_code: bool = False
    given: frozenset[str] = field(default=frozenset(), compare=False)
    """Names of the fields that were given, be it as what they are anyway."""

    def gives(self, name: str) -> bool:
        """Say whether an option was given."""
        return name in self.given or getattr(self, name) != _DEFAULTS[name]

    @property
    def places(self) -> bool:
        """Say whether any option asks for placing, so that a finished plan is placed anew."""
        return any(map(self.gives, _DEFAULTS))

    def recorded(self) -> tuple[tuple[str, str], ...]:
        """Return what a plan remembers of its options: those that differ from their defaults."""
        kept = [
            (name.replace("_", "-"), _spelled(getattr(self, name)))
            for name, default in _DEFAULTS.items()
            if name not in _NOT_RECORDED and getattr(self, name) != default
        ]
        return tuple(sorted(kept))


_DEFAULTS: Final[Mapping[str, object]] = {
    each.name: each.default for each in fields(Options) if each.name != "given"
}
_NOT_RECORDED: Final = frozenset({"devices", "reserves", "trust_remote_code", "used", "workload", "rows"})
"""Budgets, reserves and the workload are lines of the plan; trust is never read from a file."""

READINGS: Final[Mapping[str, Reading]] = {
    "devices": read.devices,
    "no_split": read.names,
    "dtype": read.dtype,
    "special_dtypes": read.special_dtypes,
    "strategy": read.word(STRATEGIES),
    "objective": read.word(OBJECTIVES),
    "offload": read.word(OFFLOADS),
    "offload_buffers": read.switch,
    "fallback": read.switch,
    "reserves": read.reserves,
    "margin": read.size,
    "runtime": read.size,
    "kv_cache": read.size,
    "workload": read.word(WORKLOADS),
    "rows": read.count(1),
    "batch": read.count(1),
    "seq": read.count(1),
    "cache_tokens": read.count(0),
    "prompt": read.count(0),
    "generate": read.count(0),
    "optimizer": read.optimizer,
    "time_limit": read.seconds,
    "trust_remote_code": read.switch,
}
"""How each field of `Options` is read."""


def read_options(
    values: Mapping[str, object],
    diagnostics: Diagnostics,
    *,
    spelled: Callable[[str], str] = str,
    text: bool = False,
) -> Options:
    """Return options from values by field; None is not given. What is wrong is in ``diagnostics``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if value is not None:
            result = READINGS[name](Asked(spelled(name), value, diagnostics, text=text))
            found |= {} if result is None else {name: result}
    return Options(given=frozenset(found), **found)


def settled(options: Options, plans: Iterable[Plan], diagnostics: Diagnostics) -> Options:
    """Return the options with what plans remember of theirs; what is given again wins, the later plan too.

    A line that is no option, or has a value it cannot have, is reported.
    """
    remembered: dict[str, object] = {}
    for plan in plans:
        for key, value in plan.options:
            name = key.replace("-", "_")
            if name in READINGS and name not in _NOT_RECORDED:
                remembered[name] = value
            else:
                diagnostics.add(_no_option(key))
    again = {name: value for name, value in remembered.items() if not options.gives(name)}
    kept = read_options(again, diagnostics, spelled=lambda name: f"option {_key(name)}", text=True)
    return replace(options, **cast("Any", {name: getattr(kept, name) for name in kept.given}))


def _key(name: str) -> str:
    return name.replace("_", "-")


def _no_option(key: str) -> Diagnostic:
    known = [_key(name) for name in READINGS if name not in _NOT_RECORDED]
    if _key(key) in map(_key, _NOT_RECORDED):
        message = f"`option {key}` has no effect in a plan"
        return Diagnostic(OPTION_WITHOUT_EFFECT, message, help=f"give `--{key}` with the command")
    near = near_name(key, known)
    help_ = f"did you mean `option {near}`?" if near else f"options are {listed(known)}"
    return Diagnostic(UNKNOWN_OPTION, f"there is no option `{key}`", help=help_)


def _spelled(value: object) -> str:
    if not isinstance(value, tuple):
        return str(value)
    items = cast("tuple[str | tuple[str, str], ...]", value)
    return ",".join(item if isinstance(item, str) else "=".join(item) for item in items)
