"""Random plans and trees with odd names, ties, regular stacks and everything the text can say."""

from __future__ import annotations

from compile_plan.ir import (
    Atomic,
    Cache,
    Demand,
    Device,
    Link,
    Model,
    ModuleTree,
    Never,
    Plan,
    Reason,
    Reserve,
    Role,
    Split,
    TieGroup,
    Together,
    Unit,
    Work,
    Workload,
    group_storages,
)
from hypothesis import strategies as st

PLAIN = [
    "a",
    "b",
    "class",
    "layers",
    "on",
    "q_proj",
    "k_proj",
    "weight",
    "place",
    "added",
    "0",
    "1",
    "2",
    "3",
    "10",
]
ODD = ["two words", 'qu"ote', "back\\slash", "{x,y}", "{", "}", "a,b", "#no", "a=b", "c:d", "*", "*x", "-", "日本", "ß",  # noqa: E501
       "²", "tab\t", "line\nbreak", "\r", "\x00", "\u2028", "\ud800",
       "\x85", "00", "é", "\u00a0", "/", "'"]  # fmt: skip
SIZES = st.one_of(
    st.integers(0, 2**63 - 1), st.sampled_from([0, 1, 1024, 10 * 2**30, 10**10, 3 * 2**19, 2**63 - 1])
)
names = st.one_of(
    st.sampled_from(PLAIN),
    st.sampled_from(ODD),
    st.text(min_size=1, max_size=4).filter(lambda t: "." not in t),
)
texts = st.one_of(st.sampled_from(["", "kv cache", 'a "quoted" one', "# no", "x\ny"]), st.text(max_size=8))
device_names = st.sampled_from(
    ["cuda:0", "cuda:1", "cuda:12", "cpu", "disk", "mps", "xpu:0", "node1/cuda:0", "n-2.x/npu:3"]
)
paths = st.one_of(
    st.lists(names, max_size=4).map(".".join),
    st.tuples(st.sampled_from(["layers", "m.h"]), st.integers(0, 4), st.sampled_from(["", ".q", ".k.w"])).map(
        lambda parts: f"{parts[0]}.{parts[1]}{parts[2]}"
    ),
)


@st.composite
def regular_paths(draw) -> list[str]:
    """Paths of a stack, whole or split, with parts left out."""
    layers = draw(st.lists(st.integers(0, 12), max_size=6, unique=True).map(sorted))
    inner = draw(
        st.lists(st.sampled_from(["q", "k.w", "mlp.0", "mlp.1", "mlp.2.x"]), max_size=4, unique=True)
    )
    return [f"h.{layer}.{name}" if name else f"h.{layer}" for layer in layers for name in inner or [""]]


@st.composite
def devices(draw) -> tuple[Device, ...]:
    found = draw(st.lists(device_names, unique=True, max_size=4))
    maybe = st.none() | SIZES
    return tuple(
        Device(
            name,
            draw(maybe),
            draw(st.just(0) | SIZES),
            pool := draw(st.none() | texts),
            draw(maybe) if pool is not None else None,
            draw(st.none() | texts),
            draw(maybe),
            draw(maybe),
            draw(maybe),
            draw(texts),
            draw(maybe),
            draw(
                st.dictionaries(
                    st.sampled_from(["float32", "bf16", "memory", "flops"]), SIZES, max_size=2
                ).map(lambda rates: tuple(rates.items()))
            ),
            launch=draw(maybe),
        )
        for name in found
    )


marks = st.booleans()
pattern_lists = st.one_of(
    st.lists(paths, min_size=1, max_size=5).map(tuple), regular_paths().filter(bool).map(tuple)
)
constraints = st.one_of(
    st.builds(Atomic, paths, added=marks),
    st.builds(Atomic, texts, st.just(True), marks),  # noqa: FBT003 - a class, not a path
    st.builds(Split, paths, marks),
    st.builds(Never, paths, device_names, marks),
    st.builds(Together, pattern_lists, marks),
)
ends = device_names | st.sampled_from(["node1", "n-2.x", "0a"])
links = st.lists(
    st.builds(Link, ends, ends, SIZES, st.none() | SIZES),
    max_size=3,
    unique_by=lambda link: frozenset({link.a, link.b}),
).map(tuple)
positive = st.integers(1, 2**63 - 1)
workloads = st.one_of(
    st.none(),
    st.builds(Workload, st.just("generate"), positive, positive, SIZES, marks),
    st.builds(Workload, st.sampled_from(["forward", "loss"]), positive, st.just(0), positive, marks),
)
caches = st.lists(st.builds(Cache, SIZES, pattern_lists, device_names, marks), max_size=3).map(tuple)
ties = st.one_of(
    st.lists(paths, min_size=2, max_size=4).map(lambda found: TieGroup(tuple(found))),
    regular_paths().filter(lambda found: len(found) > 1).map(lambda found: TieGroup(tuple(found))),
)
places = st.one_of(
    st.just((None, None, None)),
    st.tuples(device_names, device_names, st.sampled_from([None, *Reason]), st.booleans()),
    device_names.map(lambda name: (name, name, Reason.GREEDY)),
)


@st.composite
def units(draw) -> tuple[Unit, ...]:
    found: list[Unit] = []
    for _ in range(draw(st.integers(0, 4))):
        place = draw(places)
        run = draw(st.one_of(regular_paths(), st.lists(paths, max_size=3)))
        found += [Unit(path, *place) for path in run]
    return tuple(found)


