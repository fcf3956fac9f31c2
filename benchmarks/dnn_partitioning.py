"""Throughput on public dataflow graphs: ours beside the published algorithms, one cost model.

    python benchmarks/dnn_partitioning.py PATH [--steps 200000]

PATH holds `throughput-inputs/`, `latency-inputs/` and `human-experts/` of the repository
msr-fiddle/dnn-partitioning. Prints a Markdown table of the busiest device's time per sample.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from compile_plan.compiler.search.annealing import anneal
from compile_plan.compiler.search.dataflow import Graph, busiest, in_order


def load(path, accelerators=None):
    data = json.loads(path.read_text())
    nodes, edges = data["nodes"], data["edges"]
    order = topological([n["id"] for n in nodes], [(e["sourceId"], e["destId"]) for e in edges])
    position = {node: i for i, node in enumerate(order)}
    by_id = {n["id"]: n for n in nodes}
    costs = [0.0] * len(nodes)
    for edge in edges:
        costs[position[edge["sourceId"]]] = max(costs[position[edge["sourceId"]]], float(edge["cost"]))
    classes = {}
    for node in order:
        colour = by_id[node].get("colorClass")
        classes.setdefault(("alone", node) if colour is None else colour, []).append(position[node])
    rows = [by_id[node] for node in order]
    graph = Graph(
        fast=tuple(float(n["fpgaLatency"]) if n["supportedOnFpga"] else float("inf") for n in rows),
        slow=tuple(float(n["cpuLatency"]) for n in rows),
        sizes=tuple(float(n["size"]) for n in rows),
        costs=tuple(costs),
        edges=tuple((position[e["sourceId"]], position[e["destId"]]) for e in edges),
        groups=tuple(tuple(members) for members in classes.values()),
        accelerators=accelerators or data["maxFPGAs"],
        cpus=data["maxCPUs"],
        memory=float(data["maxSizePerFPGA"]),
    )
    return graph, position


def topological(nodes, edges):
    """Depth first from the sinks: what feeds a node stands right before it."""
    sources = {node: [] for node in nodes}
    targets = dict.fromkeys(nodes, 0)
    for source, target in edges:
        sources[target].append(source)
        targets[source] += 1
    order, seen = [], set()
    for sink in [n for n in nodes if not targets[n]] + list(nodes):
        stack = [(sink, iter(sources[sink]))] if sink not in seen else []
        seen.add(sink)
        while stack:
            node, rest = stack[-1]
            following = next((s for s in rest if s not in seen), None)
            if following is None:
                order.append(node)
                stack.pop()
            else:
                seen.add(following)
                stack.append((following, iter(sources[following])))
    return order


def expert(path, graph, position):
    if not path.exists():
        return None
    data = json.loads(path.read_text())
    devices = [0] * len(graph.fast)
    for kind, first in (("fpgas", 0), ("cpus", graph.accelerators)):
        for index, device in enumerate(data[kind]):
            for node in device["nodes"]:
                devices[position[node]] = first + index
    return busiest(graph, devices)


PUBLISHED = {
    "throughput-inputs/LayerGraphs/bert24_inference": (17.79, 17.7899, 17.71, 15.29),
    "throughput-inputs/LayerGraphs/gnmt_inference": (33.03, 33.0326, 31.69, 31.69),
    "throughput-inputs/LayerGraphs/inceptionv3_inference": (60.42, 51.5519, 51.25, 51.06),
    "throughput-inputs/LayerGraphs/resnet50_inference": (39.40, 33.7747, 33.34, 33.14),
    "throughput-inputs/OperatorGraphs/bert_l-3_inference": (37.46, 27.9186, 21.91, 21.91),
    "latency-inputs/LayerGraphs/bert24_inference": (None, 22.0351, None, None),
    "latency-inputs/LayerGraphs/gnmt_inference": (None, 44.8965, None, None),
    "latency-inputs/LayerGraphs/resnet50_inference": (None, 110.014, None, None),
}
"""PipeDream, linearised DP, non-contiguous IP after 150 to 180 s, its lower bound."""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=200_000)
    arguments = parser.parse_args()
    print("| workload | expert | PipeDream | DP | IP (bound) | ours, in order | ours | seconds | to IP |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, (pipedream, program, integer, bound) in PUBLISHED.items():
        graph, position = load(arguments.data / f"{name}.json")
        begun = time.perf_counter()
        simple = in_order(graph)
        best = anneal(graph, simple, arguments.steps)
        seconds = time.perf_counter() - begun
        human = expert(arguments.data / "human-experts" / f"{Path(name).name}_expert.json", graph, position)
        ours = busiest(graph, best)
        to_ip = "" if integer is None else f"{100 * (ours / integer - 1):+.2f} %"
        cells = [
            name.replace("-inputs", "").replace("Graphs", ""),
            number(human),
            number(pipedream),
            number(program),
            "-" if integer is None else f"{integer:.2f} ({bound:.2f})",
            number(busiest(graph, simple)),
            number(ours),
            f"{seconds:.1f}",
            to_ip,
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


def number(value):
    return "-" if value is None or value == float("inf") else f"{value:.2f}"


if __name__ == "__main__":
    main()
