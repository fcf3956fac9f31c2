"""The runtime on a card beside its link and its peers: loads, streamed forwards, decoding, host memory.

Makes a random checkpoint (7 GB on a card, a few MB on a machine without one, where the script only shows
that it works), then measures the link with pinned and pageable copies, and each tool with everything on
the card, half of the layers in host memory, and half on disk; then a mixture whose experts are in host
memory, by rows and by stacks. Every tool runs in a process of its own, with what it imports there already.
`load s` is all of it, the empty model included; `read GB/s` is between the first bytes and the last. Of a
forward `asked s` is how long the call took, after which the card went on alone. Ratios are to the link and
to us.
Run: python benchmarks/gpu_runtime.py
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

TOOLS = ("compile-plan", "transformers", "accelerate", "safetensors", "fastsafetensors", "instanttensor")
BARE = TOOLS[3:]
"""Read tensors to the card and leave models to others."""
PLACES = ("card", "half in memory", "half on disk")
LAYERS, EXPERTS, CHOSEN = 16, 32, 2
MIXED = 4
"""Layers of the mixture: a layer of those people run has a gigabyte of experts, too."""
TOKENS, PROMPT, FORWARDS = 16, 512, 20
IMPORTED = ["transformers.models.llama.modeling_llama", "transformers.models.mixtral.modeling_mixtral",
            "safetensors.torch", "accelerate", "compile_plan.compiler.loading"]  # fmt: skip


def card() -> str:
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"


def wait() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak() -> int:
    """Return the most bytes of memory this process has had since the last call, where Linux tells."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


class Read:
    """How fast bytes came, between the first and the last."""

    def __init__(self) -> None:
        self.points: list[tuple[float, int]] = []

    def __call__(self, done: int, _total: int) -> None:
        self.points.append((time.perf_counter(), done))

    def rate(self) -> float:
        (start, first), (end, last) = self.points[0], self.points[-1]
        return (last - first) / (end - start) if end > start else 0.0


def timed(step) -> float:
    wait()
    start = time.perf_counter()
    step()
    wait()
    return time.perf_counter() - start


