"""vLLM and SGLang: the number of layers of each rank, and layers streamed in a periodic pattern.

Both take one integer a rank (``VLLM_PP_LAYER_PARTITION``, ``SGLANG_PP_LAYER_PARTITION``) that add up to
the number of layers, put the embedding on the first rank and the head on the last, and stream the last
``k`` of every ``N`` layers of a rank (``--offload-group-size N --offload-num-in-group k``). vLLM 0.33
streams those layers whole, or the weights with a word of their names (``--offload-params``), or weights
with a word in all layers up to so many bytes (``--cpu-offload-params``). SGLang 0.5.23 streams only what
its DeepSeek models name: the experts of those layers, the feed-forward block where a layer has none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from ...ir import Account, Diagnostic, Plan, Severity, human_size
from .checks import (
    cannot,
    layers_or_error,
    lines,
    loses,
    misplaced,
    number_of,
    ranks_in_order,
    ranks_of,
    whole_layers,
)
from .engine import Engine
from .layouts import streamed_in_periods
from .stack import EXPERTS, Apart, Layer, Stack

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Spelling:
    """What differs between the two engines."""

    name: str
    partition: str
    """The environment variable of the layer counts."""
    command: str
    size: str
    """The option for the number of ranks."""
    memory: str
    """The option for the share of a card's memory that may be used."""
    share: str
    """What the share is of: ``all`` that the card holds, or ``static``, weights and cache alone."""
    many_hosts: str
    """Options where the ranks are on several hosts; ``{rank}`` differs."""
    words: bool
    """Whether weights can be chosen by a word of their names."""


@dataclass(frozen=True, slots=True)
class Period:
    """The last ``count`` of every ``group`` layers of a rank stream: whole, or one part of each."""

    group: int
    count: int
    part: str = ""
    """The name of the part, ``experts``; ``""`` for whole layers."""


def accepts(spelling: Spelling, plan: Plan) -> tuple[Diagnostic, ...]:
    """Say what of a plan the engine cannot be told."""
    stack = layers_or_error(spelling.name, plan)
    return (stack,) if isinstance(stack, Diagnostic) else tuple(_findings(spelling, plan, stack))


def _findings(spelling: Spelling, plan: Plan, stack: Stack) -> Iterator[Diagnostic]:
    ranks = ranks_of(stack)
    found = [*ranks_in_order(spelling.name, stack, ranks, streams=True)]
    if not found and _streamed(stack):
        found += _streams(spelling, plan, stack, ranks)
    else:
        found += whole_layers(spelling.name, stack)
    yield from found
    if not any(each.severity is Severity.ERROR for each in found):
        yield from misplaced(spelling.name, stack.before, ranks[0], "on its first rank")
        yield from misplaced(spelling.name, stack.after, ranks[-1], "on its last rank")


def _streams(spelling: Spelling, plan: Plan, stack: Stack, ranks: list[str]) -> Iterator[Diagnostic]:
    """Find what of the streamed layers or parts the engine would do otherwise."""
    streaming = _streaming(spelling, plan, stack, ranks)
    nbytes = sum(
        layer.nbytes if layer.streamed else sum(part.nbytes for part in layer.parts) for layer in stack.layers
    )
    if streaming is None:
        places: Iterator[Layer | Apart] = chain.from_iterable((*layer.parts, layer) for layer in stack.layers)
        first = next(each for each in places if each.store != each.run)
        yield cannot(
            spelling.name,
            f"to stream `{first.path}` and what else is streamed",
            f"it streams the last k of every N layers of each rank, or one part of them; these are "
            f"{human_size(nbytes)}",
            f"compile with `--for {spelling.name}`, or list more memory",
        )
    elif not spelling.words and not _deepseek(plan, stack, streaming):
        help_ = "list more memory, or export to vllm"
        if streaming.part:
            why = f"it has no option that chooses `{streaming.part}`, {human_size(nbytes)}"
            yield cannot(spelling.name, f"to stream `{streaming.part}` alone", why, help_)
        else:
            yield loses(
                spelling.name, "streams feed-forward blocks only, of DeepSeek models only", nbytes, help_
            )


def _deepseek(plan: Plan, stack: Stack, streaming: Period) -> bool:
    """Say whether these are the parts SGLang streams: its DeepSeek models name them in their code."""
    assert plan.tree is not None  # noqa: S101  asked before
    layer = plan.tree.module_index[stack.layers[0].path]
    return plan.tree.classes[layer].startswith("Deepseek") and streaming.part in {"experts", "mlp"}


def emit(spelling: Spelling, plan: Plan) -> str:
    """Write the environment and the command, one for each host."""
    stack = layers_or_error(spelling.name, plan)
    assert isinstance(stack, Stack)  # noqa: S101  accepted before
    ranks = ranks_of(stack)
    counts = [sum(layer.run == rank for layer in stack.layers) for rank in ranks]
    hosts = [*dict.fromkeys(rank.rpartition("/")[0] for rank in ranks)]
    options = [
        f"{spelling.size} {len(ranks)}",
        *_told(spelling, plan, stack, ranks),
        *_memory(spelling, plan, ranks),
    ]
    lines = []
    for number, host in enumerate(hosts):
        cards = [number_of(rank) for rank in ranks if rank.rpartition("/")[0] == host]
        visible, split = ",".join(cards), ",".join(map(str, counts))
        environment = f"CUDA_VISIBLE_DEVICES={visible} {spelling.partition}={split}"
        more = [spelling.many_hosts.format(hosts=len(hosts), rank=number)] if len(hosts) > 1 else []
        title = [f"# on {host}"] if len(hosts) > 1 else []
        lines += [*title, f"{environment} {spelling.command} {' '.join([*options, *more])}"]
    return "\n".join(lines) + "\n"


