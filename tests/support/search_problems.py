"""Random planning problems: small models with every kind of rule, budgets from nothing to plenty."""

from __future__ import annotations

from dataclasses import replace

from compile_plan.compiler.driver.options import Options
from compile_plan.ir import Atomic, Demand, Device, Model, Never, Plan, Reason, Reserve, Split, Together, Unit
from hypothesis import strategies as st
from search_models import tree_of

OBJECTIVES = (None, "fewest-devices", "balance", "headroom", "latency", "throughput", "accelerator-bytes")
PURPOSES = ("kv cache", "activations", "logits", "other")


@st.composite
def trees(draw):
    nested = {}
    for i in range(draw(st.integers(1, 6))):
        match draw(st.sampled_from(["leaf", "block", "list"])):
            case "leaf":
                nested[f"m{i}"] = draw(st.integers(0, 30))
            case "block":
                nested[f"m{i}:Blk"] = {"a": draw(st.integers(0, 20)), "b": draw(st.integers(1, 20))}
            case _:
                size = draw(st.integers(1, 15))
                layers = {f"{j}:Layer": {"x": size, "y": size + 1} for j in range(draw(st.integers(1, 4)))}
                nested[f"m{i}:ModuleList"] = layers
    tree = tree_of(nested)
    paths = [path.removesuffix(".weight") for path in tree.tensor_paths]
    pairs = [(a, b) for i, a in enumerate(paths) for j, b in enumerate(paths) if i < j and _equal(tree, i, j)]
    return tree_of(nested, [draw(st.sampled_from(pairs))]) if pairs and draw(st.booleans()) else tree


def _equal(tree, first, second):
    return tree.nbytes[first] == tree.nbytes[second]


@st.composite
def devices(draw):
    pool = draw(st.sampled_from([None, None, None, "unified"]))
    host = draw(st.sampled_from(["", "node1/"]))
    size = draw(st.sampled_from([None, 50, 100])) if pool else None
    margins = st.sampled_from([0, 0, 5])
    found = [
        Device(f"{host if i else ''}cuda:{i}", draw(st.integers(0, 80)), draw(margins), pool)
        for i in range(draw(st.integers(0, 3)))
    ]
    if draw(st.integers(0, 4)) or not found:
        found.append(Device("cpu", draw(st.sampled_from([0, 20, 60, 1000])), pool=pool))
        if draw(st.booleans()):
            found.append(Device("disk", None))
    return tuple(replace(device, pool_memory=size) if device.pool else device for device in found)


@st.composite
def rules(draw, modules, names):
    module = st.sampled_from(modules)
    pins, constraints = [], []
    for _ in range(draw(st.integers(0, 2))):
        kind = draw(st.sampled_from(["atomic", "split", "never", "together", "pin"]))
        path = draw(module)
        match kind:
            case "atomic":
                constraints.append(Atomic(path))
            case "split":
                constraints.append(Split(path))
            case "never":
                constraints.append(Never(path, draw(st.sampled_from(names))))
            case "together":
                constraints.append(Together((path, draw(module))))
            case _:
                at = draw(st.sampled_from([name for name in names if name != "disk"]))
                pins.append(Unit(path, at, at, Reason.WRITTEN))
    return Plan(Model("m"), constraints=tuple(dict.fromkeys(constraints)), units=tuple(pins))


@st.composite
def problems(draw):
    """Draw a lowered plan, what is written about it, and the options to compile it with."""
    tree, listed = draw(trees()), draw(devices())
    names = [device.name for device in listed]
    modules = [path for path in tree.paths if path]
    sizes = st.integers(0, 30)
    demands = st.builds(Demand, sizes, st.sampled_from(modules), st.sampled_from(PURPOSES))
    reserves = st.builds(Reserve, sizes, st.sampled_from(names), st.sampled_from(["kv cache", "mine"]))
    options = Options(
        objective=draw(st.sampled_from(OBJECTIVES)),
        offload=draw(st.sampled_from(["stream", "compute", "auto", "auto", "none"])),
        reserves=tuple(draw(st.lists(reserves, max_size=1))),
    )
    lowered = Plan(Model("m"), devices=listed, tree=tree, demands=tuple(draw(st.lists(demands, max_size=2))))
    return lowered, draw(rules(modules, names)), options
