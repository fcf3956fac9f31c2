"""What a text means beside its model: a few lines as constraints, a complete plan as it stands."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...grammar.parser import parse_document
from ...grammar.resolve import resolve
from ...ir import WAYS, Device, Diagnostic, Diagnostics, Never, Plan, Source, verify
from ..lines.binding import bind_plan
from ..lines.option_lines import check_options
from ..lines.without_model import contradictions_of_text


@dataclass(frozen=True, slots=True)
class Subject:
    """A text read as far as it can be."""

    source: Source
    plan: Plan
    base: Plan | None
    """The plan whose module tree the text is about; the text itself when it has a table."""
    found: tuple[Diagnostic, ...]

    @property
    def complete(self) -> bool:
        """Say whether the text is meant as a complete plan: it names its model or holds its table."""
        return self.plan.tree is not None or bool(self.plan.model.name)


def read_subject(text: str, name: str = "<text>", companion: Plan | None = None) -> Subject:
    """Read a text; wrong lines are findings and the others are read as if they were alone."""
    diagnostics = Diagnostics()
    source = Source(name, text)
    plan = resolve(parse_document(source, diagnostics), diagnostics)
    base = plan if plan.tree is not None else companion
    return Subject(source, plan, base, tuple(diagnostics))


def findings(subject: Subject) -> tuple[Diagnostic, ...]:
    """Return everything there is to say about a text: about its lines, and about its model."""
    diagnostics = Diagnostics(subject.found)
    wrong = bool(diagnostics.errors)
    check_options(subject.plan, diagnostics)
    if subject.base is None or subject.base.tree is None:
        diagnostics.extend(contradictions_of_text(subject.plan))
        diagnostics.extend(verify(subject.plan) if subject.complete and not wrong else ())
    elif subject.complete:
        # While a line cannot be read its places are missing, and saying so would be noise.
        whole = not wrong and all(unit.store for unit in subject.plan.units) and bool(subject.plan.units)
        bind_plan(subject.plan, subject.base.tree, diagnostics, complete=whole)
    else:
        diagnostics.extend(_overriding(subject.plan, subject.base))
    return tuple(diagnostics)


def _overriding(plan: Plan, base: Plan) -> Diagnostics:
    from ..passes.apply_overrides import ApplyOverrides

    found = Diagnostics()
    devices = base.devices or tuple(Device(name, None) for name in _named(plan))
    ApplyOverrides((plan,)).run(replace(base, units=(), devices=devices), found)
    return found


def _named(plan: Plan) -> list[str]:
    """Return every device a text names: without budgets to compare with, all of them are right."""
    declared = [device.name for device in plan.devices]
    used = [name for unit in plan.units for name in (unit.store, unit.run) if name]
    bans = [rule.device for rule in plan.constraints if isinstance(rule, Never) and rule.device not in WAYS]
    reserved = [reserve.device for reserve in plan.reserves]
    return [name for name in dict.fromkeys([*used, *bans, *reserved]) if name not in declared]
