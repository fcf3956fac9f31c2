"""Random placements of a traced model along its cut rules: what a planner could do at its worst."""

from __future__ import annotations

import random

from compile_plan.compiler.tracing import Trace  # noqa: TC002
from compile_plan.compiler.tracing.cuts import Cuts
from compile_plan.compiler.tracing.visitable import visit_rules
from compile_plan.ir import Atomic, Device, Model, ModuleTree, Plan, Together, Unit, never_visited


def pieces_of(tree: ModuleTree, rules: tuple[Atomic | Together, ...]) -> list[str]:
    """Open everything the rules allow; return the paths of what is left, in tree order."""
    atomic = [rule for rule in rules if isinstance(rule, Atomic)]
    classes = {rule.target for rule in atomic if rule.by_class}
    paths = {rule.target for rule in atomic if not rule.by_class}
    found: list[str] = []

    def visit(module: int) -> None:
        path = tree.paths[module]
        children = tree.children(module)
        if not children or tree.classes[module] in classes or path in paths:
            found.append(path)
            return
        found.extend(tree.tensor_paths[tensor] for tensor in tree.own_tensors(module))
        for child in children:
            visit(child)

    visit(0)
    return found


def random_plan(trace: Trace, devices: int, seed: int, *, offload: bool = False) -> Plan:
    """Put every piece on a random device; ties and what the rules join stay together.

    In some of the modules that stay whole, parts that can be visited get devices of their own.
    """
    cuts = Cuts(trace).settle()
    rules = cuts.rules()
    nevers = tuple(visit_rules(trace, cuts))
    banned = never_visited(trace.tree, nevers)
    draw = random.Random(seed)  # noqa: S311  reproducible on purpose
    names = [f"cuda:{index}" for index in range(devices)]
    places = [(name, name) for name in names]
    if offload:
        places += [("cpu", "cpu"), ("cpu", names[0]), ("cpu", names[-1])]
    pieces = pieces_of(trace.tree, rules)
    if seed % 2:  # planners may leave out what holds nothing
        pieces = [piece for piece in pieces if len(trace.tree.covered(piece))]
    leader = _joined(trace.tree, pieces, rules)
    chosen = {piece: draw.choice(places) for piece in pieces}
    units: list[Unit] = []
    for piece in pieces:
        units.append(Unit(piece, *chosen[leader[piece]]))
        if draw.random() < 0.6:
            units += [Unit(path, *draw.choice(places)) for path in _parts(trace.tree, piece, banned, draw)]
    listed = tuple(Device(name, None) for name in (*names, "cpu"))
    return Plan(
        model=Model("random"),
        devices=listed,
        units=tuple(units),
        constraints=(*rules, *nevers),
        tree=trace.tree,
    )


def bad_plan(trace: Trace, seed: int) -> Plan:
    """Cut everything down to its leaves, without asking where that is safe."""
    draw = random.Random(seed)  # noqa: S311  reproducible on purpose
    pieces = pieces_of(trace.tree, ())
    leader = _joined(trace.tree, pieces, ())
    chosen = {piece: draw.choice(("cuda:0", "cuda:1")) for piece in pieces}
    units = tuple(Unit(piece, chosen[leader[piece]], chosen[leader[piece]]) for piece in pieces)
    devices = tuple(Device(name, None) for name in ("cuda:0", "cuda:1", "cpu"))
    return Plan(model=Model("bad"), devices=devices, units=units, tree=trace.tree)


def _parts(tree: ModuleTree, piece: str, banned: frozenset[int], draw: random.Random) -> list[str]:
    """Choose parts of a whole module that can be visited; one may be in another."""
    top = tree.module_index.get(piece)
    inside = range(top + 1, tree.ends[top]) if top is not None else range(0)
    free = [m for m in inside if m not in banned and tree.tensors(m) and _is_untied(tree, m)]
    return [tree.paths[module] for module in sorted(draw.sample(free, min(len(free), draw.randint(1, 3))))]


def _is_untied(tree: ModuleTree, module: int) -> bool:
    inside = tree.tensors(module)
    return not any((tree.storages[t] in inside) != (t in inside) for t in range(len(tree.tensor_names)))


def _joined(tree: ModuleTree, pieces: list[str], rules: tuple[Atomic | Together, ...]) -> dict[str, str]:
    known = set(pieces)
    groups = [known.intersection(rule.patterns) for rule in rules if isinstance(rule, Together)]
    by_storage: dict[int, set[str]] = {}
    for piece in pieces:
        for tensor in tree.covered(piece):
            by_storage.setdefault(tree.storages[tensor], set()).add(piece)
    groups = [group for group in (*groups, *by_storage.values()) if len(group) > 1]
    leader = {piece: piece for piece in pieces}
    for group in groups:
        old = {leader[piece] for piece in group}
        new = min(old)
        leader = {piece: new if head in old else head for piece, head in leader.items()}
    return leader
