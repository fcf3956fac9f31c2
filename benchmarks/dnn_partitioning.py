"""Throughput on public dataflow graphs: what `--objective throughput` searches with, beside published values.

    python benchmarks/dnn_partitioning.py PATH [--only bert_l-3]

PATH holds `throughput-inputs/`, `latency-inputs/` and `human-experts/` of the repository
msr-fiddle/dnn-partitioning. Prints a Markdown table of the busiest device's time per sample.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from compile_plan.compiler.search.clock import Clock
from compile_plan.compiler.search.dataflow import Graph, busiest
from compile_plan.compiler.search.intervals import in_order, postorder
from compile_plan.compiler.search.partition import least_load, partition

LIMIT = 90.0
"""Seconds after which a workload ends with what it has: for machines that do other things as well."""


def load(path):
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
    accelerators, cpus = data["maxFPGAs"], data["maxCPUs"]
    fast = tuple(float(n["fpgaLatency"]) if n["supportedOnFpga"] else float("inf") for n in rows)
    slow = tuple(float(n["cpuLatency"]) for n in rows)
    graph = Graph(
        times=(fast,) * accelerators + (slow,) * cpus,
        tolls=(tuple(costs),) * accelerators + ((0.0,) * len(rows),) * cpus,
        memories=(float(data["maxSizePerFPGA"]),) * accelerators + (float("inf"),) * cpus,
        sizes=tuple(float(n["size"]) for n in rows),
        edges=tuple((position[e["sourceId"]], position[e["destId"]]) for e in edges),
        groups=tuple(tuple(members) for members in classes.values()),
    )
    return graph, position, accelerators


def topological(nodes, edges):
    """Depth first from the sinks: what feeds a node stands right before it."""
    sources = {node: [] for node in nodes}
    targets = dict.fromkeys(nodes, 0)
    for source, target in edges:
        sources[target].append(source)
        targets[source] += 1
    sinks = [node for node in nodes if not targets[node]]
    return postorder([*sinks, *nodes], sources.__getitem__)


def expert(path, graph, position, accelerators):
    if not path.exists():
        return None
    data = json.loads(path.read_text())
    devices = [0] * len(graph.sizes)
    for kind, first in (("fpgas", 0), ("cpus", accelerators)):
        for index, device in enumerate(data[kind]):
            for node in device["nodes"]:
                devices[position[node]] = first + index
    return busiest(graph, devices)


BEST = {
    "throughput/Layer/bert24_inference": 17.71,
    "throughput/Layer/bert24_training": 39.79,
    "throughput/Layer/gnmt_inference": 31.69,
    "throughput/Layer/gnmt_training": 88.46,
    "throughput/Layer/inceptionv3_inference": 51.24,
    "throughput/Layer/resnet50_inference": 33.24,
    "throughput/Operator/bert_L-12_training": 373.42,
    "throughput/Operator/bert_l-12_inference": 130.04,
    "throughput/Operator/bert_l-3_inference": 21.91,
    "throughput/Operator/bert_l-3_training": 54.21,
    "throughput/Operator/bert_l-6_inference": 28.33,
    "throughput/Operator/bert_l-6_training": 71.64,
    "throughput/Operator/resnet50_inference": 124.35,
    "throughput/Operator/resnet50_training": 255.19,
}
"""The best values known: published, by an integer program over all devices given minutes, or ours."""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", default="", help="workloads whose name holds this")
    arguments = parser.parse_args()
    print("| workload | groups | devices | expert | in order | ours | bound | seconds | best known | to it |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for path in sorted(
        arguments.data.glob("*-inputs/*/*.json"), key=lambda path: path.parts[-3:], reverse=True
    ):
        name = f"{path.parts[-3].removesuffix('-inputs')}/{path.parts[-2].removesuffix('Graphs')}/{path.stem}"
        if arguments.only in name:
            print(row(name, path, arguments.data / "human-experts" / f"{path.stem}_expert.json"), flush=True)


def row(name, path, split):
    graph, position, accelerators = load(path)
    simple = busiest(graph, in_order(graph))
    begun = time.process_time()
    ours = busiest(graph, partition(graph, Clock(LIMIT)))
    seconds = time.process_time() - begun
    best = BEST.get(name)
    cells = [
        name,
        str(len(graph.groups)),
        f"{accelerators} + {len(graph.memories) - accelerators}",
        number(expert(split, graph, position, accelerators) if "/Layer/" in name else None),
        number(simple),
        number(ours),
        number(least_load(graph)),
        f"{seconds:.1f}",
        number(best),
        "-" if best is None else f"{100 * (ours / best - 1):+.2f} %",
    ]
    return "| " + " | ".join(cells) + " |"


def number(value):
    return "-" if value is None or value == float("inf") else f"{value:.2f}"


if __name__ == "__main__":
    main()