@st.composite
def demands(draw) -> tuple[Demand, ...]:
    """Single demands, and equal ones of a regular stack as a trace finds them."""
    run, nbytes, purpose = draw(regular_paths()), draw(SIZES), draw(texts)
    single = draw(st.lists(st.builds(Demand, SIZES, paths, texts, marks), max_size=3))
    return (*(Demand(nbytes, path, purpose) for path in run), *single)


@st.composite
def work(draw) -> tuple[Work, ...]:
    """What a trace measures: equal work of a regular stack, and single rows."""
    run, flops, tokens = draw(regular_paths()), draw(SIZES), draw(st.sampled_from([0, 1, 128, 2**40]))
    launches = draw(st.sampled_from([0, 1, 71, 2**40]))
    single = draw(st.lists(st.builds(Work, SIZES, paths, SIZES, SIZES), max_size=3))
    return (*(Work(flops, path, tokens, launches) for path in run), *single)


@st.composite
def plans(draw) -> Plan:
    """Any plan without a tree, lawful or not."""
    pairs = [[f"enc.{i}.w", f"dec.{i}.w"] for i in range(draw(st.integers(0, 4)))]
    return Plan(
        model=Model(draw(texts), draw(st.none() | texts)),
        devices=draw(devices()),
        options=tuple(sorted(draw(st.dictionaries(texts, texts, max_size=3)).items())),
        constraints=tuple(draw(st.lists(constraints, max_size=5))),
        ties=(*draw(st.lists(ties, max_size=3)), *(TieGroup(tuple(pair)) for pair in pairs)),
        reserves=tuple(
            draw(
                st.lists(
                    st.builds(Reserve, SIZES, device_names, texts, marks),
                    max_size=4,
                    unique_by=lambda each: (each.device, each.purpose, each.added),
                )
            )
        ),
        demands=draw(demands()),
        work=draw(work()),
        units=draw(units()),
        links=draw(links),
        workload=draw(workloads),
        caches=draw(caches),
    )


@st.composite
def trees(draw) -> ModuleTree:
    """A module tree with repeated subtrees, odd names, shared storage, annotated or not."""
    rows: list[tuple[str, str, int, list]] = []
    ends: list[int] = []

    def tensors(count):
        found = draw(st.lists(names, max_size=count, unique=True))
        return [(name, draw(st.sampled_from([(), (4,), (2, 3)])), draw(st.sampled_from(["float32", "bfloat16"])),  # noqa: E501
                 draw(st.sampled_from(list(Role)))) for name in found]  # fmt: skip

    def shape(depth):
        own = tensors(2)
        taken = {row[0] for row in own}
        if depth and draw(st.booleans()):
            block, count = shape(depth - 1), draw(st.integers(1, 5))
            start = draw(st.integers(0, 2))
            kids = [(str(start + i), block) for i in range(count)]
        else:
            count = draw(st.integers(0, 3 if depth else 0))
            kids = [(name, shape(depth - 1)) for name in draw(st.lists(names, max_size=count, unique=True))]
        own.sort(key=lambda row: row[3] is not Role.PARAMETER)
        return (
            draw(st.sampled_from(["Block", "Linear", "Odd Class"])),
            own,
            [k for k in kids if k[0] not in taken],
        )

    def add(name, node, parent):
        index = len(rows)
        rows.append((name, node[0], parent, node[1]))
        ends.append(0)
        for kid, below in node[2]:
            add(kid, below, index)
        ends[index] = len(rows)

    add("", shape(draw(st.integers(0, 3))), -1)
    own = [tensor for row in rows for tensor in row[3]]
    first = [0]
    for row in rows:
        first.append(first[-1] + len(row[3]))
    keys = [
        draw(st.integers(0, index)) if draw(st.integers(0, 9)) == 0 else index for index in range(len(own))
    ]
    storages = group_storages([keys[key] for key in keys])
    sized = not own or draw(st.booleans())
    sizes = tuple(0 if storages[i] != i else 64 * len(row[1]) for i, row in enumerate(own))
    return ModuleTree(
        tuple(row[0] for row in rows), tuple(row[1] for row in rows), tuple(row[2] for row in rows),
        tuple(ends), tuple(first), tuple(t[0] for t in own), tuple(t[1] for t in own), tuple(t[2] for t in own),  # noqa: E501
        tuple(t[3] for t in own), storages, sizes if sized else None,
    )  # fmt: skip


@st.composite
def bound_plans(draw) -> Plan:
    """A plan with its tree; its ties are those of the tree, or not yet known."""
    tree = draw(trees())
    groups: dict[int, list[str]] = {}
    for index, storage in enumerate(tree.storages):
        groups.setdefault(storage, []).append(tree.tensor_paths[index])
    known = tuple(TieGroup(tuple(group)) for group in groups.values() if len(group) > 1)
    everything = [*tree.paths, *tree.tensor_paths]
    chosen = draw(st.lists(st.sampled_from(everything), max_size=6))
    found = tuple(Unit(path, "cpu", "cpu", Reason.WRITTEN) for path in chosen)
    return Plan(Model("m", tree.digest), units=found, ties=draw(st.sampled_from([known, ()])), tree=tree)


comments = st.sampled_from(
    ["#", "# a comment", "#!x", '# "quoted', "# tail  ", "# place a on cpu", "#\ttab", "# ü"]
)
