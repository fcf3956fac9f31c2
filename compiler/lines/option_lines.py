"""What an `option` line of a plan may say: the options it remembers of a compile, and how each is read.

The lines of every road are read here: of an override, of a plan that is placed again, converted or loaded,
and of a text in an editor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from ...ir import WORKLOADS, Diagnostic, Diagnostics, Label, Plan, Span
from ...ir.changes import line_removed, word_exchanged
from ...ir.near import near_name
from ...ir.rules.usage import OPTION_WITHOUT_EFFECT, UNKNOWN_OPTION
from ...ir.wording import listed
from . import option_values as read
from .option_values import Asked, Reading

STRATEGIES: Final = ("auto", "accelerate", "balanced", "balanced_low_0", "sequential")
OBJECTIVES: Final = (
    "fewest-devices", "balance", "headroom", "latency", "throughput", "accelerator-bytes",
)  # fmt: skip
OFFLOADS: Final = ("stream", "compute", "auto", "none")

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


NOT_RECORDED: Final = frozenset({"devices", "reserves", "trust_remote_code", "used", "workload", "rows"})
"""Budgets, reserves and the workload are lines of the plan; trust is never read from a file."""


def read_option_lines(
    plans: Iterable[Plan], diagnostics: Diagnostics, given: Callable[[str], bool] = lambda _: False
) -> Mapping[str, object]:
    """Return what the lines of plans say by field, the later plan before the earlier.

    A line that is no option, or has a value it cannot have, is reported where it stands; one that is
    ``given`` again is not read.
    """
    said: dict[str, tuple[str, Plan]] = {}
    for plan in plans:
        for key, _ in plan.options:
            if _field(key) in READINGS and _field(key) not in NOT_RECORDED:
                said[_field(key)] = key, plan
            else:
                diagnostics.add(_no_option(key, plan.option_spans.get(key)))
    found: dict[str, object] = {}
    for name, (key, plan) in said.items():
        if not given(name):
            value, line = dict(plan.options)[key], plan.option_spans.get(key)
            result = READINGS[name](Asked(f"option {key}", value, diagnostics, text=True, line=line))
            found |= {} if result is None else {name: result}
    return found


def check_options(plan: Plan, diagnostics: Diagnostics) -> None:
    """Report the lines of a plan that are no options, or have values they cannot have."""
    read_option_lines((plan,), diagnostics)


def _field(key: str) -> str:
    return key.replace("-", "_")


def _no_option(key: str, span: Span | None) -> Diagnostic:
    at = None if span is None else Label(span)
    if _field(key) in NOT_RECORDED & READINGS.keys():
        message, hint = f"`option {key}` has no effect in a plan", f"give `--{key}` with the command"
        fixes = line_removed(span)
        return Diagnostic(OPTION_WITHOUT_EFFECT, message, at, help=hint, about=key, fixes=fixes)
    known = [name.replace("_", "-") for name in READINGS if name not in NOT_RECORDED]
    near = near_name(key, known)
    hint = f"did you mean `option {near}`?" if near else f"options are {listed(known)}"
    fixes = word_exchanged(span, key, near) or line_removed(span)
    return Diagnostic(UNKNOWN_OPTION, f"there is no option `{key}`", at, help=hint, about=key, fixes=fixes)
