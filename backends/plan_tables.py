"""A plan as tables and back: one table per kind of node, one row here per column, both directions.

Spans are not stored: a plan file was not written by hand.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

from ..ir import (
    RULES,
    WORKLOADS,
    Account,
    Atomic,
    Cache,
    Constraint,
    Demand,
    Device,
    Diagnostic,
    Link,
    Model,
    Never,
    Outcome,
    Phase,
    Plan,
    Prediction,
    Reason,
    Reserve,
    Rule,
    Severity,
    Split,
    TieGroup,
    Together,
    Unit,
    Work,
    Workload,
)
from ..ir.purposes import LEDGER_LINES
from . import tree_tables
from .columns import MalformedError, Reader, Table, Writer
from .later_tables import with_later, write_later
from .wire import (
    BANNED,
    BITS,
    COUNT,
    DEVICE,
    END,
    FLAG,
    NUMBER,
    PATH,
    SOME,
    SOME_BITS,
    SOME_DEVICE,
    SOME_OR_0,
    SOME_STRING,
    STRING,
    Column,
    Rows,
    many,
    numbered,
    words,
)


class _Option(NamedTuple):
    key: str
    value: str


class _Rule(NamedTuple):
    """A constraint of any kind."""

    kind: str
    targets: tuple[str, ...]
    device: str | None
    added: bool


class _Finding(NamedTuple):
    """A diagnostic with its rule, which a reader may not know."""

    code: str
    severity: Severity
    summary: str
    message: str
    help: str | None
    notes: tuple[str, ...]


_KINDS: Final = ("atomic path", "atomic class", "split", "never", "together", "phase")
_PURPOSE: Final = Column("purpose", STRING)
_ADDED: Final = Column("added", FLAG)
_PATTERNS: Final = (Column("path", PATH),)
_TEXTS: Final = (Column("text", STRING),)
_MODEL: Final = Rows("model", Model, (Column("name", STRING), Column("digest", SOME_STRING)))
_OPTIONS: Final = Rows("options", _Option, (Column("key", STRING), Column("value", STRING)))
_DEVICES: Final = Rows("devices", Device, (
    Column("name", DEVICE),
    Column("pool", SOME_STRING),
    Column("at", SOME_STRING),
    Column("origin", STRING),
    Column("measured", STRING),
    Column("memory", SOME),
    Column("margin", SOME_OR_0),
    Column("pool_memory", SOME),
    Column("bandwidth", SOME),
    Column("few", SOME),
    Column("link", SOME),
    Column("flops", SOME),
    Column("latency", SOME),
    many("dtypes", "device_flops", Column("dtype", STRING), Column("flops", NUMBER), field="dtype_flops"),
))  # fmt: skip
_LINKS: Final = Rows(
    "links", Link, (Column("a", END), Column("b", END), Column("rate", NUMBER), Column("latency", SOME))
)
_WORKLOAD: Final = Rows("workload", Workload, (
    Column("kind", numbered(WORKLOADS, "a workload has a kind this version does not know")),
    Column("rows", COUNT),
    Column("prompt", NUMBER),
    Column("tokens", NUMBER),
    _ADDED,
), most=1)  # fmt: skip
_CONSTRAINTS: Final = Rows("constraints", _Rule, (
    Column("kind", numbered(_KINDS, "a constraint is none of those of this version")),
    many("targets", "constraint_targets", *_PATTERNS),
    Column("device", BANNED),
    _ADDED,
))  # fmt: skip
_TIES: Final = Rows("ties", TieGroup, (many("tensors", "tie_tensors", *_PATTERNS),))
_RESERVES: Final = Rows(
    "reserves",
    Reserve,
    (Column("nbytes", NUMBER), Column("device", DEVICE), _PURPOSE, _ADDED),
)
_CACHES: Final = Rows("caches", Cache, (
    Column("nbytes", NUMBER),
    Column("device", DEVICE),
    many("patterns", "cache_patterns", *_PATTERNS),
    _ADDED,
))  # fmt: skip
_DEMANDS: Final = Rows("demands", Demand, (Column("nbytes", NUMBER), Column("path", PATH), _PURPOSE, _ADDED))
_WORK: Final = Rows("work", Work, (Column("flops", NUMBER), Column("path", PATH), Column("tokens", NUMBER)))
_UNITS: Final = Rows("units", Unit, (
    Column("path", PATH),
    Column("store", SOME_DEVICE),
    Column("run", SOME_DEVICE),
    Column("reason", words(Reason, "a unit has a reason this version does not know", some=True)),
    Column("rows", FLAG, "by_rows"),
))  # fmt: skip
_LEDGER: Final = Rows(
    "ledger",
    Account,
    (Column("device", DEVICE), *(Column(line, NUMBER) for line in LEDGER_LINES), Column("phase", STRING)),
)
_OUTCOME: Final = Rows("outcome", Outcome, (
    Column("objective", STRING),
    Column("value", BITS),
    Column("bound", BITS),
    Column("status", STRING),
    Column("hops", NUMBER),
    many("notes", "outcome_notes", *_TEXTS),
), most=1)  # fmt: skip
_PREDICTED: Final = Rows("predicted", Prediction, (
    Column("prompt", BITS),
    Column("token", BITS),
    Column("prompt_limit", STRING),
    Column("token_limit", STRING),
    Column("simple", STRING),
    Column("simple_seconds", SOME_BITS),
    Column("seconds", SOME_BITS),
), most=1)  # fmt: skip
_DIAGNOSTICS: Final = Rows("diagnostics", _Finding, (
    Column("code", STRING),
    Column("severity", words(Severity, "a diagnostic has an unknown severity")),
    Column("summary", STRING),
    Column("message", STRING),
    Column("help", SOME_STRING),
    many("notes", "diagnostic_notes", *_TEXTS),
))  # fmt: skip
_HEAD: Final = (
    _MODEL, _OPTIONS, _DEVICES, _LINKS, _WORKLOAD, _CONSTRAINTS, _TIES, _RESERVES, _CACHES, _DEMANDS, _WORK,
    _UNITS,
)  # fmt: skip
_TAIL: Final = (_LEDGER, _OUTCOME, _PREDICTED, _DIAGNOSTICS)
TABLES: Final = {
    **{name: columns for rows in _HEAD for name, columns in rows.tables.items()},
    **tree_tables.TABLES,
    **{name: columns for rows in _TAIL for name, columns in rows.tables.items()},
    "strings": ("size", "text"),
    "paths": ("parent", "name"),
}
"""The columns of each table, in the order in which they are written."""


def to_tables(plan: Plan) -> dict[str, Table]:
    """Return the tables of a plan."""
    writer = Writer()
    outcomes = () if plan.outcome is None else (plan.outcome,)
    ready = {
        **_MODEL.write((plan.model,), writer),
        **_OPTIONS.write([_Option(*option) for option in plan.options], writer),
        **_DEVICES.write(plan.devices, writer),
        **_LINKS.write(plan.links, writer),
        **_WORKLOAD.write(() if plan.workload is None else (plan.workload,), writer),
        **_CONSTRAINTS.write([*map(_rule_of, plan.constraints)], writer),
        **_TIES.write(plan.ties, writer),
        **_RESERVES.write(plan.reserves, writer),
        **_CACHES.write(plan.caches, writer),
        **_DEMANDS.write(plan.demands, writer),
        **_WORK.write(plan.work, writer),
        **_UNITS.write(plan.units, writer),
        **_LEDGER.write(plan.ledger, writer),
        **_OUTCOME.write(outcomes, writer),
        **_PREDICTED.write([each.predicted for each in outcomes if each.predicted is not None], writer),
        **_DIAGNOSTICS.write([*map(_finding_of, plan.diagnostics)], writer),
        **tree_tables.write_tree(plan.tree, writer),
    }
    ready |= writer.tables()
    return {name: ready[name] for name in TABLES} | write_later(plan)


def from_tables(tables: dict[str, Table]) -> Plan:
    """Return the plan of checked-for-shape tables; raises `MalformedError` for anything that cannot be."""
    reader = Reader(tables)
    models = _MODEL.read(reader)
    if len(models) != 1:
        raise MalformedError("table `model` must have one row")
    outcome, predicted = next(iter(_OUTCOME.read(reader)), None), next(iter(_PREDICTED.read(reader)), None)
    plan = Plan(
        model=models[0],
        options=tuple((option.key, option.value) for option in _OPTIONS.read(reader)),
        devices=_DEVICES.read(reader),
        links=_LINKS.read(reader),
        workload=next(iter(_WORKLOAD.read(reader)), None),
        constraints=tuple(map(_constraint_of, _CONSTRAINTS.read(reader))),
        ties=_TIES.read(reader),
        reserves=_RESERVES.read(reader),
        caches=_CACHES.read(reader),
        demands=_DEMANDS.read(reader),
        work=_WORK.read(reader),
        units=_UNITS.read(reader),
        tree=tree_tables.read_tree(reader),
        ledger=_LEDGER.read(reader),
        outcome=None if outcome is None else replace(outcome, predicted=predicted),
        diagnostics=tuple(map(_diagnostic_of, _DIAGNOSTICS.read(reader))),
    )
    return with_later(plan, reader, frozenset(tables))


def _rule_of(constraint: Constraint) -> _Rule:
    added = constraint.added
    match constraint:
        case Atomic(target, by_class):
            return _Rule("atomic class" if by_class else "atomic path", (target,), None, added)
        case Split(pattern):
            return _Rule("split", (pattern,), None, added)
        case Never(pattern, device):
            return _Rule("never", (pattern,), device, added)
        case Together(patterns):
            return _Rule("together", patterns, None, added)
        case Phase(patterns):
            return _Rule("phase", patterns, None, added)


def _constraint_of(rule: _Rule) -> Constraint:
    match rule:
        case _Rule(("atomic path" | "atomic class") as kind, (target,), None, added):
            return Atomic(target, by_class=kind == "atomic class", added=added)
        case _Rule("split", (pattern,), None, added):
            return Split(pattern, added=added)
        case _Rule("never", (pattern,), str(device), added):
            return Never(pattern, device, added=added)
        case _Rule("together", patterns, None, added):
            return Together(patterns, added=added)
        case _Rule("phase", patterns, None, added):
            return Phase(patterns, added=added)
    raise MalformedError("a constraint is none of those of this version")


def _finding_of(found: Diagnostic) -> _Finding:
    return _Finding(found.code, found.severity, found.rule.summary, found.message, found.help, found.notes)


def _diagnostic_of(found: _Finding) -> Diagnostic:
    """Return a diagnostic; one of a newer version is known by what the file says of its rule."""
    rule = RULES.get(found.code) or Rule(found.code, found.severity, found.summary)
    return Diagnostic(rule, found.message, notes=found.notes, help=found.help)
