"""When memory is asked for, bytes are sent and a model is changed: `python load_order.py`.

Weights go to a pretended device through small slots. Prints one JSON object: of a load what happened in
which order, and for each that fails what was raised and what had happened by then.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import pretend_device
import torch
from compile_plan.compiler.loading import jobs, load, load_model, reading, slots
from compile_plan.compiler.loading.streaming.lanes import DirectLane
from compile_plan.ir import Device, Model, Plan, PlanError, Unit
from safetensors.torch import save_file
from torch import nn

SLOT, THREADS, COUNT = 4096, 3, 60
CARD = f"npu:{pretend_device.COUNT - 1}"
EVENTS: list[str] = []
ASKED: dict[int, int] = {}
"""By address of memory on the device: how much had happened when it was asked for."""


class Numbered:
    """A mark: what had happened when it was made."""

    def __init__(self):
        self.events = len(EVENTS)


class Counting(DirectLane):
    """Tells of copies that no mark is before which was made after their memory was asked for."""

    def __init__(self):
        self.behind = -1

    def mark(self):
        EVENTS.append("marked")
        return Numbered()

    def copy(self, pairs, after):
        self.behind = max([self.behind, *(mark.events for mark in after)])
        if any(ASKED[room.elem.data_ptr()] > self.behind for _, room in pairs):
            EVENTS.append("too-early")
        return super().copy(pairs, after)


class Parts(nn.Module):
    def __init__(self, count=COUNT, width=SLOT // 4):
        super().__init__()
        for number in range(count):
            self.register_parameter(f"t{number:02}", nn.Parameter(torch.full((width,), float(number))))


def after(event, usual):
    def noted(*args, **kwargs):
        made = usual(*args, **kwargs)
        EVENTS.append(event)
        return made

    return noted


def watch():
    jobs.SLOT = slots.SLOT = SLOT
    reading._LOAD = SLOT // 2
    slots.sending_threads = reading.sending_threads = lambda: THREADS
    slots.lane_to = reading.lane_to = lambda _device: Counting()
    load.match_seats = after("matched", load.match_seats)
    load.installed = after("changed", load.installed)
    slots.Sender.send = after("sent", slots.Sender.send)
    usual = jobs.Later.tensor

    def tensor(later):
        new = not later.made
        made = usual(later)
        if new:
            EVENTS.append("memory")
            ASKED[made.elem.data_ptr()] = len(EVENTS)
        return made

    jobs.Later.tensor = tensor


def loaded(folder, model=None, **options):
    EVENTS.clear()
    if model is None:
        with torch.device("meta"):
            model = Parts()
    plan = Plan(
        Model("order"), (Device("cuda:0", None), Device("cpu", None)), units=(Unit("", "cuda:0", "cuda:0"),)
    )
    return load_model(plan, model, folder, devices={"cuda:0": CARD}, progress=False, **options)


def broken_at(number):
    """Let reading fail once, after so many pieces."""
    usual, left = os.preadv, iter(range(number))

    def preadv(*args):
        if next(left, None) is None:
            raise OSError(5, "Input/output error")
        return usual(*args)

    return patch.object(os, "preadv", preadv)


def full_at(number):
    usual, left = jobs.Later.tensor, iter(range(number))

    def tensor(later):
        if not later.made and next(left, None) is None:
            raise torch.OutOfMemoryError("the card has no memory left")
        return usual(later)

    return patch.object(jobs.Later, "tensor", tensor)


FAILURES = {
    "a file breaks in the middle": (lambda: broken_at(COUNT // 2), {}),
    "the card is full in the middle": (lambda: full_at(COUNT // 2), {}),
    "a tensor is missing": (nullcontext, {"count": COUNT + 1}),
    "a tensor is left over": (nullcontext, {"count": COUNT - 1}),
    "a shape differs": (nullcontext, {"width": SLOT // 4 + 1}),
}


def failures(folder):
    for title, (failing, shape) in FAILURES.items():
        with torch.device("meta"):
            model = Parts(**shape)
        before = dict(model.named_parameters())
        try:
            with failing():
                loaded(folder, model)
            raised = None
        except PlanError as error:
            raised = error.diagnostics[0].code
        except torch.OutOfMemoryError as error:
            raised = str(error)
        same = all(value is before[name] for name, value in model.named_parameters())
        threads = [thread.name for thread in threading.enumerate() if "-read-" in thread.name]
        kinds = sorted(set(EVENTS))
        yield title, {"raised": raised, "unchanged": same, "threads": threads, "happened": kinds}


def main():
    torch.set_num_threads(1)
    watch()
    with tempfile.TemporaryDirectory() as name:
        folder, real = Path(name), Parts()
        save_file(real.state_dict(), folder / "model.safetensors")
        model = loaded(folder)
        order = list(EVENTS)
        right = all(
            torch.equal(a, b.cpu()) for a, b in zip(real.parameters(), model.parameters(), strict=True)
        )
        failed = dict(failures(folder))
        print(json.dumps({"order": order, "right": right, "failures": failed}))  # noqa: T201


if __name__ == "__main__":
    main()
