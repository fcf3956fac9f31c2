"""What may go wrong while weights are sent to pretended devices: `python hostile_loads.py`.

Prints one JSON object: for each shape of checkpoint whether every tensor has its bytes, and for each failure
what was raised, which threads and which files are left, and whether the next load is right.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from unittest.mock import patch

import pretend_device
import torch
from compile_plan.compiler.loading import jobs, load_model, reading, slots
from compile_plan.ir import Device, Model, Plan, PlanError, Unit
from held_files import held
from safetensors.torch import save_file
from torch import nn

NAMES = {f"cuda:{i}": f"npu:{i}" for i in range(pretend_device.COUNT)}
DEVICES = tuple(Device(name, None) for name in (*NAMES, "cpu", "disk"))
KINDS = (
    "float32", "float16", "bfloat16", "float64", "int8", "uint8", "int16", "int32", "int64", "bool",
    "float8_e4m3fn", "float8_e5m2", "complex64",
)  # fmt: skip
WAYS = {"resident": ("cuda:0", "cuda:0"), "streamed": ("cpu", "cuda:0"), "disk": ("disk", "cuda:0")}


class Holder(nn.Module):
    def __init__(self, shapes, kinds=("float32",)):
        super().__init__()
        for number, shape in enumerate(shapes):
            values = torch.randint(0, 2, shape).to(getattr(torch, kinds[number % len(kinds)]))
            self.register_buffer(f"t{number}", values)

    def forward(self, x):
        return x


SHAPES = {
    "only empty": lambda: Holder([(0,), (0, 4), (3, 0)]),
    "numbers alone": lambda: Holder([(), (), ()]),
    "empty among others": lambda: Holder([(0,), (5,), (0, 3), (), (7, 0)]),
    "thousands of tiny ones": lambda: Holder([(1 + i % 7,) for i in range(2000)]),
    "every dtype": lambda: Holder([(13, 7)] * len(KINDS), KINDS),
    "bytes between wide numbers": lambda: Holder(
        [(1 + i % 5,) for i in range(200)], ("int8", "float64", "bool", "float16")
    ),
    "larger than all slots": lambda: Holder([(300, 301)]),
}


def written(build, folder):
    torch.manual_seed(0)
    real = build()
    save_file(real.state_dict(), folder / "model.safetensors")
    return real


def loaded(build, folder, store="cuda:0", run="cuda:0"):
    with torch.device("meta"):
        model = build()
    plan = Plan(Model("hostile"), DEVICES, units=(Unit("", store, run),))
    return load_model(plan, model, folder, devices=NAMES, progress=False)


def same(real, model):
    pairs = zip(real.buffers(), model.buffers(), strict=True)
    found = [(a.dtype == b.dtype and a.shape == b.shape, in_bytes(a), in_bytes(b.cpu())) for a, b in pairs]
    return all(alike and torch.equal(a, b) for alike, a, b in found)


def in_bytes(tensor):
    return tensor.reshape(-1).view(torch.uint8)


def shapes():
    for title, build in SHAPES.items():
        for way, places in WAYS.items():
            with tempfile.TemporaryDirectory() as name:
                real = written(build, Path(name))
                yield f"{title}, {way}", same(real, loaded(build, Path(name), *places))


def several_at_once():
    """Four threads load onto four devices, and over and over."""
    found = []

    def build():
        return Holder([(60, 60 + i) for i in range(20)])

    def work(real, folder, number):
        card = f"cuda:{number}"
        found.extend(same(real, loaded(build, folder, card, card)) for _ in range(3))

    with tempfile.TemporaryDirectory() as name:
        real = written(build, Path(name))
        threads = [threading.Thread(target=work, args=(real, Path(name), number)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return found == [True] * 12


def refuses(*_args):
    raise RuntimeError("the card has no memory left")


def no_memory(_nbytes):
    return usual_block(1 << 62)


def slowly(usual, after):
    """Do what is usual a little later, while the user interrupts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job behind it ignores the signal
    threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT)).start()

    def done(*args):
        time.sleep(0.3)
        return usual(*args)

    return done


usual_block = slots.Block
FAILURES = {
    "a copy fails": lambda: patch.object(slots.Sender, "send", refuses),
    "there is no memory for slots": lambda: patch.object(slots, "Block", no_memory),
    "Ctrl-C while copying": lambda: patch.object(slots.Sender, "send", slowly(slots.Sender.send, 0.2)),
    "Ctrl-C while slots are got ready": lambda: patch.object(
        slots, "_get_ready", slowly(slots._get_ready, 0.1)
    ),
}


def failures():
    def build():
        return Holder([(200, 100)] * 12)

    for title, failing in FAILURES.items():
        with tempfile.TemporaryDirectory() as name:
            real = written(build, Path(name))
            try:
                with failing():
                    loaded(build, Path(name))
                    time.sleep(1)  # where an interrupt comes late
                raised = None
            except PlanError as error:
                raised = error.diagnostics[0].code
            except (RuntimeError, KeyboardInterrupt) as error:
                raised = type(error).__name__
            left = sorted(t.name for t in threading.enumerate() if t.name.startswith("compile-plan"))
            yield title, [raised, left, held(name), same(real, loaded(build, Path(name)))]


def main():
    torch.set_num_threads(1)
    jobs.SLOT = slots.SLOT = 4096
    slots.sending_threads = reading.sending_threads = lambda: 3
    found = {"shapes": dict(shapes()), "several at once": several_at_once(), "failures": dict(failures())}
    print(json.dumps(found))  # noqa: T201  the program's result


if __name__ == "__main__":
    main()
