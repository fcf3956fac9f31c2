"""Two threads, one in a head and one in the table tied to it, in every order: `python tied_threads.py`.

Prints one JSON object: for each place, point where the table's thread is held, and order in which both enter
and leave, whether both had what they need, and the model was at rest afterwards.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import threading
from pathlib import Path

import late_card
import torch
from compile_plan.compiler.loading import load_model
from compile_plan.compiler.machine import pages
from compile_plan.ir import Device, Model, Plan, Unit
from safetensors.torch import save_file
from tiny_modules import Tied

assert late_card.COMPUTING
IDS, HIDDEN = torch.tensor([[5, 2, 5]]), torch.arange(8.0, dtype=torch.float64).view(1, 2, 4)
DEVICES = (Device("cuda:0", None), Device("cpu", None), Device("disk", None))
ORDERS = sorted(set(itertools.permutations(["table", "table", "head", "head"])))
PATIENCE = 60


class Held:
    """A call in a thread of its own, held at some point of it until it may go on."""

    def __init__(self, call):
        self.reached, self.goes_on, self.result = threading.Event(), threading.Event(), None
        self.thread = threading.Thread(target=self.work, args=(call,))

    def work(self, call):
        self.result = call().to("cpu")

    def hold(self, *_):
        if threading.current_thread() is self.thread and not self.reached.is_set():
            self.reached.set()
            assert self.goes_on.wait(PATIENCE)


def loaded(folder, run):
    real = Tied()
    save_file({"table.weight": real.table.weight.data}, folder / "model.safetensors")
    with torch.device("meta"):
        model = Tied()
    units = (Unit("", run, run), *(Unit(path, "disk", run, by_rows=True) for path in ("table", "head")))
    plan = Plan(Model("tied"), DEVICES, units=units)
    load_model(plan, model, folder, devices={"cuda:0": torch.device("npu:0")}, dtype="float64")
    return real.double(), model


def both(model, order, *, bringing):
    """Return what both calls made; each enters at its first place in the order, and leaves at its second."""
    held = {
        "table": Held(lambda: model.table(IDS.to(model.run))),
        "head": Held(lambda: model.head(HIDDEN.to(model.run))),
    }
    usual = pages.bring
    if bringing:

        def bring(address, nbytes):
            held["table"].hold()
            return usual(address, nbytes)

        pages.bring = bring
    handles = [getattr(model, name).register_forward_pre_hook(one.hold) for name, one in held.items()]
    try:
        for number, name in enumerate(order):
            one = held[name]
            if name in order[:number]:
                one.goes_on.set()
                one.thread.join(PATIENCE)
            else:
                one.thread.start()
                assert one.reached.wait(PATIENCE)
    finally:
        pages.bring = usual
        for handle in handles:
            handle.remove()
    return held["table"].result, held["head"].result


def at_rest(model):
    stream = model._compile_plan_execution.stream
    lent = [one for site in stream.sites for one in site.streamed if one.used is not None or one.users]
    return not lent and model.table.weight is model.head.weight and model.table.weight.device.type == "cpu"


def main():
    torch.set_num_threads(1)
    found = {}
    for run, bringing, order in itertools.product(("cpu", "cuda:0"), (False, True), ORDERS):
        if bringing and order[0] == "head":
            continue  # all of the table is brought then, while nobody else enters or leaves
        with tempfile.TemporaryDirectory() as name, torch.no_grad():
            real, model = loaded(Path(name), run)
            model.run = "npu:0" if run == "cuda:0" else run
            table, head = both(model, order, bringing=bringing)
            pairs = ((table, real.table(IDS)), (head, real.head(HIDDEN)))
            right = all(one is not None and torch.equal(one, wanted) for one, wanted in pairs)
            after = at_rest(model) and torch.equal(model(IDS).to("cpu"), real(IDS)) and at_rest(model)
            key = " ".join((run, "bringing" if bringing else "computing", *order))
            found[key] = "equal" if right and after else f"{right} {after}"
    print(json.dumps(found))  # noqa: T201  the program's result


if __name__ == "__main__":
    main()
