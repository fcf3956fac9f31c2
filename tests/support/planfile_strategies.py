"""Trees from paths, and random plans with everything a plan file can hold."""

from __future__ import annotations

from compile_plan.ir import (
    RULES,
    WORKLOADS,
    Account,
    Atomic,
    Cache,
    Demand,
    Device,
    Diagnostic,
    Link,
    Model,
    ModuleTree,
    Never,
    Outcome,
    Plan,
    Prediction,
    Reason,
    Reserve,
    Role,
    Split,
    TieGroup,
    Together,
    Unit,
    Work,
    Workload,
)
from hypothesis import strategies as st


def tree_of(tensors, modules=(), ties=None, roles=None) -> ModuleTree:
    """Build a tree from tensor paths with bytes and the paths of modules without tensors."""
    children: dict[str, list[str]] = {"": []}
    own: dict[str, list[str]] = {"": []}
    for module in [*modules, *(path.rpartition(".")[0] for path in tensors)]:
        parts = module.split(".") if module else []
        for depth in range(len(parts)):
            path, above = ".".join(parts[: depth + 1]), ".".join(parts[:depth])
            if path not in children:
                children[path], own[path] = [], []
                children[above].append(path)
    for path in tensors:
        own[path.rpartition(".")[0]].append(path)
    order: list[str] = []
    _walk("", children, order)
    index = {path: i for i, path in enumerate(order)}
    flat = [tensor for module in order for tensor in own[module]]
    position = {tensor: i for i, tensor in enumerate(flat)}
    first = {tensor: min(position[twin] for twin in (ties or {}).get(tensor, [tensor])) for tensor in flat}
    counts = [0]
    for module in order:
        counts.append(counts[-1] + len(own[module]))
    inside = dict.fromkeys(order, 1)
    for path in reversed(order[1:]):
        inside[path.rpartition(".")[0]] += inside[path]
    return ModuleTree(
        names=tuple(path.rpartition(".")[2] for path in order),
        classes=tuple("Root" if not path else "Block" for path in order),
        parents=tuple(index[path.rpartition(".")[0]] if path else -1 for path in order),
        ends=tuple(i + inside[path] for i, path in enumerate(order)),
        first_tensors=tuple(counts),
        tensor_names=tuple(tensor.rpartition(".")[2] for tensor in flat),
        shapes=tuple((tensors[tensor],) for tensor in flat),
        dtypes=("uint8",) * len(flat),
        roles=tuple((roles or {}).get(tensor, Role.PARAMETER) for tensor in flat),
        storages=tuple(first[tensor] for tensor in flat),
        nbytes=tuple(tensors[tensor] if first[tensor] == i else 0 for i, tensor in enumerate(flat)),
    )


def _walk(path, children, order):
    order.append(path)
    for child in children[path]:
        _walk(child, children, order)


names = st.one_of(st.sampled_from(["a", "b", "0", "1", "10", "weight"]), st.text(max_size=5))
texts = st.text(st.characters(), max_size=12)
paths = st.lists(names, max_size=5).map(".".join)
sizes = st.integers(0, 2**63 - 1)
maybe = st.one_of(st.none(), sizes)
devices = st.sampled_from(["cuda:0", "cuda:1", "cpu", "disk", "node1/xpu:3", "mps"])
places = st.one_of(st.none(), devices)
floats = st.floats(allow_nan=False)
marks = st.booleans()
maybe_floats = st.one_of(st.none(), floats)
predictions = st.one_of(
    st.none(), st.builds(Prediction, floats, floats, texts, texts, texts, maybe_floats, maybe_floats)
)


@st.composite
def trees(draw):
    found = draw(st.integers(1, 12))
    parents, stack = [-1], [0]
    for module in range(1, found):
        parent = draw(st.sampled_from(stack))
        parents.append(parent)
        stack = [*stack[: stack.index(parent) + 1], module]
    ends = [max(i for i in range(found) if _inside(i, m, parents)) + 1 for m in range(found)]
    counts = draw(st.lists(st.integers(0, 3), min_size=found, max_size=found))
    total = sum(counts)

    def column(values):
        return tuple(draw(st.lists(values, min_size=total, max_size=total)))

    storages: list[int] = []
    for tensor in range(total):
        storages.append(draw(st.sampled_from([tensor, *{s for s in storages if storages[s] == s}])))
    return ModuleTree(
        ("", *draw(st.lists(names, min_size=found - 1, max_size=found - 1))),
        tuple(draw(st.lists(texts, min_size=found, max_size=found))),
        tuple(parents),
        tuple(ends),
        tuple(sum(counts[:i]) for i in range(found + 1)),
        column(names),
        column(st.lists(sizes, max_size=3).map(tuple)),
        column(texts),
        column(st.sampled_from(Role)),
        tuple(storages),
        draw(st.one_of(st.none(), st.just(column(sizes)))),
        draw(st.sampled_from([None, tuple(range(total)), tuple(storages)])),
        draw(st.one_of(st.none(), st.just(column(sizes)))),
        draw(st.sampled_from([None, tuple(range(found)), (0,) * found])),
    )


