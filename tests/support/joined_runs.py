"""Tensors that join streamed sites after loading, on pretended accelerators: `python joined_runs.py`.

Prints one JSON object: for each case and store, of how many sites a pass finds the weights brought ahead,
before something joined and after, and how often memory beside the streaming buffer was taken.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from compile_plan.compiler.loading import load_model
from compile_plan.compiler.loading.streaming import carrier
from compile_plan.ir import Account, Model, Plan, Unit
from safetensors.torch import save_file
from streamed_runs import DEVICES, LAYERS, NAMES, STORES, Adapter, Stack, at_rest, pair, same


def layer_bytes():
    return sum(parameter.nbytes for parameter in Stack().layers[0].parameters())


def tight(store, folder):
    """A buffer for one layer, as the plans of the search have it."""
    return pair(store, folder, streaming=layer_bytes())


def two_cards(store, folder):
    """The second card has one norm of a layer, and is sent nothing until something joins it."""
    torch.manual_seed(0)
    real = Stack()
    save_file(real.state_dict(), folder / "model.safetensors")
    with torch.device("meta"):
        model = Stack()
    units = [Unit("first", "cuda:0", "cuda:0"), Unit("layers.1.norm", "cuda:1", "cuda:1")]
    units += [Unit(f"layers.{i}", store, "cuda:0") for i in range(LAYERS)]
    plan = Plan(
        Model("stack"), DEVICES, units=tuple(units), ledger=(Account("cuda:0", streaming=layer_bytes()),)
    )
    return real, load_model(plan, model, folder / "model.safetensors", devices=NAMES)


def adapt(model, number, name):
    torch.manual_seed(number)
    layer = model.layers[number]
    setattr(layer, name, Adapter(getattr(layer, name)))


def ahead(real, model):
    """Return how many sites came ahead in the second of two passes."""
    sites = model._compile_plan_execution.stream.sites
    assert same(real, model)
    before = sum(site.tally.ahead for site in sites)
    assert same(real, model)
    return sum(site.tally.ahead for site in sites) - before


def outcome(make, part, store, folder):
    beside = []
    usual, carrier.outside = carrier.outside, lambda *args: (beside.append(args), usual(*args))[1]
    try:
        real, model = make(store, folder)
        found = [ahead(real, model)]
        for number in (1, 3):
            for each in (real, model):
                adapt(each, number, part)
        assert same(real, model)
        beside.clear()
        found.append(ahead(real, model))
    finally:
        carrier.outside = usual
    assert at_rest(model)
    return [*found, len(beside)]


CASES = {"tight": (tight, "q_proj"), "two_cards": (two_cards, "norm")}


def main():
    torch.set_num_threads(1)
    found = {}
    for name, case in CASES.items():
        for store in STORES:
            with tempfile.TemporaryDirectory() as folder, torch.no_grad():
                found[f"{name} {store}"] = outcome(*case, store, Path(folder))
    print(json.dumps(found))  # noqa: T201  the program's result


if __name__ == "__main__":
    main()
