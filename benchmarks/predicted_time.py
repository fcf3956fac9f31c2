"""Predicted seconds against a clock: layouts of one mixture, loaded and run, each as its own plan says.

    python benchmarks/predicted_time.py [--gb 4] [--prompt 64] [--only LAYOUT]

Makes a random mixture, measures the machine as `--calibrate` does, loads the model once for each layout
(on the card, computed on the host, streamed, both by turns, experts visited, by rows, from disk) and prints
the predicted seconds of a prompt and of a token beside the measured ones, how many pairs of layouts that
differ by more than a tenth are ranked right, and the largest deviation.

Without a card a pretended one is used: the host's memory under another name, as the tests use it, behind a
link as slow beside it as links are. It does what it is asked for before it is asked for more, so there asking
adds up; a core is left to the copies, as a link takes none. What a machine that others use can do changes
from minute to minute: there it is measured before and after each layout, and the quicker counts, as of calls.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import mmap
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from pathlib import Path

import torch
import transformers
from compile_plan.compiler import compile_model
from compile_plan.compiler.loading import load_model, release_model
from compile_plan.compiler.loading.execution import Execution
from compile_plan.compiler.machine import calibration
from compile_plan.compiler.machine.calibration import Sizes, Speed, measure
from compile_plan.compiler.machine.launching import launch_seconds
from compile_plan.compiler.machine.machine_file import with_measured
from compile_plan.compiler.search.asking import asking, with_asking
from compile_plan.compiler.search.atoms import build
from compile_plan.compiler.search.costs import Costs
from compile_plan.compiler.search.emit import places_of
from compile_plan.compiler.search.rowwise import by_stacks
from compile_plan.ir import Device

LAYERS, CHOSEN = 4, 2
EXPERTS = 16 if torch.cuda.is_available() else 4
"""More than products of one size have room for, where there is room."""
CARD, RUNS = "cuda:0", 20
SECONDS = 1.0 if torch.cuda.is_available() else 3.0
"""For the calls of one kind."""
LINK = 4e9
"""Bytes a second to a pretended card: a fifth of what the memory of one core has."""
LAYOUTS = {
    "all on the card": "place ** on cuda:0",
    "all on the host": "place ** on cpu",
    "half of the layers on the host": "place ** on cuda:0\nplace model.layers.{2..3} on cpu",
    "half of the layers streamed": "place ** on cuda:0\nplace model.layers.{2..3} on cpu run on cuda:0",
    "all layers streamed": "place ** on cuda:0\nplace model.layers.* on cpu run on cuda:0",
    "streamed and on the host by turns": "place ** on cuda:0\nplace model.layers.{0,2} on cpu\n"
    "place model.layers.{1,3} on cpu run on cuda:0",
    "experts visited on the host": "place ** on cuda:0\nplace **.mlp.experts on cpu",
    "experts streamed by rows": "place ** on cuda:0\nplace **.mlp.experts on cpu run on cuda:0 by rows",
    "half of the layers from disk": "place ** on cuda:0\nplace model.layers.{2..3} on disk run on cuda:0",
    "half from disk, on the host": "place ** on cpu\nplace model.layers.{2..3} on disk run on cpu",
}


_MADVISE = ctypes.CDLL(None).madvise
_MADVISE.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


@dataclass(frozen=True)
class Result:
    """Seconds of a call by a layout."""

    name: str
    predicted: float
    measured: float

    @property
    def ratio(self) -> float:
        return self.predicted / self.measured


def kind() -> str:
    """Return the dtype that models are run in: a card's matrix units want half precision."""
    return "bfloat16" if torch.cuda.is_available() else "float32"