def _inside(module, ancestor, parents):
    while module > ancestor:
        module = parents[module]
    return module == ancestor


def _tuples(values, most=4):
    return st.lists(values, max_size=most).map(tuple)


def plans():
    """Any plan whatever: most break a law, all must survive the plan file."""
    return st.builds(
        Plan,
        model=st.builds(Model, texts, st.one_of(st.none(), texts)),
        devices=_tuples(
            st.builds(
                Device,
                devices,
                maybe,
                sizes,
                st.one_of(st.none(), texts),
                maybe,
                st.one_of(st.none(), texts),
                maybe,
                maybe,
                maybe,
                texts,
                maybe,
                _tuples(st.tuples(texts, sizes)),
                texts,
            )
        ),
        options=_tuples(st.tuples(texts, texts)),
        constraints=_tuples(
            st.one_of(
                st.builds(Atomic, paths, st.booleans(), marks),
                st.builds(Split, paths, marks),
                st.builds(Never, paths, devices, marks),
                st.builds(Together, _tuples(paths), marks),
            )
        ),
        ties=_tuples(st.builds(TieGroup, _tuples(paths))),
        reserves=_tuples(st.builds(Reserve, sizes, devices, texts, marks)),
        demands=_tuples(st.builds(Demand, sizes, paths, texts, marks)),
        work=_tuples(st.builds(Work, sizes, paths, sizes)),
        links=_tuples(st.builds(Link, devices, st.just("node1") | devices, sizes, maybe)),
        workload=st.one_of(
            st.none(),
            st.builds(Workload, st.sampled_from(WORKLOADS), st.integers(1, 2**63 - 1), sizes, sizes, marks),
        ),
        caches=_tuples(st.builds(Cache, sizes, _tuples(paths), devices, marks)),
        units=_tuples(
            st.builds(Unit, paths, places, places, st.one_of(st.none(), st.sampled_from(Reason)), marks), 8
        ),
        tree=st.one_of(st.none(), trees()),
        ledger=_tuples(st.builds(Account, devices, *[sizes] * 9)),
        outcome=st.one_of(
            st.none(), st.builds(Outcome, texts, floats, floats, texts, sizes, _tuples(texts), predictions)
        ),
        diagnostics=_tuples(
            st.builds(
                Diagnostic,
                st.sampled_from(list(RULES.values())),
                texts,
                notes=_tuples(texts),
                help=st.one_of(st.none(), texts),
            )
        ),
    )


@st.composite
def placed_plans(draw) -> Plan:
    """A lawful plan of a random model: every tensor placed, ties together, bytes within budgets."""
    layers = draw(st.integers(1, 12))
    inner = draw(st.lists(st.sampled_from(["q", "mlp.up", "mlp.down", "odd name"]), min_size=1, unique=True))
    tensors = {"embed.weight": 64, "head.weight": 64}
    tensors |= {f"h.{i}.{name}.weight": 32 for i in range(layers) for name in inner}
    pair = ["embed.weight", "head.weight"]
    tied = draw(st.booleans())
    tree = tree_of(tensors, ties=dict.fromkeys(pair, pair) if tied else {})
    devices = (Device("cuda:0", 2**20), Device("cuda:1", 2**20), Device("cpu", 2**30), Device("disk", None))
    place = st.sampled_from(
        [("cuda:0", "cuda:0"), ("cuda:1", "cuda:1"), ("cpu", "cpu"), ("cpu", "cuda:0"), ("disk", "cuda:1")]
    )
    ends = draw(place)
    units = [
        Unit("embed", *ends, Reason.WRITTEN),
        Unit("head", *(ends if tied else draw(place)), Reason.TIED),
    ]
    for layer in range(layers):
        if draw(st.booleans()):
            units.append(Unit(f"h.{layer}", *draw(place), Reason.GREEDY))
        else:
            units += [Unit(f"h.{layer}.{name}", *draw(place), Reason.SEARCHED) for name in inner]
    model = Model(draw(st.sampled_from(["m", 'a "b"', ""])), tree.digest)
    ties = (TieGroup(tuple(pair)),) if tied else ()
    return Plan(model, devices, ties=ties, units=tuple(units), tree=tree)
