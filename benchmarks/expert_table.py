"""Predicted tokens a second of the default plan, of accelerate's map and of what an expert writes by hand.

    python benchmarks/expert_table.py [--only NAME] [--drawn COUNT]

Eight shapes of released models on four machines, one cost model for all three. An expert keeps the head on
a card and fills the cards with whole layers in order (for mixtures with attention and shared parts first,
then with experts of the first layers), looks tokens up on the host and computes the rest there.
``--drawn`` asks the same of machines drawn at random, of one to eight cards, some with less memory on hosts
than the model takes.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import dataclass, replace

from compile_plan.compiler.driver.compile import compile_lowered
from compile_plan.compiler.driver.options import Options
from compile_plan.compiler.search.atoms import build
from compile_plan.compiler.search.costs import predict
from compile_plan.compiler.search.emit import places_of
from compile_plan.compiler.search.problem import Loads, Place
from compile_plan.compiler.search.rowwise import by_stacks
from compile_plan.compiler.sources.config_work import config_work
from compile_plan.compiler.sources.named_tensors import NamedTensor, tree_of_tensors
from compile_plan.ir import Atomic, Device, Model, Plan, PlanError, Workload

GIB = 2**30
WORK = Workload()
MACHINES = {
    "1 x 24": ({0: 24 * GIB}, 1024 * GIB),
    "2 x 24": ({0: 24 * GIB, 1: 24 * GIB}, 1024 * GIB),
    "24 + 12": ({0: 24 * GIB, 1: 12 * GIB}, 1024 * GIB),
    "8 x 80": (dict.fromkeys(range(8), 80 * GIB), 1024 * GIB),
}


@dataclass(frozen=True)
class Shape:
    """What decides the bytes of a model; widths are numbers of weights."""

    layers: int
    hidden: int
    inner: int
    vocabulary: int
    queries: int
    keys: int
    """Widths of all query heads and of all key heads together."""
    experts: int = 0
    chosen: int = 0
    expert: int = 0
    shared: int = 0
    dense: int = 0
    """First layers without experts."""
    width: float = 2
    """Bytes of an expert's weight; everything else has two."""
    tied: bool = False


SHAPES = {
    "Llama-3.1-8B": Shape(32, 4096, 14336, 128256, 4096, 1024),
    "Llama-3.1-70B": Shape(80, 8192, 28672, 128256, 8192, 1024),
    "gemma-2-27B": Shape(46, 4608, 36864, 256000, 4096, 2048, tied=True),
    "Qwen3-30B-A3B": Shape(48, 2048, 6144, 151936, 4096, 512, 128, 8, 768),
    "Qwen3-235B-A22B": Shape(94, 4096, 12288, 151936, 8192, 512, 128, 8, 1536),
    "Mixtral-8x7B": Shape(32, 4096, 14336, 32000, 4096, 1024, 8, 2, 14336),
    "gpt-oss-120b": Shape(36, 2880, 2880, 201088, 4096, 512, 128, 4, 2880, width=17 / 32),
    "DeepSeek-V3": Shape(61, 7168, 18432, 129280, 12288, 4096, 256, 8, 2048, 2048, dense=3, width=1),
}


def tensors_of(shape):
    """Return the tensors of a model known by its shape, as its files name them."""
    tensors = []

    def add(path, *sizes, width=2.0):
        count = 1
        for size in sizes:
            count *= size
        dtype = "bfloat16" if width == 2 else "uint8"
        tensors.append(NamedTensor(path, dtype, sizes, int(count * width)))

    add("model.embed_tokens.weight", shape.vocabulary, shape.hidden)
    for layer in range(shape.layers):
        base = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            add(f"{base}{norm}.weight", shape.hidden)
        add(f"{base}self_attn.q_proj.weight", shape.queries, shape.hidden)
        add(f"{base}self_attn.k_proj.weight", shape.keys, shape.hidden)
        add(f"{base}self_attn.v_proj.weight", shape.keys, shape.hidden)
        add(f"{base}self_attn.o_proj.weight", shape.hidden, shape.queries)
        if shape.experts and layer >= shape.dense:
            add(f"{base}mlp.gate.weight", shape.experts, shape.hidden)
            gates = (shape.experts, 2 * shape.expert, shape.hidden)
            add(f"{base}mlp.experts.gate_up_proj", *gates, width=shape.width)
            add(f"{base}mlp.experts.down_proj", shape.experts, shape.hidden, shape.expert, width=shape.width)
        inner = shape.shared if shape.experts and layer >= shape.dense else shape.inner
        inside = "mlp.shared_experts" if shape.experts and layer >= shape.dense else "mlp"
        if inner:
            for part in ("gate_proj", "up_proj"):
                add(f"{base}{inside}.{part}.weight", inner, shape.hidden)
            add(f"{base}{inside}.down_proj.weight", shape.hidden, inner)
    add("model.norm.weight", shape.hidden)
    add("lm_head.weight", shape.vocabulary, shape.hidden)
    return tensors


