"""Time the device map of a live model, accelerate and ours in one run: the tables of docs/strategies.md."""

from __future__ import annotations

import gc
import logging
import time
import tracemalloc
from collections.abc import Callable

import accelerate
import torch
from compile_plan.compiler.driver.drop_in import infer_auto_device_map
from compile_plan.compiler.sources.live import lower_model
from torch import nn

NBYTES = 8 * 8 * 4


class Weight(nn.Module):
    """A linear layer without its slow initialization: a million are built in half a minute."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(8, 8, device="meta"))


class Expert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = Weight(), Weight(), Weight()


class Layer(nn.Module):
    def __init__(self, experts: int, *, norm: bool) -> None:
        super().__init__()
        self.experts = nn.ModuleList(Expert() for _ in range(experts))
        if norm:
            self.norm = Weight()


def mixture(layers: int, experts: int, *, ends: bool = False) -> nn.Module:
    """Return a mixture of experts; ``ends`` adds an embedding, a head and norms."""
    model = nn.Module()
    if ends:
        model.embed = Weight()
    model.layers = nn.ModuleList(Layer(experts, norm=ends) for _ in range(layers))
    if ends:
        model.head = Weight()
    return model


def flat(children: int) -> nn.Module:
    """Return a module whose children are an entry of the map each."""
    model = nn.Module()
    for index in range(children):
        model.add_module(f"part{index}", Weight())
    return model


def tied_towers(layers: int) -> nn.Module:
    """Return two stacks tied layer by layer."""
    model = nn.Module()
    model.one, model.other = (nn.ModuleList(Weight() for _ in range(layers)) for _ in range(2))
    for one, other in zip(model.one, model.other, strict=True):
        other.weight = one.weight
    return model


def thirds(model: nn.Module) -> dict[int | str, int]:
    """Return budgets of two cards that hold a third of the model each; the rest is offloaded."""
    third = sum(1 for _ in model.parameters()) * NBYTES // 3
    return {0: third, 1: third, "cpu": 10**12}


def best_of(*calls: Callable[[], object], times: int = 3) -> list[float]:
    """Return the best seconds of each call; they take turns, so that noise meets all of them."""
    best = [float("inf")] * len(calls)
    for _ in range(times):
        for index, call in enumerate(calls):
            gc.collect()
            start = time.perf_counter()
            call()
            best[index] = min(best[index], time.perf_counter() - start)
    return best


def against_accelerate() -> None:
    model = mixture(61, 256)
    budgets = thirds(model)
    print("| no-split classes | accelerate 1.15 | compile-plan | ratio | same map |\n|---|---|---|---|---|")
    for classes in (None, ["Expert"]):
        maps: dict[str, object] = {}

        def theirs(classes: list[str] | None = classes, maps: dict[str, object] = maps) -> None:
            maps["theirs"] = dict(accelerate.infer_auto_device_map(model, dict(budgets), classes))

        def ours(classes: list[str] | None = classes, maps: dict[str, object] = maps) -> None:
            maps["ours"] = infer_auto_device_map(model, budgets, classes)

        slow, fast = best_of(theirs, ours)
        same = "yes" if maps["theirs"] == maps["ours"] else "no"
        named = f"`{classes[0]}`" if classes else "none"
        print(f"| {named} | {slow:.2f} s | {fast:.2f} s | {slow / fast:.1f} | {same} |", flush=True)


def growth() -> None:
    print("\n| modules | seconds | us a module | peak bytes a module |\n|---|---|---|---|")
    for layers in (1, 10, 100, 1000):
        model = mixture(layers, 250)
        count, budgets = sum(1 for _ in model.modules()), thirds(model)
        (taken,) = best_of(lambda model=model, budgets=budgets: infer_auto_device_map(model, budgets))
        tracemalloc.start()
        lower_model(model)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(f"| {count:,} | {taken:.3f} | {taken / count * 1e6:.1f} | {peak / count:.0f} |", flush=True)
        del model


def ties() -> None:
    print("\n| ties | seconds | us a tie |\n|---|---|---|")
    for layers in (1_000, 10_000, 100_000):
        model = tied_towers(layers)
        budgets = thirds(model)
        (taken,) = best_of(lambda model=model, budgets=budgets: infer_auto_device_map(model, budgets))
        print(f"| {layers:,} | {taken:.3f} | {taken / layers * 1e6:.1f} |", flush=True)
        del model


def limits() -> None:
    print("\n| case | entries of the map | seconds | limit |\n|---|---|---|---|")
    for name, model, limit in (
        ("98,452 modules (48 layers of 512 experts)", mixture(48, 512, ends=True), 1),
        ("a flat model, each child an entry", flat(173_529), 2),
    ):
        budgets = thirds(model)
        (taken,) = best_of(lambda model=model, budgets=budgets: infer_auto_device_map(model, budgets))
        entries = len(infer_auto_device_map(model, budgets))
        print(f"| {name} | {entries:,} | {taken:.2f} | {limit} |", flush=True)


def main() -> None:
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    against_accelerate()
    limits()
    ties()
    growth()


if __name__ == "__main__":
    main()
