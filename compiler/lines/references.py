"""What lines refer to: paths, classes, devices and ties that have to exist, whatever road a line came by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...grammar.words import path_of, spell_name, spell_path
from ...ir import (
    WAYS,
    Atomic,
    Constraint,
    Demand,
    Diagnostic,
    Diagnostics,
    Label,
    ModuleTree,
    Never,
    Phase,
    Plan,
    Span,
    Split,
    TieGroup,
    Together,
    Work,
    device_type,
)
from ...ir.changes import line_added, line_removed, line_written, word_exchanged
from ...ir.near import near_name
from ...ir.patterns import match_paths
from ...ir.rules.language import CONTRADICTION, UNKNOWN_CLASS, UNKNOWN_PATH
from ...ir.rules.laws import UNDECLARED_DEVICE
from ...ir.wording import in_words, joined_words
from .unknown_paths import Unknown, report_unknown


def check_references(plan: Plan, tree: ModuleTree, diagnostics: Diagnostics) -> None:
    """Report every line of a plan that names nothing in the model or no device of the plan.

    What a compile added was found in a model, which may have been another one; it asks for nothing. Paths
    are reported together, so that a prefix that moved is one finding whatever lines it stands in.
    """
    unknown = [Unknown(unit.path, unit.span) for unit in plan.units if not match_paths(tree, unit.path)]
    for rule in plan.constraints:
        unknown += () if rule.added else _unknown_of_rule(tree, rule, diagnostics)
    needs: list[Demand | Work] = [each for each in plan.demands if not each.added]
    needs += plan.work
    unknown += [Unknown(need.path, need.span) for need in needs if not match_paths(tree, need.path)]
    for cache in plan.caches:
        unknown += () if cache.added else _unmatched(tree, cache.patterns, cache.span)
    for tie in plan.ties:
        unknown += _unknown_of_tie(tree, tie, diagnostics)
    if unknown:
        report_unknown(tree, unknown, diagnostics)
    diagnostics.extend(undeclared(plan))


def _unknown_of_rule(tree: ModuleTree, rule: Constraint, diagnostics: Diagnostics) -> Sequence[Unknown]:
    match rule:
        case Atomic(target, by_class=True):
            if target not in tree.classes:
                diagnostics.add(unknown_class(tree, target, rule.span))
            return ()
        case Atomic(target) if target in tree.classes and not match_paths(tree, target):
            diagnostics.add(_class_as_path(target, rule.span))
            return ()
        case Atomic(pattern) | Split(pattern) | Never(pattern):
            return _unmatched(tree, (pattern,), rule.span)
        case Together(patterns) | Phase(patterns):
            return _unmatched(tree, patterns, rule.span)


def _unmatched(tree: ModuleTree, patterns: Sequence[str], span: Span | None) -> list[Unknown]:
    return [Unknown(pattern, span) for pattern in patterns if not match_paths(tree, pattern)]


def unknown_class(tree: ModuleTree, name: str, span: Span | None = None) -> Diagnostic:
    """Say that no module has this class, with the class that was meant or those there are."""
    classes = dict.fromkeys(tree.classes)
    near = near_name(name, classes)
    return Diagnostic(
        UNKNOWN_CLASS,
        f"no module of this model is a `{name}`",
        Label(span, "no such class") if span else None,
        notes=(f"classes are {in_words(classes, 8)}",),
        help=f"did you mean `{near}`?" if near else "correct or remove the line",
        about=name,
        fixes=word_exchanged(span, name, near) or line_removed(span),
    )


def _class_as_path(name: str, span: Span | None) -> Diagnostic:
    return Diagnostic(
        UNKNOWN_PATH,
        f"`{name}` is a class of this model, not a path",
        Label(span, "a class") if span else None,
        help=f"write `atomic class {name}`",
        about=name,
        fixes=line_written(span, f"atomic class {spell_name(name)}"),
    )


def _unknown_of_tie(tree: ModuleTree, tie: TieGroup, diagnostics: Diagnostics) -> list[Unknown]:
    """Report a tie the model does not have: a text cannot make two tensors share storage."""
    missing = [path for path in tie.tensors if path not in tree.tensor_index]
    storages = {tree.storages[tree.tensor_index[path]] for path in tie.tensors if path not in missing}
    if len(storages) > 1:
        named = joined_words([f"`{path}`" for path in tie.tensors])
        message = f"{named} do not share storage in this model"
        at = Label(tie.span, "not tied in the model") if tie.span else None
        line = f"together {' '.join(spell_path(path_of(path)) for path in tie.tensors)}"
        hint = f"write `{line}`, or remove the line"
        fixes = (*line_written(tie.span, line), *line_removed(tie.span))
        diagnostics.add(Diagnostic(CONTRADICTION, message, at, help=hint, about=tie.tensors[0], fixes=fixes))
    return [Unknown(path, tie.span) for path in missing]


def undeclared(plan: Plan) -> Iterator[Diagnostic]:
    """Report devices that no `device` line and no budget declares, once for each line."""
    declared = [device.name for device in plan.devices]
    for name, span in dict.fromkeys(_named_devices(plan)):
        if name in declared:
            continue
        alike = [each for each in declared if device_type(each) == device_type(name)]
        near = alike[0] if len(alike) == 1 else near_name(name, declared)
        line = f"device {name} memory 10GiB"
        declare = f"declare it: `{line}`"
        yield Diagnostic(
            UNDECLARED_DEVICE,
            f"no device is named `{name}`",
            Label(span, "not declared") if span else None,
            notes=(f"declared here: {in_words(declared)}",),
            help=f"write `{near}`, or {declare}" if near else f"name one of those, or {declare}",
            about=name,
            fixes=(*word_exchanged(span, name, near), *line_added(line)),
        )


def _named_devices(plan: Plan) -> Iterator[tuple[str, Span | None]]:
    for unit in plan.units:
        places = {unit.store, unit.run} - {None}
        yield from ((name, unit.span) for name in sorted(filter(None, places)))
    yield from ((reserve.device, reserve.span) for reserve in plan.reserves)
    yield from ((cache.device, cache.span) for cache in plan.caches)
    yield from (
        (rule.device, rule.span)
        for rule in plan.constraints
        if isinstance(rule, Never) and rule.device not in WAYS
    )
