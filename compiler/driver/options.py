"""What a compilation is asked to do: one frozen value for the command line, for Python and for plans.

What a plan remembers of its options are strings (its `option` lines); they are read back when it is placed
anew, and stay unless an option is given again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal, TypeAlias, cast

from ...ir import Device, Diagnostics, Plan, Reserve, Workload
from ..lines.option_lines import NOT_RECORDED, READINGS, read_option_lines
from ..lines.option_values import Asked

Strategy: TypeAlias = Literal["auto", "accelerate", "balanced", "balanced_low_0", "sequential"]
Objective: TypeAlias = Literal[
    "fewest-devices", "balance", "headroom", "latency", "throughput", "accelerator-bytes"
]
Offload: TypeAlias = Literal["stream", "compute", "auto", "none"]
Use: TypeAlias = Literal["generate", "forward", "loss", "train"]

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
            if name not in NOT_RECORDED and getattr(self, name) != default
        ]
        return tuple(sorted(kept))


_DEFAULTS: Final[Mapping[str, object]] = {
    each.name: each.default for each in fields(Options) if each.name != "given"
}


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
    remembered = read_option_lines(plans, diagnostics, given=options.gives)
    return replace(options, **cast("Any", remembered))


def _spelled(value: object) -> str:
    if not isinstance(value, tuple):
        return str(value)
    items = cast("tuple[str | tuple[str, str], ...]", value)
    return ",".join(item if isinstance(item, str) else "=".join(item) for item in items)
