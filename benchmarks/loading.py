"""Load time, forward time, peak memory and bytes written, beside accelerate and transformers.

Makes a random checkpoint (``--gb``), then measures each tool in processes of its own, the tools in turn,
so that whatever else the machine does meets all of them; medians count. Cold runs drop the checkpoint's
and the offload folder's pages from the cache first. Memory is told apart: what only swapping could take
back (anonymous), and pages of files, which the system drops when it needs room.
Run: python benchmarks/loading.py --gb 1
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

TOOLS = ("compile-plan", "compile-plan copied", "transformers", "accelerate")
PLACES = ("cpu", "disk")
LAYERS = 12


def config_of(gb: float):
    import transformers

    width = max(64, int((gb * 1e9 / 4 / LAYERS / 11) ** 0.5) // 64 * 64)
    return transformers.LlamaConfig(
        vocab_size=2000, hidden_size=width, intermediate_size=width * 7 // 3, num_hidden_layers=LAYERS,
        num_attention_heads=width // 64, num_key_value_heads=width // 64,
    )  # fmt: skip


def make(folder: Path, gb: float, dtype: str) -> None:
    import torch
    import transformers

    config = config_of(gb * 4 / torch.empty(0, dtype=getattr(torch, dtype)).element_size())
    config.dtype = dtype
    model = transformers.LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size="300MB")


def device_map(place: str) -> dict[str, str]:
    first_on_disk = LAYERS // 3 if place == "disk" else LAYERS
    layers = {f"model.layers.{i}": "cpu" if i < first_on_disk else "disk" for i in range(LAYERS)}
    rest = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")
    return layers | dict.fromkeys(rest, "cpu")


def drop_cache(*folders: Path) -> None:
    for folder in folders:
        for file in folder.rglob("*"):
            if file.is_file():
                descriptor = os.open(file, os.O_RDONLY)
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)


def memory(kind: str) -> float:
    """Memory of this process in MB: ``RssAnon`` or ``RssFile``."""
    status = Path("/proc/self/status").read_text()
    return int(next(row for row in status.splitlines() if row.startswith(kind)).split()[1]) / 1024


def fill_cache(folder: Path) -> None:
    """Read the checkpoint once: what a tool's cold run dropped is not to be read in the load of the next."""
    for file in folder.glob("*.safetensors"):
        with file.open("rb", buffering=0) as opened:
            while opened.read(1 << 24):
                pass


class Watch:
    """The most anonymous memory while something runs, looked at every five milliseconds."""

    def __enter__(self):
        self.before = self.most = memory("RssAnon")
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self):
        while not self._done.wait(0.005):
            self.most = max(self.most, memory("RssAnon"))

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()
        self.most = max(self.most, memory("RssAnon")) - self.before


def load(tool: str, place: str, folder: Path, offload: Path):
    import torch
    import transformers

    if tool.startswith("compile-plan"):
        from compile_plan.compiler.loading import load_model
        from compile_plan.ir import Device, Model, Plan, Unit

        config = transformers.AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=config.dtype)
        units = tuple(Unit(path, device, "cpu") for path, device in device_map(place).items())
        plan = Plan(Model("llama"), (Device("cpu", None), Device("disk", None)), units=units)
        return load_model(plan, model, folder, progress=False, map_memory=not tool.endswith("copied"))
    places = device_map(place) if place == "disk" else {"": "cpu"}
    if tool == "transformers":
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, device_map=places, offload_folder=offload, dtype="auto"
        )
    import accelerate

    config = transformers.AutoConfig.from_pretrained(folder)
    with accelerate.init_empty_weights():
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=config.dtype)
    return accelerate.load_checkpoint_and_dispatch(model, str(folder), places, offload_folder=str(offload))


def measure(tool: str, place: str, folder: Path) -> dict[str, float]:
    import torch

    if tool == "accelerate":
        import accelerate  # noqa: F401  # importing is not loading
    import transformers

    fill_cache(folder)
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    _ = transformers.LlamaForCausalLM
    if tool.startswith("compile-plan"):
        import compile_plan.compiler.loading  # noqa: F401
    with tempfile.TemporaryDirectory(dir=folder.parent) as name, torch.no_grad():
        offload, ids = Path(name), torch.arange(4)[None]
        with Watch() as watch:
            start = time.perf_counter()
            model = load(tool, place, folder, offload)
            loaded = time.perf_counter()
            model(ids)
            first = time.perf_counter()
            warm = [timed(model, ids) for _ in range(5)]
        files = memory("RssFile")
        written = sum(file.stat().st_size for file in offload.rglob("*") if file.is_file())
        del model
        model = load(tool, place, folder, offload)  # and not run: pages in use would stay in the cache
        drop_cache(folder, offload)
        cold = timed(model, ids)
    return {
        "load s": loaded - start,
        "load + forward s": first - start,
        "warm forward s": statistics.median(warm),
        "cold forward s": cold,
        "anonymous MB": watch.most,
        "of files MB": files,
        "written MB": written / 1e6,
    }


def timed(model, ids) -> float:
    begin = time.perf_counter()
    model(ids)
    return time.perf_counter() - begin


def table(place: str, rows: dict[str, dict[str, float]]) -> None:
    print(f"\n{'all on cpu' if place == 'cpu' else 'two thirds of the layers on disk'}")
    columns = list(next(iter(rows.values())))
    print(f"{'':22}" + "".join(f"{column:>18}" for column in columns))
    for tool, row in rows.items():
        print(f"{tool:22}" + "".join(f"{row[column]:18.3f}" for column in columns))
    ours = rows["compile-plan"]
    for peer in ("transformers", "accelerate"):
        ratios = (f"{rows[peer][c] / ours[c]:17.2f}x" if ours[c] else f"{'-':>18}" for c in columns)
        print(f"{peer + ' / ours':22}" + "".join(ratios))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=0.05, help="size of the checkpoint")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each; the median counts")
    parser.add_argument("--dtype", default="float32", help="of the checkpoint: float32 or bfloat16")
    parser.add_argument("--one", nargs=3, metavar=("TOOL", "PLACE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        tool, place, folder = arguments.one
        print(json.dumps(measure(tool, place, Path(folder))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "checkpoint"
        make(folder, arguments.gb, arguments.dtype)
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        print(f"{size / 1e9:.2f} GB of {arguments.dtype} in {len(list(folder.glob('*.safetensors')))} shards")
        for place in PLACES:
            runs = [{tool: run(tool, place, folder) for tool in TOOLS} for _ in range(arguments.repeat)]
            table(place, {tool: medians([one[tool] for one in runs]) for tool in TOOLS})


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(one[key] for one in runs) for key in runs[0]}


def run(tool: str, place: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", tool, place, str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