def configuration(gb: float) -> transformers.PretrainedConfig:
    """Return a mixture of so many gigabytes, most of them experts."""
    size = getattr(torch, kind()).itemsize
    width = max(64, round((gb * 1e9 / size / LAYERS / (EXPERTS * 8 + 4)) ** 0.5) // 64 * 64)
    return transformers.MixtralConfig(
        vocab_size=1024, hidden_size=width, intermediate_size=width * 8 // 3, num_hidden_layers=LAYERS,
        num_attention_heads=width // 64, num_key_value_heads=width // 64,
        num_local_experts=EXPERTS, num_experts_per_tok=CHOSEN,
    )  # fmt: skip


def empty(config):
    with torch.device("meta"):
        model = transformers.MixtralForCausalLM(config).eval().to(getattr(torch, kind()))
    model.set_experts_implementation("eager")
    return model


def the_card() -> str:
    """Return the name of the card that is there, or of the pretended one."""
    if torch.cuda.is_available():
        return CARD
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
    import pretend_device

    pretend_device.LINK[0] = LINK
    return "npu:0"


@cache
def of_a_card(folder: str) -> tuple[Device, ...]:
    """Return what was measured of a machine with a card, which nobody shares: once is enough."""
    return calibrated(CARD, folder)


def calibrated(card: str, folder: str) -> tuple[Device, ...]:
    """Return the devices with what was measured of them; a pretended card is the host behind a copy."""
    devices = (Device(CARD, 64 * 2**30), Device("cpu", None), Device("disk", None, at=folder))
    sizes = Sizes()
    real = devices if card == CARD else devices[1:]
    speeds = list(measure(real, folder, sizes))
    if card != CARD:
        host = next(speed for speed in speeds if speed.name == "cpu")
        link, hop = pretended(card, sizes.copied)
        launch = launch_seconds(torch, card, calibration.best)
        speeds.append(Speed(CARD, "", host.memory, link, hop, host.products, launch))
    return with_measured(devices, speeds, kind())


def pretended(card: str, nbytes: int) -> tuple[int, float]:
    """Return the rate of copies to a pretended card, and half the seconds of a small one and back."""
    source, target = (
        torch.ones(nbytes, dtype=torch.uint8),
        torch.empty(nbytes, dtype=torch.uint8, device=card),
    )
    small = torch.ones(4096, dtype=torch.uint8)
    with ThreadPoolExecutor(1) as thread:  # as the loader's copies, in one of its own

        def copy() -> None:
            thread.submit(target.copy_, source).result()

        link = nbytes / calibration.best(copy)
    return int(link), calibration.best(lambda: (small.to(card).to("cpu"), None)[1]) / 2


def planned(model, text: str, devices: tuple[Device, ...]):
    """Return the plan of a layout with the rates of the machine."""
    tokens = torch.ones(1, 16, dtype=torch.long)
    budgets = {0: "64GiB", "cpu": "64GiB", "disk": "64GiB"}
    plan = compile_model(
        model, max_memory=budgets, overrides=text + "\n", example_inputs={"input_ids": tokens}
    )
    rated = {device.name: device for device in devices}
    measured = tuple(replace(rated[device.name], memory=device.memory) for device in plan.devices)
    return replace(plan, devices=measured)


def predicted(plan, tokens: int, *, waits_for_each: bool) -> float:
    """Return the seconds of a call of so many tokens, where a card may run behind or not."""
    model = build(replace(plan, units=(), reserves=()), plan.tree, parts=True)
    places = places_of(plan, model)
    problem = model.problem if any(unit.by_rows for unit in plan.units) else by_stacks(model.problem)
    waits = Costs(problem).call(places, tokens)
    if not waits_for_each:
        return with_asking(model, places, waits, tokens).seconds
    asked = asking(model, places, tokens)
    return waits.seconds + asked.cards + asked.hosts


def registered(model) -> None:
    """Wait until the driver knows all memory it will know: what is predicted is what lasts."""
    execution = Execution.of(model)
    while execution is not None and execution.registering is not None and not execution.registering.ended:
        time.sleep(0.01)


def forget(folder: str) -> None:
    """Drop a checkpoint from the page cache: what is on disk is read from there."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        if folder in line:  # pages in use stay in the cache
            first, last = (int(end, 16) for end in line.split()[0].split("-"))
            _MADVISE(first, last - first, mmap.MADV_DONTNEED)
    for path in Path(folder).glob("*.safetensors"):
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def measured(model, tokens: int, folder: str, *, cold: bool) -> float:
    """Return the seconds of the quickest call of so many tokens; ``cold`` reads from the disk each time."""
    ids, found = torch.randint(0, 1000, (1, tokens)), []
    ids = ids.to(model.get_input_embeddings().weight.device)
    end = time.perf_counter() + SECONDS
    while len(found) < 3 or (len(found) < RUNS and time.perf_counter() < end):
        if cold:
            forget(folder)
        begun = time.perf_counter()
        with torch.no_grad():
            model(input_ids=ids, use_cache=False, logits_to_keep=1)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - begun)
    return min(found[1:])


def ranked(results: list[Result]) -> tuple[int, int]:
    """Return how many pairs that differ by more than a tenth there are, and how many are ranked right."""
    pairs = [
        (first.measured - second.measured) * (first.predicted - second.predicted) > 0
        for first, second in combinations(results, 2)
        if abs(first.measured - second.measured) > 0.1 * min(first.measured, second.measured)
    ]
    return len(pairs), sum(pairs)


def say(call: str, results: list[Result]) -> None:
    print(f"\n| {call} | predicted | measured | predicted / measured |\n|---|---|---|---|")
    for result in sorted(results, key=lambda each: each.measured):
        print(f"| {result.name} | {result.predicted:.3f} s | {result.measured:.3f} s | {result.ratio:.2f} |")
    pairs, right = ranked(results)
    worst = max(results, key=lambda each: abs(each.ratio - 1))
    print(f"\n{right} of {pairs} pairs that differ by a tenth are ranked right")
    print(f"furthest off: {worst.name}, {worst.ratio:.2f}")


@dataclass(frozen=True)
class Bench:
    """What every layout is measured with."""

    card: str
    calls: tuple[int, ...]

    def devices(self, folder: str) -> tuple[Device, ...]:
        return of_a_card(folder) if self.card == CARD else calibrated(self.card, folder)

    def times(self, config, folder: str, text: str) -> list[tuple[float, float]]:
        """Load a layout; return for each call the predicted and the measured seconds.

        The machine is measured before and after: one that others use is not as fast from minute to minute.
        """
        before = planned(empty(config), text, self.devices(folder))
        model = load_model(before, empty(config), folder, devices={CARD: self.card}, map_memory=False)
        registered(model)
        seconds = [measured(model, tokens, folder, cold="disk" in text) for tokens in self.calls]
        plans, waits = (before, planned(empty(config), text, self.devices(folder))), self.card != CARD
        told = [min(predicted(plan, tokens, waits_for_each=waits) for plan in plans) for tokens in self.calls]
        release_model(model)
        del model
        gc.collect()
        return list(zip(told, seconds, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=4.0 if torch.cuda.is_available() else 2.0)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    calibration.DTYPES = (kind(),)
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, torch.get_num_threads() - 1))
    card, config = the_card(), configuration(arguments.gb)
    calls = (1, arguments.prompt)
    results: dict[int, list[Result]] = {tokens: [] for tokens in calls}
    with tempfile.TemporaryDirectory() as folder:
        with torch.device(CARD if torch.cuda.is_available() else "cpu"):
            made = transformers.MixtralForCausalLM(config).to(getattr(torch, kind()))
        made.to("cpu").save_pretrained(folder, save_original_format=False)
        del made
        os.sync()  # else the disk is measured while it writes
        bench = Bench(card, calls)
        for device in calibrated(card, folder):
            rates = f"{device.bandwidth} B/s, with a few rows {device.few}, link {device.link}"
            print(f"{device.name}: {rates}, {dict(device.dtype_flops)}, launch {device.launch} ns")
        for name, text in LAYOUTS.items():
            if arguments.only not in name:
                continue
            for tokens, (told, seconds) in zip(calls, bench.times(config, folder, text), strict=True):
                results[tokens].append(Result(name, told, seconds))
    say("a token", results[1])
    say(f"a prompt of {arguments.prompt}", results[arguments.prompt])


if __name__ == "__main__":
    main()
