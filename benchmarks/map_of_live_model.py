"""Time the device map of a live model, accelerate and ours in one run."""

from __future__ import annotations

import logging
import time
import tracemalloc
from collections.abc import Callable

import accelerate
import torch
from compile_plan.compiler.accelerate_compat import infer_auto_device_map
from compile_plan.compiler.sources.live import lower_model
from torch import nn

BUDGETS = {0: 6_000_000, 1: 6_000_000, "cpu": 10**9}


class Expert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = (nn.Linear(8, 8, bias=False) for _ in range(3))


class Layer(nn.Module):
    def __init__(self, experts: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(Expert() for _ in range(experts))


def mixture(layers: int, experts: int) -> nn.Module:
    with torch.device("meta"):
        model = nn.Module()
        model.layers = nn.ModuleList(Layer(experts) for _ in range(layers))
    return model


def tied_towers(layers: int) -> nn.Module:
    """Return two stacks tied layer by layer."""
    with torch.device("meta"):
        model = nn.Module()
        model.one, model.other = (
            nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(layers)) for _ in range(2)
        )
    for one, other in zip(model.one, model.other, strict=True):
        other.weight = one.weight
    return model


def seconds(call: Callable[[], object], times: int = 3) -> float:
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    model = mixture(61, 256)
    for classes in (None, ["Expert"]):
        theirs = seconds(
            lambda classes=classes: accelerate.infer_auto_device_map(model, dict(BUDGETS), classes)
        )
        ours = seconds(lambda classes=classes: infer_auto_device_map(model, BUDGETS, classes))
        same = dict(accelerate.infer_auto_device_map(model, dict(BUDGETS), classes)) == infer_auto_device_map(
            model, BUDGETS, classes
        )
        print(
            f"no_split={classes}: accelerate {theirs:.3f}s, ours {ours:.3f}s, {theirs / ours:.1f}x, {same=}"
        )
    for layers in (1, 10, 100, 1000):
        model = mixture(layers, 250)
        count = sum(1 for _ in model.modules())
        taken = seconds(lambda model=model: infer_auto_device_map(model, BUDGETS), times=2)
        tracemalloc.start()
        lower_model(model)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(f"{count:>9,} modules: {taken / count * 1e6:.2f} us and {peak / count:.0f} bytes a module")
    for layers in (1_000, 10_000, 100_000):
        model = tied_towers(layers)
        taken = seconds(lambda model=model: infer_auto_device_map(model, BUDGETS), times=2)
        print(f"{layers:>9,} ties: {taken / layers * 1e6:.2f} us a tie")


if __name__ == "__main__":
    main()
