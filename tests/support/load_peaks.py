"""How much memory loads and forwards take, measured in a process of its own; prints MiB by case as JSON.

Anonymous memory counts: pages of the checkpoint's files are the system's to drop.
"""

from __future__ import annotations

import ctypes
import gc
import json
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import torch
from compile_plan.compiler.loading import load_model, release_model
from compile_plan.ir import Account, Device, Model, Plan, Unit
from safetensors.torch import save_file
from torch import nn

MIB = 1 << 20
M_MMAP_THRESHOLD = -3
WIDTH, LAYERS, ROWS = 1024, 24, 6144  # 24 tensors of 4 MiB and one of 24 MiB, in float32
BUFFER = 16 * MIB
CPU, DISK = Unit("", "cpu", "cpu"), Unit("layers", "disk", "cpu")
CASES = {
    "mapped": ((CPU,), {}),
    "copied": ((CPU,), {"map_memory": False}),
    "converted": ((CPU,), {"dtype": "bfloat16"}),
    "disk mapped": ((CPU, DISK), {}),
    "disk copied": ((CPU, DISK), {"map_memory": False}),
    "disk converted": ((CPU, DISK), {"dtype": "bfloat16"}),
}


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(ROWS, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))

    def forward(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return x


def save(folder: Path) -> None:
    """Write the weights as two shards."""
    tensors = {"embed.weight": torch.rand(ROWS, WIDTH)}
    tensors |= {f"layers.{i}.weight": torch.rand(WIDTH, WIDTH) for i in range(LAYERS)}
    names = list(tensors)
    weight_map = {}
    for shard, part in (("a.safetensors", names[:10]), ("b.safetensors", names[10:])):
        save_file({name: tensors[name] for name in part}, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def anonymous() -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(row for row in status.splitlines() if row.startswith("RssAnon")).split()[1]) << 10


class Peak:
    """The most anonymous memory gained while something runs, in MiB."""

    def __enter__(self):
        gc.collect()
        self._before = self._most = anonymous()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self):
        while not self._over.wait(0.001):
            self._most = max(self._most, anonymous())

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()
        self.mib = (max(self._most, anonymous()) - self._before) / MIB


def measured(folder: Path, units: tuple[Unit, ...], options, *, twice=False) -> list[float]:
    """Return the peaks of a load, and of it and two forwards; ``twice`` keeps a second copy meanwhile."""
    with torch.device("meta"):
        model = Stack()
    devices = (Device("cpu", None), Device("disk", None))
    plan = replace(Plan(Model("stack"), devices, units=units), ledger=(Account("cpu", streaming=BUFFER),))
    with Peak() as both, torch.no_grad():
        with Peak() as load:
            load_model(plan, model, folder, **options)
            kept = [tensor.clone() for tensor in model.parameters()] if twice else []
        del kept
        for _ in range(2):
            model(torch.arange(4)[None])
    release_model(model)
    return [load.mib, both.mib]


def experts() -> nn.Module:
    """Build two layers of eight experts: 32 and 16 MiB a layer in the model, 2 MiB each in a checkpoint."""
    import transformers  # not before the other cases are measured

    config = transformers.MixtralConfig(
        vocab_size=64, hidden_size=512, intermediate_size=1024, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=1, num_local_experts=8,
    )  # fmt: skip
    return transformers.MixtralForCausalLM(config)


def measured_merge(folder: Path, **options) -> list[float]:
    """Return what the parameters take and the peak of a load that merges experts."""
    with torch.device("meta"):
        model = experts()
    with Peak() as load:
        load_model(Plan(Model("experts"), (Device("cpu", None),), units=(CPU,)), model, folder, **options)
    return [sum(value.nbytes for value in model.parameters()) / MIB, load.mib]


def main() -> None:
    torch.set_num_threads(1)
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MIB)  # what is freed goes back at once and is not used again
    with tempfile.TemporaryDirectory() as name:
        save(Path(name))
        measured(Path(name), *CASES["copied"])  # what torch allocates once is no part of a load
        found = {case: measured(Path(name), *given) for case, given in CASES.items()}
        found["two copies"] = measured(Path(name), *CASES["copied"], twice=True)
    with tempfile.TemporaryDirectory() as name:
        experts().save_pretrained(name)
        measured_merge(Path(name))
        found["merged"] = measured_merge(Path(name))
        found["merged and converted"] = measured_merge(Path(name), dtype="bfloat16")
    print(json.dumps(found))  # noqa: T201  the program's result


if __name__ == "__main__":
    main()
