"""``--explain PATH``: why a unit is there, why it is nowhere else, and what would change it.

Everything said is read off the plan: its ledger, its terms, its reasons. Nothing is solved again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ...ir import (
    CPU,
    Device,
    Diagnostic,
    ModuleTree,
    Plan,
    PlanError,
    Reason,
    Together,
    Unit,
    atomic_modules,
    human_size,
    is_accelerator,
    is_within,
)
from ...ir.near import near_name
from ...ir.rules.usage import UNKNOWN_UNIT
from ...ir.wording import in_words
from .explain_device import device_facts
from .moving import Moving, forbidding, is_named, lines_that_move, moving_with, shortage

_REASONS: Final = {
    Reason.WRITTEN: "a line of the plan or an override file says so",
    Reason.GREEDY: "it is the first device in order that had room",
    Reason.TIED: "what it shares storage with is there",
    Reason.FALLBACK: "it was brought there to repair an empty device or an avoidable spill",
    Reason.SEARCHED: "the search put it there",
    Reason.BALANCED: "it keeps the devices evenly filled",
    Reason.SPILLED: "no accelerator had room for it",
    Reason.ADDED: "a compile put it there, and its text does not say why",
}

_LISTED: Final = 8


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer as labelled sentences, in the order they are shown."""

    path: str
    facts: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        """Return the answer as text, one fact per line, labels in a column."""
        column = max(len(label) for label, _ in self.facts)
        rows = (f"  {label:<{column}}  {text}" for label, text in self.facts)
        return "\n".join([self.path or "the whole model", *rows]) + "\n"


def explain(plan: Plan, path: str) -> Explanation:
    """Explain where a module or tensor is, or what a device holds.

    Raises:
        PlanError: the plan does not know the path.

    """
    path = path.strip().removesuffix(".")
    if any(device.name == path for device in plan.devices) and not _is_module(plan, path):
        return Explanation(path, tuple(device_facts(plan, path)))
    units = [unit for unit in plan.units if is_within(unit.path, path)]
    holder = _holder(plan, path)
    if holder is not None and holder.path != path:
        _check_exists(plan, path)
        part = ("part of", f"{f'`{holder.path}`' if holder.path else 'the model'}, which is in one place")
        unit = replace(holder, path=_movable(plan, path, holder))
        whole = [("goes with", f"`{unit.path or '.'}`, which is never split")] if unit.path != path else []
        return Explanation(path, (*_size_facts(plan, path), part, *whole, *_unit_facts(plan, unit)))
    if holder is not None and len(units) == 1:
        return Explanation(path, (*_size_facts(plan, path), *_unit_facts(plan, holder)))
    if not units:
        raise PlanError([_unknown(plan, path)])
    return Explanation(path, (*_size_facts(plan, path), *_spread_facts(plan, units)))


def _is_module(plan: Plan, path: str) -> bool:
    return plan.tree is not None and path in plan.tree.module_index


def _holder(plan: Plan, path: str) -> Unit | None:
    """Return the unit that holds a path whole: the deepest one at or above it."""
    above = [unit for unit in plan.units if is_within(path, unit.path)]
    return max(above, key=lambda unit: len(unit.path), default=None)


def _movable(plan: Plan, path: str, holder: Unit) -> str:
    """Return the smallest part of a unit that holds a path and may have a place of its own."""
    tree = plan.tree
    if tree is None:
        return holder.path
    whole = {tree.paths[module] for module in atomic_modules(tree, plan.constraints)}
    if path in tree.tensor_index:
        owner = tree.owners[tree.tensor_index[path]]
        whole |= {tree.paths[owner]} if tree.ends[owner] == owner + 1 else set()
    above = [each for each in whole if each != path and is_within(path, each)]
    return min(above, key=len, default=path)


def _check_exists(plan: Plan, path: str) -> None:
    tree = plan.tree
    if tree is not None and path not in tree.module_index and path not in tree.tensor_index:
        raise PlanError([_unknown(plan, path)])


def _unknown(plan: Plan, path: str) -> Diagnostic:
    known: Sequence[str] = [unit.path for unit in plan.units]
    if plan.tree is not None:
        known = [*plan.tree.paths, *plan.tree.tensor_paths]
    near = near_name(path, known)
    help_ = f"did you mean `{near}`?" if near else "give the full dotted path of a module or tensor"
    notes = () if near or plan.tree is None else _children(plan.tree, path)
    return Diagnostic(UNKNOWN_UNIT, f"the plan has no `{path}`", notes=notes, help=help_)


