"""Small models, made by hand, for tests of the search; sizes are bytes."""

from __future__ import annotations

from dataclasses import replace

from compile_plan.compiler.passes.account_memory import AccountMemory
from compile_plan.compiler.passes.emit_warnings import EmitWarnings
from compile_plan.compiler.passes.pipeline import run_passes
from compile_plan.compiler.passes.search_placements import SearchPlacements
from compile_plan.ir import (
    Device,
    Diagnostics,
    Model,
    ModuleTree,
    Plan,
    Role,
    TieGroup,
    Unit,
    group_storages,
)


def tree_of(nested, ties=()):
    """Build a tree from ``{"name": bytes or nested}``; a leaf is a Linear with one weight.

    A key may be ``name:Class``. ``ties`` are pairs of leaf paths that share storage.
    """
    columns = {key: [] for key in ("names", "classes", "parents", "ends", "first", "sizes", "owners")}

    def add(name, class_name, parent, body):
        index = len(columns["names"])
        columns["names"].append(name)
        columns["classes"].append(class_name)
        columns["parents"].append(parent)
        columns["ends"].append(0)
        columns["first"].append(len(columns["sizes"]))
        if isinstance(body, int):
            columns["sizes"].append(body)
            columns["owners"].append(index)
        else:
            for key, inner in body.items():
                child, _, kind = key.partition(":")
                add(child, kind or ("Linear" if isinstance(inner, int) else "Block"), index, inner)
        columns["ends"][index] = len(columns["names"])

    add("", "Net", -1, nested)
    sizes = columns["sizes"]
    tree = ModuleTree(
        names=tuple(columns["names"]),
        classes=tuple(columns["classes"]),
        parents=tuple(columns["parents"]),
        ends=tuple(columns["ends"]),
        first_tensors=(*columns["first"], len(sizes)),
        tensor_names=("weight",) * len(sizes),
        shapes=tuple((size,) for size in sizes),
        dtypes=("uint8",) * len(sizes),
        roles=(Role.PARAMETER,) * len(sizes),
        storages=tuple(range(len(sizes))),
        nbytes=tuple(sizes),
    )
    return _tied(tree, ties) if ties else tree


def _tied(tree, ties):
    keys = list(range(len(tree.tensor_names)))
    for first, second in ties:
        a, b = (tree.tensor_index[f"{path}.weight"] for path in (first, second))
        keys = [keys[a] if key == keys[b] else key for key in keys]
    storages = group_storages(keys)
    sizes = tuple(n if storages[i] == i else 0 for i, n in enumerate(tree.nbytes))
    return replace(tree, storages=storages, nbytes=sizes)


def plan_of(tree, budgets, **fields):
    """Make an unplaced plan; ``budgets`` maps device names to bytes, or are devices."""
    devices = tuple(
        d if isinstance(d, Device) else Device(d, None if d == "disk" else budgets[d]) for d in budgets
    )
    groups = {}
    for index, storage in enumerate(tree.storages):
        groups.setdefault(storage, []).append(tree.tensor_paths[index])
    ties = tuple(TieGroup(tuple(paths)) for paths in groups.values() if len(paths) > 1)
    units = fields.pop("units", None) or tuple(Unit(tree.paths[child]) for child in tree.children(0))
    return Plan(Model("m"), devices=devices, tree=tree, ties=ties, units=units, **fields)


def placed(plan, **options):
    """Run the search, the ledger and the warnings; returns the plan with its diagnostics."""
    diagnostics = Diagnostics()
    result = run_passes(plan, (SearchPlacements(**options), AccountMemory(), EmitWarnings()), diagnostics)
    return replace(result, diagnostics=tuple(diagnostics))


def leaves(**sizes):
    """Return a flat model of leaves."""
    return tree_of(sizes)


def language_model(blocks, block, embed, head, *, tied=False):
    """Return embedding, ``blocks`` residual blocks that are never split, norm and head."""
    tree = tree_of(
        {
            "embed:Embedding": embed,
            "layers:ModuleList": {
                f"{i}:Blk": {"a": block // 2, "b": block - block // 2} for i in range(blocks)
            },
            "norm:Norm": 1,
            "head": head,
        }
    )
    return _tied(tree, [("embed", "head")]) if tied else tree


def stored(plan):
    """Return the bytes by store device."""
    return {account.device: account.weights + account.buffers for account in plan.ledger}


def where(plan):
    """Return ``path: store`` or ``path: store>run``."""
    return {u.path: u.store if u.store == u.run else f"{u.store}>{u.run}" for u in plan.units}