def lowered(name, shape):
    """Return the plan of a model known by its shape, as a folder of it is lowered."""
    ties = {"lm_head.weight": "model.embed_tokens.weight"} if shape.tied else {}
    tree, blocks = tree_of_tensors(tensors_of(shape), ties=ties)
    config = {"num_experts": shape.experts, "num_experts_per_tok": shape.chosen}
    rules = tuple(Atomic(kind, by_class=True, added=True) for kind in blocks)
    return Plan(Model(name), constraints=rules, tree=tree, work=config_work(config, tree))


def by_hand(model):
    """Return the places an expert writes."""
    problem = model.problem
    cpu = problem.cpu
    loads = Loads(problem, [Place(cpu, cpu)] * len(problem.atoms))

    def path(atom):
        return model.grains[problem.atoms[atom].grains[0]].path

    def fill(atoms):
        cards = list(problem.accelerators)
        for atom in atoms:
            while cards and not loads.move(atom, Place(cards[0], cards[0])):
                cards.pop(0)

    count = range(len(problem.atoms))
    tables = {a for a in count if "embed_tokens" in path(a)}
    head = [a for a in count if path(a) in {"lm_head", "model.norm"}]
    experts = [a for a in count if path(a).endswith("mlp.experts")]
    layers = [a for a in count if a not in {*tables, *head, *experts}]
    if any("embed_tokens" in path(a) and len(problem.atoms[a].grains) > 1 for a in tables):
        head += sorted(tables)  # tied: the head is what is multiplied
    for atom in head:
        any(loads.move(atom, Place(card, card)) for card in reversed(problem.accelerators))
    fill(layers)
    fill(experts)
    return loads.places


def rate(model, places):
    """Return predicted tokens a second of the workload."""
    return WORK.tokens / predict(model.problem, places, WORK).seconds


def row(name, cards, host):
    """Return ours, accelerate's and the expert's rates, and the processor seconds of planning."""
    devices = (*(Device(f"cuda:{card}", size) for card, size in cards.items()), Device("cpu", host))
    plan, options = replace(lowered(name, SHAPES[name]), devices=devices), Options()
    begun = time.process_time()
    ours = compile_lowered(plan, options, fresh=True)
    seconds = time.process_time() - begun
    assert ours.tree is not None
    model = build(replace(ours, units=(), reserves=()), ours.tree, parts=True)
    streamed_whole = not any(unit.by_rows for unit in ours.units)
    chosen = replace(model, problem=by_stacks(model.problem)) if streamed_whole else model
    rates = [rate(chosen, places_of(ours, model))]
    try:
        theirs = compile_lowered(plan, replace(options, strategy="accelerate"), fresh=True)
        stacks = replace(model, problem=by_stacks(model.problem))  # it knows nothing of rows
        on_disk = any(unit.store == "disk" for unit in theirs.units)  # which the machine does not have
        rates.append(0.0 if on_disk else rate(stacks, places_of(theirs, model)))
    except PlanError:
        rates.append(0.0)
    return [*rates, rate(model, by_hand(model)), seconds]


def drawn(count):
    """Yield machines, by what they are called, that hold a shape and are too small to hold it on cards."""
    choice = random.Random(0)
    for _ in range(count):
        shape, kinds = choice.choice(list(SHAPES)), choice.randint(1, 2)
        sizes = [choice.choice((8, 12, 16, 24, 32, 48, 80)) for _ in range(kinds)]
        cards = [choice.choice(sizes) for _ in range(choice.choice((1, 2, 2, 3, 4, 8)))]
        nbytes = sum(tensor.nbytes for tensor in tensors_of(SHAPES[shape]))
        host = max(16, round(nbytes / GIB * choice.choice((0.5, 0.9, 1.2, 4))))
        if 0.8 * sum(cards) < nbytes / GIB < 0.9 * (sum(cards) + host):
            machine = f"{' + '.join(map(str, cards))}, host {host}"
            yield shape, machine, ({i: size * GIB for i, size in enumerate(cards)}, host * GIB)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--drawn", type=int, default=0)
    asked = parser.parse_args()
    table = ((name, machine, size) for name in SHAPES for machine, size in MACHINES.items())
    print("| model | machine | accelerate | expert | ours | to expert | planned in |")
    print("|---|---|---|---|---|---|---|")
    least = float("inf")
    for name, machine, size in drawn(asked.drawn) if asked.drawn else table:
        if asked.only in name:
            ours, theirs, expert, seconds = row(name, *size)
            least = min(least, ours / expert)
            cells = f"{theirs:.2f} | {expert:.2f} | {ours:.2f} | {ours / expert:.2f} | {seconds:.2f} s"
            print(f"| {name} | {machine} | {cells} |", flush=True)
    print(f"\nleast ratio to the expert: {least:.3f}")


if __name__ == "__main__":
    main()
