"""llama.cpp: layers by ``-ngl`` and ``-ts``, parts of layers by ``-ot``, one line or a preset.

The last layers go to accelerators, the first stay with the host; the output layer counts as one more
and is the first thing to go. ``-ts`` gives each device its number of layers, so they add up to ``-ngl``.
The input embedding is always in the host's memory. ``--fit off`` keeps it from moving things again.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from ...ir import Diagnostic, Plan, device_type, human_size, is_accelerator
from ...ir.purposes import KV_CACHE
from .checks import cannot, layers_or_error, loses, two_runs, whole_lines
from .engine import Engine
from .gguf_names import gguf_names
from .layouts import host_first
from .llama_cpp_line import asks, read
from .stack import Apart, Layer, Stack, largest_stack

NAME = "llama.cpp"
_BACKENDS = {"cuda": "CUDA", "mps": "MTL", "xpu": "SYCL", "vulkan": "Vulkan", "musa": "MUSA", "npu": "CANN"}
_KEYS = re.compile(r"\.(attn_(k|kv|qkv)\w*|(\w*attn|\w*attention|k_proj|c_attn|qkv_proj))(\.|$)")
_EXPERTS = re.compile(r"ffn_(up|down|gate|gate_up)_(ch)?exps")


def accepts(plan: Plan) -> tuple[Diagnostic, ...]:
    """Say what of a plan llama.cpp cannot be told, and what it does its own way."""
    stack = layers_or_error(NAME, plan)
    if isinstance(stack, Diagnostic):
        return (stack,)
    errors = (
        *_order(stack), *_streamed(stack), *_cache_apart(plan, stack), *_unknown_names(plan, stack)
    )  # fmt: skip
    return errors or tuple(_losses(stack))


def _order(stack: Stack) -> Iterator[Diagnostic]:
    segments = stack.segments()
    later = [device for device, _ in segments[1:] if not is_accelerator(device)]
    names = [device for device, _ in segments]
    if later:
        yield cannot(
            NAME,
            f"to compute layers on `{later[0]}` after layers on an accelerator",
            "the host takes the first layers, accelerators the last",
            f"compile with `--for {NAME}`",
        )
    elif len(set(names)) < len(names):
        again = next(name for name in names if names.count(name) > 1)
        yield two_runs(NAME, f"`{again}`", names)


def _streamed(stack: Stack) -> Iterator[Diagnostic]:
    layers: list[Layer | Apart] = [layer for layer in stack.layers if layer.streamed]
    some = layers + [part for part in _parts(stack) if part.store != part.run]
    if some:
        total = human_size(sum(each.nbytes for each in some))
        yield cannot(
            NAME,
            f"to stream `{some[0].path}`",
            f"it computes where the weights are; {total} of weights are streamed",
            f"compile with `--for {NAME}`, or with `--offload compute`",
        )


def _cache_apart(plan: Plan, stack: Stack) -> Iterator[Diagnostic]:
    """Find attention that is apart from its layer: the cache is kept where the layer is."""
    apart = [part for layer in stack.layers for part in layer.parts if _KEYS.search(part.path)]
    if apart and any(demand.purpose == KV_CACHE for demand in plan.demands):
        total = human_size(sum(part.nbytes for part in apart))
        yield cannot(
            NAME,
            f"that `{apart[0].path}` is apart from its layer",
            f"it keeps the cache of a layer where the layer is; {len(apart)} such parts, {total}, are not",
            f"compile with `--for {NAME}`",
        )


def _unknown_names(plan: Plan, stack: Stack) -> Iterator[Diagnostic]:
    parts = _parts(stack)
    if parts and gguf_names(plan, stack, parts) is None:
        yield cannot(
            NAME,
            f"where `{parts[0].path}` is",
            "its patterns name the tensors of a GGUF file, and these names cannot be derived",
            "plan from the GGUF file, or install `gguf` (`pip install compile-plan[gguf]`)",
        )


def _losses(stack: Stack) -> Iterator[Diagnostic]:
    away = [part for part in stack.before if is_accelerator(part.store)]
    if away:
        nbytes = sum(part.nbytes for part in away)
        yield loses(NAME, f"keeps `{away[0].path}` on the host", nbytes, f"`place {away[0].path} on cpu`")


def _parts(stack: Stack) -> list[Apart]:
    """Return what ``-ot`` must name: parts of layers apart, and a head away from the last layer."""
    apart = [part for layer in stack.layers for part in layer.parts]
    last = stack.layers[-1].run
    return apart + [part for part in stack.after if is_accelerator(last) and part.store != last]


@dataclass(frozen=True, slots=True)
class Arguments:
    """What llama.cpp is told, before it is spelled."""

    layers: int
    split: tuple[int, ...]
    devices: tuple[str, ...]
    servers: int
    """Devices on other hosts, reached by RPC."""
    experts: int
    """First layers whose experts stay with the host; 0: none, or not all of them."""
    overrides: tuple[str, ...]
    context: int | None
    """Cells of the cache, which it takes at once; None where the plan counts none."""
    sequences: int
    """Slots that share them."""


def arguments_of(plan: Plan) -> Arguments:
    """Return the arguments of a plan that is accepted."""
    stack = layers_or_error(NAME, plan)
    assert isinstance(stack, Stack)  # noqa: S101  accepted before
    segments = [(device, count) for device, count in stack.segments() if is_accelerator(device)]
    split = [count for _, count in segments]
    head = next((part.store for part in reversed(stack.after) if is_accelerator(part.store)), None)
    if split:
        split[-1] += 1
    elif head is not None:
        segments, split = [(head, 1)], [1]
    parts = _parts(stack)
    held = [part.store for part in parts if is_accelerator(part.store)]
    aside = [device for device in dict.fromkeys(held) if device not in {name for name, _ in segments}]
    segments, split = [*segments, *((device, 0) for device in aside)], [*split, *(0 for _ in aside)]
    home = plan.devices[0].name.rpartition("/")[0]
    names, servers = [], 0
    for device, _ in segments:
        if device.rpartition("/")[0] == home:
            names.append(_backend_name(device))
        else:
            names.append(f"RPC{servers}")
            servers += 1
    spelled = dict(zip((device for device, _ in segments), map(_buffer, names), strict=True))
    experts, overrides = _overrides(gguf_names(plan, stack, parts) or [], parts, spelled)
    context, sequences = _context(plan)
    return Arguments(sum(split), tuple(split), tuple(names), servers, experts, overrides, context, sequences)


def _context(plan: Plan) -> tuple[int | None, int]:
    """Return the cells and the slots that the plan has room for: left alone, it takes all the model can."""
    work, options = plan.workload, dict(plan.options)
    if work is not None and (not work.added or any(d.purpose == KV_CACHE for d in plan.demands)):
        return work.rows * (work.prompt + work.tokens), work.rows
    cached, rows = options.get("cache-tokens", ""), options.get("batch", "1")
    return (int(cached) * int(rows), int(rows)) if cached.isdecimal() and rows.isdecimal() else (None, 1)


def _backend_name(device: str) -> str:
    kind, index = device_type(device), device.rpartition(":")[2] if ":" in device else "0"
    return f"{_BACKENDS.get(kind, kind.upper())}{index}"


def _buffer(name: str) -> str:
    """Return what the memory of a device is called: that of a server after its address."""
    return f"RPC0[{_address(name.removeprefix('RPC'))}]" if name.startswith("RPC") else name


def _address(server: object) -> str:
    return f"HOST{server}:50052"


def _overrides(
    names: list[list[str]], parts: list[Apart], spelled: dict[str, str]
) -> tuple[int, tuple[str, ...]]:
    """Return for how many first layers all experts stay with the host, and patterns for the rest."""
    places: dict[tuple[str, str], list[int]] = {}
    others: list[str] = []
    for tensors, part in zip(names, parts, strict=True):
        target = spelled[part.store] if is_accelerator(part.store) else "CPU"
        for tensor in tensors:
            match = re.fullmatch(r"blk\.(\d+)\.(.+)", tensor)
            if match is None:
                others.append(f"^{re.escape(tensor)}$={target}")
            else:
                places.setdefault((target, match[2]), []).append(int(match[1]))
    by_layers: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for (target, name), numbers in places.items():
        by_layers.setdefault((target, tuple(sorted(numbers))), []).append(name)
    experts = 0
    for (target, layers), group in sorted(by_layers.items()):
        if target == "CPU" and layers == tuple(range(len(layers))) and _all_experts(group):
            experts = len(layers)
        else:
            named = "|".join(map(str, layers))
            stems = "|".join(re.escape(name) for name in sorted(group))
            others.append(rf"^blk\.({named})\.({stems})$={target}")
    return experts, tuple(others)


def _all_experts(names: list[str]) -> bool:
    """Say whether these are all the stacked weights of experts: up, gate and down, or their fusion."""
    found = {match[1] for name in names if (match := _EXPERTS.match(name))}
    only = all(_EXPERTS.match(name) for name in names)
    return only and found in ({"up", "gate", "down"}, {"gate_up", "down"}, {"up", "down"})


def options(plan: Plan) -> list[tuple[str, str, str]]:
    """Return each option as its argument, its key in a preset and its value."""
    told = arguments_of(plan)
    rows = [("-ngl", "n-gpu-layers", str(told.layers))]
    if told.devices:
        rows.append(("--device", "device", ",".join(told.devices)))
    if len(told.split) > 1:
        rows.append(("-ts", "tensor-split", ",".join(map(str, told.split))))
    if told.servers:
        hosts = ",".join(map(_address, range(told.servers)))
        rows.append(("--rpc", "rpc", hosts))
    if told.experts:
        rows.append(("--n-cpu-moe", "n-cpu-moe", str(told.experts)))
    if told.overrides:
        rows.append(("-ot", "override-tensor", ",".join(told.overrides)))
    if told.context:
        rows.append(("-c", "ctx-size", str(told.context)))
        rows.append(("-np", "parallel", str(told.sequences)))
    return [*rows, ("--fit", "fit", "off")]


def emit(plan: Plan) -> str:
    """Write the command line."""
    words = [word for flag, _, value in options(plan) for word in (flag, shlex.quote(value))]
    return f"llama-server -m MODEL.gguf {' '.join(words)}\n"


def preset(plan: Plan) -> str:
    """Write the entry of ``--models-preset``: an INI section with the same options."""
    name = plan.model.name
    rows = [f"{key} = {value}" for _, key, value in options(plan)]
    return "\n".join([f"[{name}]", f"model = /path/to/{name}.gguf", *rows]) + "\n"


def lines(plan: Plan) -> str:
    """Return lines that put the embedding where llama.cpp has it and keep layers without experts whole."""
    tree = plan.tree
    found = None if tree is None else largest_stack(tree)
    if tree is None or found is None:
        return ""
    stack = tree.paths[found]
    first = tree.tensors(found).start
    tensors = enumerate(tree.tensor_paths)
    embedding = [tree.paths[tree.owners[tensor]] for tensor, path in tensors if _embeds(path)]
    placed = [f"place {path} on cpu" for path in dict.fromkeys(embedding) if path]
    placed.append("never ** on streaming")
    mixture = any("exps" in path or ".experts" in path for path in tree.tensor_paths[first:])
    whole = [] if mixture else whole_lines(stack)
    return "".join(f"{line}\n" for line in (*placed, *whole))


def _embeds(path: str) -> bool:
    return any(name in {"token_embd", "embed_tokens", "wte", "word_embeddings"} for name in path.split("."))


ENGINE = Engine(
    NAME,
    "layers a device, parts of layers by name",
    accepts=accepts,
    emit=emit,
    read=read,
    asks=asks,
    file=preset,
    lines=lines,
    layouts=host_first,
)
