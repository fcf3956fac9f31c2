"""``--for`` and ``--read``: what another engine is told of a plan, and what its own planner printed."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace

from ...backends import Backend
from ...backends.engines import ENGINES, Engine
from ...grammar import parse
from ...ir import Device, Diagnostic, Diagnostics, Model, Plan, PlanError, Severity
from ...ir.near import near_name
from ...ir.rules.engines import ENGINE_LINE, UNKNOWN_ENGINE
from ...ir.rules.searching import SPILL
from ...ir.wording import in_words, joined_words
from ..driver.compile import compile_lowered
from ..driver.options import Options
from ..machine.this_machine import this_machine

READERS = tuple(name for name, engine in ENGINES.items() if engine.read is not None)


def engine_names() -> tuple[str, ...]:
    """Return the names of the engines a plan can be told to."""
    return tuple(ENGINES)


def engine_named(name: str) -> Engine:
    """Return an engine by its name, however it is punctuated; raises `PlanError` for no engine."""
    known = {_folded(each): engine for each, engine in ENGINES.items()}
    if _folded(name) in known:
        return known[_folded(name)]
    near = near_name(name.lower(), tuple(ENGINES))
    help_ = f"did you mean `{near}`?" if near else f"use one of {in_words(ENGINES)}"
    raise PlanError([Diagnostic(UNKNOWN_ENGINE, f"no engine is called `{name}` here", help=help_)])


def _folded(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def engine_form(name: str, *, to_file: bool) -> Backend:
    """Return an engine as a form to write: its file where one is wanted and it has one, else the words."""
    engine = engine_named(name)

    def emit(plan: Plan) -> bytes:
        errors = [each for each in engine.accepts(plan) if each.rule.severity is Severity.ERROR]
        if errors:
            raise PlanError(errors)
        spelled = engine.file if to_file and engine.file is not None else engine.emit
        return spelled(plan).encode()

    def losses(plan: Plan) -> tuple[Diagnostic, ...]:
        return tuple(each for each in engine.accepts(plan) if each.rule.severity is not Severity.ERROR)

    return Backend(engine.name, "", engine.says, emit, losses=losses)


def engine_lines(
    name: str | None,
    line: str | None,
    start: Plan,
    devices: tuple[Device, ...] | None,
) -> tuple[Plan, ...]:
    """Return the lines an engine adds to a compilation: its fixed parts, and what its planner printed.

    A finished plan gets none: what is written there is what the engine is told.
    """
    if name is None and line is None:
        return ()
    added: list[Plan] = []
    if line is not None:
        added.append(_read(_reader(name), line, _sized(start), devices))
    elif name is not None and not _finished(start):
        engine = engine_named(name)
        text = "" if engine.lines is None else engine.lines(_sized(start))
        if text:
            added.append(parse(text, name=f"<{engine.name}>"))
    return tuple(added)


def engine_asks(name: str | None, line: str) -> tuple[Plan, ...]:
    """Return the workload a line of an engine's planner is for, as lines; none where it leaves it open."""
    asks = _reader(name).asks
    found = None if asks is None else asks(line)
    return () if found is None else (Plan(Model(""), workload=found),)


def _reader(name: str | None) -> Engine:
    return ENGINES[READERS[0]] if name is None else engine_named(name)


def within_engine(name: str, plan: Plan, options: Options) -> Plan:
    """Return a plan the engine can be told: this one, or the first of the engine's layouts that fits.

    Where something spills the layouts are tried first: they are what people recognise and can say in words.
    Fewer bytes on the accelerators fit wherever more do, unless the host is what is too small: so the
    layouts are halved, and tried one after the other only when the last of them does not fit.
    """
    engine = engine_named(name)
    spilled = any(each.rule is SPILL for each in plan.diagnostics)
    if engine.layouts is None or not plan.ledger or not (spilled or _refused(engine, plan)):
        return plan
    layouts = engine.layouts(plan)
    tried: dict[int, Plan | None] = {}

    def fits(index: int) -> bool:
        if index not in tried:
            tried[index] = _laid_out(engine, plan, options, layouts[index])
        return tried[index] is not None

    if layouts and fits(len(layouts) - 1):
        index = bisect_left(range(len(layouts)), 1, key=lambda each: int(fits(each)))
    else:
        index = next((each for each in range(len(layouts)) if fits(each)), -1)
    return plan if index < 0 else tried[index] or plan


def _laid_out(engine: Engine, plan: Plan, options: Options, text: str) -> Plan | None:
    lines = parse(text, name=f"<{engine.name}>")
    try:
        found = compile_lowered(plan, options, (lines,))
    except PlanError:
        return None
    return None if _refused(engine, found) else found


def _refused(engine: Engine, plan: Plan) -> bool:
    return any(each.severity is Severity.ERROR for each in engine.accepts(plan))


def _sized(plan: Plan) -> Plan:
    """Return a plan with the bytes that layers are told by; lines of a person may come without."""
    from ..passes.annotate_sizes import AnnotateSizes

    unsized = plan.tree is not None and plan.tree.nbytes is None
    return AnnotateSizes().run(plan, Diagnostics()) if unsized else plan


def _finished(plan: Plan) -> bool:
    return bool(plan.units) and all(unit.store is not None for unit in plan.units)


def _read(engine: Engine, line: str, plan: Plan, devices: tuple[Device, ...] | None) -> Plan:
    if engine.read is None:
        message = f"{engine.name} prints no line that is read here"
        raise PlanError([Diagnostic(ENGINE_LINE, message, help=f"those of {joined_words([*READERS])} are")])
    diagnostics = Diagnostics()
    devices = devices or plan.devices or this_machine(diagnostics)
    diagnostics.raise_errors()
    found = engine.read(line, replace(plan, devices=devices, units=()))
    return Plan(model=found.model, units=found.units, workload=found.workload)