def make(folder: Path, gb: float, *, mixture: bool) -> dict[str, float]:
    import torch
    import transformers

    parts, layers = (3 * EXPERTS + 3, MIXED) if mixture else (11, LAYERS)
    width = max(64, int((gb * 1e9 / 2 / layers / parts) ** 0.5) // 64 * 64)
    common = {
        "vocab_size": 2048, "hidden_size": width, "num_hidden_layers": layers, "dtype": "bfloat16",
        "num_attention_heads": width // 64, "num_key_value_heads": width // 64,
    }  # fmt: skip
    if mixture:
        config = transformers.MixtralConfig(
            **common, intermediate_size=width, num_local_experts=EXPERTS, num_experts_per_tok=CHOSEN
        )
    else:
        config = transformers.LlamaConfig(**common, intermediate_size=width * 7 // 3)
    with torch.device(card()):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.to("cpu").save_pretrained(folder, max_shard_size="2GB")
    os.sync()  # else the system writes while the first tool is measured
    return {}


def versions() -> dict[str, str]:
    """Return what is measured on, and with what."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    here = [tool for tool in ("torch", "transformers", "accelerate") if importlib.util.find_spec(tool)]
    return {device: ""} | {tool: importlib.metadata.version(tool) for tool in here}


def link() -> dict[str, float]:
    """Return bytes per second between the host and the card, pinned and pageable."""
    import torch

    nbytes = (1 << 30) if torch.cuda.is_available() else (1 << 22)
    target = torch.empty(nbytes, dtype=torch.uint8, device=card())
    found = {}
    for name in ("pinned", "pageable"):
        pinned = name == "pinned" and torch.cuda.is_available()
        source = torch.zeros(nbytes, dtype=torch.uint8, pin_memory=pinned)
        target.copy_(source)
        seconds = min(timed(lambda source=source: target.copy_(source, non_blocking=True)) for _ in range(3))
        found[name] = nbytes / seconds
    return found


def places(place: str) -> dict[str, str]:
    """Return where layers are stored."""
    elsewhere = {"card": None, "half in memory": "cpu", "half on disk": "disk"}[place]
    streamed = range(1, LAYERS, 2) if elsewhere else ()
    return {f"model.layers.{i}": elsewhere if i in streamed else card() for i in range(LAYERS)}


def new_model(folder: Path):
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    return transformers.AutoModelForCausalLM.from_config(config, dtype=config.dtype).eval()


def watched() -> dict[str, float]:
    """Return seconds by step, filled while our loader works; of steps done several times the longest.

    `first` and `last` are when a thread took the first piece and when one was through with the last, after
    `load_model` began.
    """
    from compile_plan.compiler.loading import load, reading, slots

    found: dict[str, float] = {}
    begun: list[float] = []
    taken, usual = reading._Readers._taken, load._Loader.__init__  # noqa: SLF001

    def begin(*args) -> None:
        begun[:] = [time.perf_counter()]
        usual(*args)

    def timed_pieces(readers):
        for piece in taken(readers):
            found.setdefault("first", time.perf_counter() - begun[0])
            yield piece
            found["last"] = time.perf_counter() - begun[0]

    load._Loader.__init__, reading._Readers._taken = begin, timed_pieces  # noqa: SLF001

    def watch(owner, name: str) -> None:
        step = getattr(owner, name)

        def timed_step(*args, **kwargs):
            start = time.perf_counter()
            try:
                return step(*args, **kwargs)
            finally:
                found[name] = max(found.get(name, 0.0), time.perf_counter() - start)

        setattr(owner, name, timed_step)

    steps = {load._Loader: ("bind", "prepare", "read", "commit"), load.Stage: ("seats",)}  # noqa: SLF001
    for owner, names in {**steps, load: ("read_all",)}.items():
        for name in names:
            watch(owner, name)
    watch(slots.Slots, "ring")
    return found


def empty_model(folder: Path):
    """Return the model without values, and draw none: `from_pretrained` does the same."""
    import torch
    from transformers.initialization import no_init_weights

    with torch.device("meta"), no_init_weights():
        return new_model(folder)


def ours(folder: Path, units, cache: int = 0, *, progress=False):
    from compile_plan.compiler.loading import load_model
    from compile_plan.ir import Cache, Device, Model, Plan

    devices = tuple(Device(name, None) for name in dict.fromkeys((card(), "cpu", "disk")))
    caches = (Cache(cache, ("**.experts",), card()),) if cache else ()
    plan = Plan(Model("bench"), devices, units=tuple(units), caches=caches)
    return load_model(plan, empty_model(folder), folder, progress=progress)


def load(tool: str, place: str, folder: Path, offload: Path, read: Read):
    from compile_plan.ir import Unit

    stored = places(place)
    rest = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), card())
    if tool == "compile-plan":
        units = [Unit("", card(), card()), *(Unit(k, v, card()) for k, v in stored.items())]
        return ours(folder, units, progress=read)
    if tool == "transformers":
        import transformers

        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, device_map=stored | rest, offload_folder=offload, dtype="auto"
        )
    if tool == "accelerate":
        import accelerate

        with accelerate.init_empty_weights():  # buffers are not in the checkpoint, and it makes none
            model = new_model(folder)
        return accelerate.load_checkpoint_and_dispatch(
            model, str(folder), stored | rest, offload_folder=str(offload)
        )
    return tensors(tool, [str(file) for file in sorted(folder.glob("*.safetensors"))])


def tensors(tool: str, files: list[str]):
    """Return the tensors of files on the card, as a reader of files gives them."""
    if tool == "fastsafetensors":
        import fastsafetensors

        loader = fastsafetensors.SafeTensorsFileLoader(None, card(), nogds=True)
        loader.add_filenames({0: files})
        there = loader.copy_files_to_device()
        return [there.get_tensor(name) for name in there.key_to_rank_lidx], there, loader
    if tool == "instanttensor":
        import instanttensor

        with instanttensor.safe_open(files, framework="pt", device=0) as opened:
            return list(opened.tensors())
    import safetensors.torch

    return [safetensors.torch.load_file(file, device=card()) for file in files]


def prepare(tool: str) -> None:
    """Import what a tool needs, and wake the card: neither is loading."""
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    _ = transformers.LlamaForCausalLM, transformers.MixtralForCausalLM
    if tool == "compile-plan":
        import compile_plan.compiler.loading  # noqa: F401
    if tool in {"accelerate", *BARE}:
        importlib.import_module(tool)
    torch.zeros(1, device=card())


def measure(tool: str, place: str, folder: Path) -> dict[str, float]:
    import torch

    prepare(tool)
    peak()
    before, read, steps = peak(), Read(), watched() if tool == "compile-plan" else {}
    with tempfile.TemporaryDirectory(dir=folder.parent) as name, torch.no_grad():
        made: list = []
        found = {"load s": timed(lambda: made.append(load(tool, place, folder, Path(name), read)))}
        found["host GB"] = (peak() - before) / 1e9
        if len(read.points) > 1:
            found["read GB/s"] = read.rate() / 1e9
        if steps:
            print(f"steps in {place}, ms:", *(f"{name} {took * 1e3:.1f}" for name, took in steps.items()))
        if tool in BARE:
            return found
        ids, asked = torch.arange(64, device=card())[None], []

        def forward() -> None:
            start = time.perf_counter()
            made[0](ids, use_cache=False)
            asked.append(time.perf_counter() - start)

        found["first s"] = timed(forward)
        found["forward s"] = min(timed(forward) for _ in range(FORWARDS))
        found["asked s"] = min(asked)
        return found


def registered(model) -> None:
    """Wait until the driver knows all memory it will know: tokens are written for longer than that takes."""
    from compile_plan.compiler.loading.execution import Execution

    execution = Execution.of(model)
    while execution is not None and execution.registering is not None and not execution.registering.ended:
        time.sleep(0.01)


def decode(how: str, folder: Path) -> dict[str, float]:
    """Write some tokens with experts in host memory: by rows, by rows through a cache, by stacks."""
    import torch
    from compile_plan.compiler.loading import runtime_report
    from compile_plan.ir import Unit

    prepare("compile-plan")
    store = "cpu" if card() != "cpu" else "disk"
    rows = how != "stacks"
    paths = [f"model.layers.{i}.mlp.experts" for i in range(MIXED)]
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    units = [Unit("", card(), card()), *(Unit(path, store, card(), by_rows=rows) for path in paths)]
    made: list = []
    with torch.no_grad():
        cache = size // 4 if how == "cached rows" else 0
        seconds = timed(lambda: made.append(ours(folder, units, cache)))
        registered(made[0])
        ids = torch.arange(16, device=card())[None]
        long = torch.randint(0, 2048, (1, PROMPT), device=card())
        made[0](long, use_cache=False)
        prompt = min(timed(lambda: made[0](long, use_cache=False)) for _ in range(2))
        write = {"do_sample": False, "max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "pad_token_id": 0}
        made[0].generate(ids, **write)
        runtime_report(made[0])
        generated = timed(lambda: made[0].generate(ids, **write))
    report = runtime_report(made[0]).devices[0]
    chosen = report.row_hits + report.row_misses
    return {
        "load s": seconds,
        "prompt s": prompt,
        "tokens/s": TOKENS / generated,
        "GB/token": report.nbytes / TOKENS / 1e9,
        "hits": report.row_hits / chosen if chosen else 0.0,
    }


def table(title: str, rows: dict[str, dict[str, float]], rate: float, nbytes: int) -> None:
    print(f"\n{title}")
    columns, mine = list(next(iter(rows.values()))), rows.get("compile-plan", {})
    names = "".join(f"{column:>12}" for column in columns)
    print(f"{'':16}{names}{'of the link':>14}" + (f"{'ours / its':>12}" if mine else ""))
    for tool, row in rows.items():
        values = "".join(f"{row[column]:12.3f}" if column in row else f"{'-':>12}" for column in columns)
        share = nbytes / row["load s"] / rate
        ratio = f"{mine['load s'] / row['load s']:12.2f}" if mine else ""
        print(f"{tool:16}{values}{share:14.2f}{ratio}")


def usable(tool: str) -> bool:
    """Say whether a tool is here; those that only read to cards need one."""
    here = tool == "compile-plan" or importlib.util.find_spec(tool) is not None
    return here and (tool not in BARE[1:] or card() != "cpu")


def one(step, *arguments, needed: bool = True) -> dict[str, float]:
    """Return what a process of its own measured; nothing where a peer that is not needed fails."""
    start, context = time.perf_counter(), get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(step, *arguments).result()
        except Exception as error:
            if needed:
                raise
            print(f"{arguments[0]} failed: {error}")
            return {}
        finally:
            took = time.perf_counter() - start
            print(*map(str, arguments[:2]), f"{took:.1f} s", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, help="size of the checkpoint; 7 on a card, 0.02 without one")
    parser.add_argument("--tools", default=",".join(TOOLS), help="which to run")
    arguments = parser.parse_args()
    gb = arguments.gb or (7.0 if card() != "cpu" else 0.02)
    print(", ".join(f"{name} {version}".strip() for name, version in one(versions).items()))
    rates = one(link)
    print(f"link: pinned {rates['pinned'] / 1e9:.1f} GB/s, pageable {rates['pageable'] / 1e9:.1f} GB/s")
    tools = [tool for tool in arguments.tools.split(",") if usable(tool)]
    with tempfile.TemporaryDirectory() as name:
        dense, mixture = Path(name) / "dense", Path(name) / "mixture"
        one(partial(make, mixture=False), dense, gb)
        size = sum(file.stat().st_size for file in dense.glob("*.safetensors"))
        for place in PLACES:
            able = [tool for tool in tools if tool not in BARE or place == "card"]
            found = {tool: one(measure, tool, place, dense, needed=tool not in BARE) for tool in able}
            rows = {tool: row for tool, row in found.items() if row}
            table(f"{size / 1e9:.2f} GB, {place}", rows, rates["pinned"], size)
        one(partial(make, mixture=True), mixture, gb / 2)
        size = sum(file.stat().st_size for file in mixture.glob("*.safetensors"))
        rows = {how: one(decode, how, mixture) for how in ("stacks", "rows", "cached rows")}
        table(f"{size / 1e9:.2f} GB, experts away, {TOKENS} tokens", rows, rates["pinned"], size)


if __name__ == "__main__":
    main()
