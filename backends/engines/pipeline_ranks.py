"""vLLM and SGLang: the number of layers of each rank, and layers streamed in a periodic pattern.

Both take one integer a rank (``VLLM_PP_LAYER_PARTITION``, ``SGLANG_PP_LAYER_PARTITION``) that add up to
the number of layers, put the embedding on the first rank and the head on the last, and stream the last
``k`` of every ``N`` layers of a rank (``--offload-group-size N --offload-num-in-group k``), or weights
chosen by a word of their names up to so many bytes (``--cpu-offload-params``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ...ir import Diagnostic, Plan, human_size
from .checks import cannot, layers_or_error, misplaced, number_of, ranks_in_order, ranks_of, whole_layers
from .engine import Engine
from .stack import Layer, Stack, largest_stack

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
    many_hosts: str
    """Options where the ranks are on several hosts; ``{rank}`` differs."""


VLLM = Spelling(
    "vllm", "VLLM_PP_LAYER_PARTITION", "vllm serve MODEL", "--pipeline-parallel-size",
    "--gpu-memory-utilization", "--nnodes {hosts} --node-rank {rank} --master-addr HOST",
)  # fmt: skip
SGLANG = Spelling(
    "sglang", "SGLANG_PP_LAYER_PARTITION", "python -m sglang.launch_server --model-path MODEL", "--pp-size",
    "--mem-fraction-static", "--nnodes {hosts} --node-rank {rank} --dist-init-addr HOST:PORT",
)  # fmt: skip


def accepts(spelling: Spelling, plan: Plan) -> tuple[Diagnostic, ...]:
    """Say what of a plan the engine cannot be told."""
    stack = layers_or_error(spelling.name, plan)
    return (stack,) if isinstance(stack, Diagnostic) else tuple(_findings(spelling, stack))


def _findings(spelling: Spelling, stack: Stack) -> Iterator[Diagnostic]:
    ranks = ranks_of(stack)
    found = [*ranks_in_order(spelling.name, stack, ranks)]
    experts = _streamed_word(stack)
    if experts is None:
        found += whole_layers(spelling.name, stack)
    if not found and experts is None and _streamed(stack) and _period(stack, ranks) is None:
        some = [layer for layer in stack.layers if layer.streamed]
        total = human_size(sum(layer.nbytes for layer in some))
        found.append(
            cannot(
                spelling.name,
                f"to stream these {len(some)} layers",
                f"it streams the last k of every N layers of each rank; these are {total}, first "
                f"`{some[0].path}`",
                f"compile with `--for {spelling.name}`, or list more memory",
            )
        )
    yield from found
    if not found:
        yield from misplaced(spelling.name, stack.before, ranks[0], "on its first rank")
        yield from misplaced(spelling.name, stack.after, ranks[-1], "on its last rank")


def emit(spelling: Spelling, plan: Plan) -> str:
    """Write the environment and the command, one for each host."""
    stack = layers_or_error(spelling.name, plan)
    assert isinstance(stack, Stack)  # noqa: S101  accepted before
    ranks = ranks_of(stack)
    counts = [sum(layer.run == rank for layer in stack.layers) for rank in ranks]
    hosts = [*dict.fromkeys(rank.rpartition("/")[0] for rank in ranks)]
    options = [f"{spelling.size} {len(ranks)}", *_streaming(stack, ranks), *_memory(spelling, plan, ranks)]
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
        account.total / limit for account in plan.ledger
        if account.device in ranks and (limit := memory[account.device])
    ]  # fmt: skip
    if shares:
        yield f"{spelling.memory} {min(0.99, math.ceil(max(shares) * 100) / 100):.2f}"


def _streaming(stack: Stack, ranks: list[str]) -> Iterator[str]:
    word = _streamed_word(stack)
    if word is not None:
        nbytes = max(
            sum(part.nbytes for layer in stack.layers if layer.run == rank for part in layer.parts)
            for rank in ranks
        )
        yield f"--cpu-offload-gb {math.ceil(nbytes / GIB)} --cpu-offload-params {word}"
    elif _streamed(stack) and (period := _period(stack, ranks)) is not None:
        group, count = period
        yield f"--offload-group-size {group} --offload-num-in-group {count} --offload-prefetch-step {count}"


def _streamed(stack: Stack) -> bool:
    return any(layer.streamed for layer in stack.layers)


def _streamed_word(stack: Stack) -> str | None:
    """Return ``experts`` where every layer that has experts streams just those; None otherwise."""
    parts = [part for layer in stack.layers for part in layer.parts]
    with_experts = [layer for layer in stack.layers if any(".experts" in part.path for part in layer.parts)]
    only = all(".experts" in part.path and part.store != part.run == layer.run
               for layer in stack.layers for part in layer.parts)  # fmt: skip
    every = len(with_experts) == len(stack.layers)  # the option takes all names with the word
    return "experts" if parts and only and every and not _streamed(stack) else None


def _period(stack: Stack, ranks: list[str]) -> tuple[int, int] | None:
    """Return N and k if on every rank the last k of every N layers are streamed, and no others."""
    by_rank = [[layer for layer in stack.layers if layer.run == rank] for rank in ranks]
    longest = max(map(len, by_rank))
    for group in range(1, longest + 1):
        for count in range(1, group + 1):
            if all(_is_periodic(layers, group, count) for layers in by_rank):
                return group, count
    return None


def _is_periodic(layers: list[Layer], group: int, count: int) -> bool:
    return all(layer.streamed == (i % group >= group - count) for i, layer in enumerate(layers))


def lines(plan: Plan) -> str:
    """Return lines that keep layers whole."""
    found = None if plan.tree is None else largest_stack(plan.tree)
    return "" if found is None or plan.tree is None else f"atomic {plan.tree.paths[found]}.*\n"


def _engine(spelling: Spelling) -> Engine:
    return Engine(
        spelling.name,
        "layers a rank, layers streamed in a periodic pattern",
        accepts=lambda plan: accepts(spelling, plan),
        emit=lambda plan: emit(spelling, plan),
        lines=lines,
    )


ENGINES = (_engine(VLLM), _engine(SGLANG))