def _children(tree: ModuleTree, path: str) -> tuple[str, ...]:
    """Return what there is below the deepest module on the way to a path that does not exist."""
    while path and path not in tree.module_index:
        path = path.rpartition(".")[0]
    above = tree.module_index.get(path, 0)
    names = [name for name, parent in zip(tree.names, tree.parents, strict=True) if parent == above]
    return (f"{f'`{path}`' if path else 'the model'} has {in_words(names, _LISTED)}",) if names else ()


def _size_facts(plan: Plan, path: str) -> Iterator[tuple[str, str]]:
    tree = plan.tree
    if tree is None or tree.nbytes is None:
        return
    module = tree.module_index.get(path)
    kind = "tensor" if module is None else tree.classes[module]
    tensors = tree.covered(path)
    count = "" if module is None else f", {len(tensors):,} tensor{'' if len(tensors) == 1 else 's'}"
    yield "is", f"{kind}, {human_size(_nbytes(plan, path))}{count}"


def _nbytes(plan: Plan, path: str) -> int:
    if plan.tree is None or plan.tree.nbytes is None:
        return 0
    covered = plan.tree.covered(path)
    return plan.tree.prefix_bytes[covered.stop] - plan.tree.prefix_bytes[covered.start]


def _spread_facts(plan: Plan, units: Sequence[Unit]) -> Iterator[tuple[str, str]]:
    for device in plan.devices:
        here = [unit for unit in units if unit.store == device.name]
        if here:
            size = human_size(sum(_nbytes(plan, unit.path) for unit in here))
            yield f"on {device.name}", f"{size} in {in_words((unit.path for unit in here), 3)}"
    yield "ask for", f"one of its parts: `--explain {units[0].path}`"


def _unit_facts(plan: Plan, unit: Unit) -> Iterator[tuple[str, str]]:
    if unit.store is None:
        yield "stored on", "no device yet"
        return
    streamed = unit.run not in {None, unit.store}
    yield "stored on", f"{unit.store}, streamed to {unit.run} to run" if streamed else unit.store
    reason = "the plan does not say" if unit.reason is None else _REASONS[unit.reason]
    if unit.reason is Reason.SEARCHED and plan.outcome is not None:
        reason += f" (objective {plan.outcome.objective})"
    if unit.span is not None:
        reason += f" ({unit.span.source.name}:{unit.span.source.position(unit.span.start)[0]})"
    yield "why there", reason
    yield from (("tied to", text) for text in _ties(plan, unit))
    moving = moving_with(plan, unit)
    for device in plan.devices:
        if device.name != unit.store and (is_accelerator(device.name) or device.name == CPU):
            yield "why not", f"{device.name}: {_why_not(plan, unit, device, moving)}"
    yield "to change", lines_that_move(plan, unit, moving)


def _ties(plan: Plan, unit: Unit) -> Iterator[str]:
    for tie in plan.ties:
        if any(is_within(path, unit.path) for path in tie.tensors):
            outside = [path for path in tie.tensors if not is_within(path, unit.path)]
            if outside:
                yield f"{in_words(outside)}; tied tensors move together"


def _why_not(plan: Plan, unit: Unit, device: Device, moving: Moving) -> str:
    rule = forbidding(plan, unit, device)
    if rule is not None:
        return f"a line says `never {rule.pattern} on {rule.device}`"
    if plan.devices.index(device) in moving.banned:
        return "a line keeps what must go along away from there"
    for line in plan.constraints:
        if isinstance(line, Together) and any(is_named(pattern, unit.path) for pattern in line.patterns):
            return f"a line keeps it together with {in_words(line.patterns)}"
    found = shortage(plan, unit, device, moving)
    if found is None:
        return "it could be there" if device.memory is None else "the plan has no ledger to tell"
    return _by_room(plan, device, found, moving)


def _by_room(plan: Plan, device: Device, found: tuple[int, int], moving: Moving) -> str:
    account = next(each for each in plan.ledger if each.device == device.name)
    short, needed = max(found), moving.needs(account)
    free = human_size(max(0, needed - short))
    if short > 0:
        where = f" in pool `{device.pool}`" if found[0] < short else ""
        return f"needs {human_size(needed)}, {free} are free{where}: {human_size(short)} short"
    if not is_accelerator(device.name):
        return "it runs faster where it is"
    if device.memory is None:
        return "it could be there"
    return f"it would fit ({human_size(needed)}, {free} are free), but was not needed there"
