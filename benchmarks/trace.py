"""Times trace, cuts, demands and verification of large default configs on the meta device.

    python benchmarks/trace.py [llama deepseek_v3 ...]

Goals: a 32-layer 7B llama under 2 s after imports, DeepSeek-V3 (1,215 modules) under 6 s.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
import transformers
from compile_plan.compiler.tracing import cut_rules, demands, trace_model, verify_trace
from compile_plan.ir import Atomic, Device, Model, ModuleTree, Plan, Unit

GOALS = {"llama": 2.0, "deepseek_v3": 6.0}


def halves(tree: ModuleTree, rules: tuple[object, ...]) -> Plan:
    """Open what may be opened and put the first half on one device, the rest on another."""
    whole = {rule.target for rule in rules if isinstance(rule, Atomic)}
    paths: list[str] = []
    stack = [0]
    while stack:
        module = stack.pop()
        children = tree.children(module)
        if not children or tree.classes[module] in whole or tree.paths[module] in whole:
            paths.append(tree.paths[module])
            continue
        paths += [tree.tensor_paths[tensor] for tensor in tree.own_tensors(module)]
        stack += reversed(children)
    places = [f"cuda:{2 * i // len(paths)}" for i in range(len(paths))]
    units = tuple(Unit(path, place, place) for path, place in zip(paths, places, strict=True))
    devices = (Device("cuda:0", None), Device("cuda:1", None))
    return Plan(model=Model("benchmark"), devices=devices, units=units, tree=tree)


def timed(action: Callable[[], object]) -> tuple[object, float]:
    start = time.perf_counter()
    return action(), time.perf_counter() - start


def measure(name: str) -> None:
    config = transformers.AutoConfig.for_model(name)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    trace, tracing = timed(lambda: trace_model(model))
    rules, cutting = timed(lambda: cut_rules(trace))
    _, demanding = timed(lambda: demands(trace))
    plan = halves(trace.tree, rules)
    found, verifying = timed(lambda: verify_trace(plan, trace))
    total = tracing + cutting + demanding + verifying
    goal = f"  goal {GOALS[name]:.0f} s" if name in GOALS else ""
    print(
        f"{name:14} {len(trace.tree):6} modules {len(trace.steps):6} steps   trace {tracing:.2f}  "
        f"cuts {cutting:.2f}  demands {demanding:.2f}  verify {verifying:.2f}  total {total:.2f} s{goal}   "
        f"{'lawful' if found.lawful else 'MEETS'}, {found.hops} hops"
    )


if __name__ == "__main__":
    for chosen in sys.argv[1:] or ["gpt2", "llama", "gemma2", "mixtral", "deepseek_v3"]:
        measure(chosen)
