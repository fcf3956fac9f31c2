"""The dataflow between modules as a networkx graph, in the words of the IR: paths and bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..search.flows import Flow
from .cuts import Cuts
from .replay import Label, replay
from .trace import Enter, Op, Origin, Trace
from .work import tokens_of

if TYPE_CHECKING:
    import networkx as nx


def module_graph(trace: Trace) -> nx.DiGraph[str]:
    """Return the modules that ran, with an edge from each to the ones that use what it makes.

    Nodes are paths with ``class``, ``calls``, ``order`` (of the first call) and ``flops`` (own forward
    only). Edges carry ``nbytes``: the tensors that pass, each once for each call that takes it.
    """
    import networkx as nx

    tree = trace.tree
    graph: nx.DiGraph[str] = nx.DiGraph()
    for order, module in enumerate(trace.order):
        graph.add_node(
            tree.paths[module],
            **{"class": tree.classes[module]},
            calls=trace.calls_of[module],
            order=order,
            flops=trace.own_flops[module],
        )
    for source, target, nbytes in _flows(trace):
        before = graph.get_edge_data(source, target, {"nbytes": 0})["nbytes"]
        graph.add_edge(source, target, nbytes=before + nbytes)
    return graph


def _flows(trace: Trace) -> list[tuple[str, str, int]]:
    paths, flows = trace.tree.paths, []
    seen: set[tuple[int, int]] = set()
    for step in trace.steps:
        match step:
            case Enter():
                used = [outer for outer, _ in step.arguments]
            case Op() if step.call >= 0:
                used = [v for v in (*step.inputs, *step.loose) if trace.values[v].origin is Origin.OP]
            case _:
                continue
        target = trace.calls[step.call].module
        for value in used:
            source, item = trace.maker(value), trace.values[value]
            if source in {-1, target} or item.origin is Origin.WEIGHT or (step.call, value) in seen:
                continue
            seen.add((step.call, value))
            flows.append((paths[source], paths[target], item.own_nbytes))
    return flows


def flows(trace: Trace, cuts: Cuts) -> Iterator[Flow]:
    """Yield what the pieces of a cut hand each other: what a replay copies if each has a device of its own.

    A tensor that goes to several pieces is one flow. Bytes are for each token that was read.
    """
    taken: dict[tuple[int, Label], dict[int, int]] = {}
    for hop in replay(trace, cuts.places("held pieces")).hops:
        if isinstance(hop.origin, int) and isinstance(hop.target, int):
            nbytes = trace.values[hop.value].own_nbytes
            taken.setdefault((trace.roots[hop.value], hop.origin), {})[hop.target] = nbytes
    tokens = max(tokens_of(trace), 1)
    for (_, origin), targets in taken.items():
        assert isinstance(origin, int)  # noqa: S101  # only pieces are kept
        paths = tuple(cuts.path(target) for target in sorted(targets))
        yield Flow(cuts.path(origin), paths, max(targets.values()) / tokens)