def _memory(spelling: Spelling, plan: Plan, ranks: list[str]) -> Iterator[str]:
    """Yield the share of each card the plan uses, the largest of them: the engine has one for all."""
    memory = {device.name: device.memory for device in plan.devices}
    shares = [
        (account.total if spelling.share == "all" else _static(account)) / limit
        for account in plan.ledger
        if account.device in ranks and (limit := memory[account.device])
    ]
    if shares:
        yield f"{spelling.memory} {min(0.99, math.ceil(max(shares) * 100) / 100):.2f}"


def _static(account: Account) -> int:
    """Return the bytes that stay: SGLang's fraction counts neither activations nor the runtime."""
    return account.weights + account.buffers + account.kv_cache + account.streaming


def _told(spelling: Spelling, plan: Plan, stack: Stack, ranks: list[str]) -> Iterator[str]:
    streaming = _streaming(spelling, plan, stack, ranks) if _streamed(stack) else None
    if streaming is None:
        return
    if spelling.words and streaming.part and streaming.group == streaming.count:
        nbytes = max(
            sum(part.nbytes for layer in stack.layers if layer.run == rank for part in layer.parts)
            for rank in ranks
        )
        yield f"--cpu-offload-gb {math.ceil(nbytes / GIB)} --cpu-offload-params {streaming.part}"
        return
    yield f"--offload-group-size {streaming.group} --offload-num-in-group {streaming.count}"
    yield f"--offload-prefetch-step {streaming.count}"
    if spelling.words and streaming.part:
        yield f"--offload-params {streaming.part}"


def _streamed(stack: Stack) -> bool:
    return any(
        layer.streamed or any(part.store != part.run for part in layer.parts) for layer in stack.layers
    )


def _streaming(spelling: Spelling, plan: Plan, stack: Stack, ranks: list[str]) -> Period | None:
    """Return the period of what is streamed; None when it is no period, or not one part by its name."""
    parts = [part for layer in stack.layers for part in layer.parts]
    names = {part.path.rpartition(".")[2] for part in parts}
    whole = [layer.streamed for layer in stack.layers]
    if any(part.store == part.run for part in parts) or len(names) > 1 or (names and any(whole)):
        return None
    if any(part.run != layer.run for layer in stack.layers for part in layer.parts):
        return None
    name = next(iter(names), "")
    able = [not name or _has(plan, layer, name) for layer in stack.layers]
    streamed = [bool(layer.parts) or layer.streamed for layer in stack.layers]
    period = _period([
        [(one, is_able) for layer, one, is_able in zip(stack.layers, streamed, able, strict=True)
         if layer.run == rank]
        for rank in ranks
    ], idle=spelling.words)  # fmt: skip
    return None if period is None else Period(*period, name)


def _has(plan: Plan, layer: Layer, name: str) -> bool:
    """Say whether a layer has a part of this name: the option takes each that has."""
    tree = plan.tree
    assert tree is not None  # noqa: S101  asked before
    module = tree.module_index[layer.path]
    return any(tree.names[inner] == name for inner in range(module + 1, tree.ends[module]))


def _period(ranks: list[list[tuple[bool, bool]]], *, idle: bool) -> tuple[int, int] | None:
    """Return N and k if on every rank the last k of every N layers stream, as far as they are able to.

    Each rank gives, layer by layer, whether it is streamed and whether it could be. A rank needs k layers
    that stream, or the engine has nothing to fetch ahead; none at all where ``idle`` ranks are taken.
    """
    for group in range(1, max(map(len, ranks)) + 1):
        for count in range(1, group + 1):
            if all(_is_periodic(layers, group, count, idle) for layers in ranks):
                return group, count
    return None


def _is_periodic(layers: list[tuple[bool, bool]], group: int, count: int, idle: bool) -> bool:  # noqa: FBT001
    number = sum(streamed for streamed, _ in layers)
    return (number >= count or (idle and not number)) and all(
        streamed == (able and i % group >= group - count) for i, (streamed, able) in enumerate(layers)
    )


def _layouts(spelling: Spelling, plan: Plan) -> list[str]:
    stack = layers_or_error(spelling.name, plan)
    if isinstance(stack, Diagnostic):
        return []
    parts = spelling.words or _deepseek(plan, stack, Period(1, 1, EXPERTS))
    return streamed_in_periods(plan, whole=spelling.words, parts=parts)


def engine(spelling: Spelling) -> Engine:
    """Return the engine that is told so."""
    return Engine(
        spelling.name,
        "layers a rank, layers streamed in a periodic pattern",
        accepts=lambda plan: accepts(spelling, plan),
        emit=lambda plan: emit(spelling, plan),
        lines=lines,
        layouts=lambda plan: _layouts(spelling, plan),
    )
