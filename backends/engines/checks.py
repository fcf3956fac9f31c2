"""What engines share of finding out what a plan says that they cannot."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Final

from ...ir import Diagnostic, Plan, human_size, is_accelerator
from ...ir.rules.engines import ENGINE_CANNOT, ENGINE_LOSES
from ...ir.wording import in_words
from .stack import Apart, Stack, largest_stack, stack_of

_MORE: Final = "list more accelerators, or larger ones"


def cannot(engine: str, what: str, why: str, help_: str) -> Diagnostic:
    """Return the error for something the engine would do otherwise."""
    return Diagnostic(ENGINE_CANNOT, f"{engine} cannot be told {what}", notes=(why,), help=help_)


def loses(engine: str, what: str, nbytes: int, help_: str) -> Diagnostic:
    """Return the warning for something of a plan that the engine does otherwise without harm."""
    return Diagnostic(
        ENGINE_LOSES, f"{engine} {what}: {human_size(nbytes)}", notes=(f"{nbytes} bytes",), help=help_
    )


def layers_or_error(engine: str, plan: Plan) -> Stack | Diagnostic:
    """Return the layers of a plan, or what is missing."""
    if plan.tree is None:
        return cannot(engine, "a plan without a module table", "layers are counted in it",
                      "give the `.msgpack`, or the model or checkpoint itself")  # fmt: skip
    if not plan.units or any(unit.store is None for unit in plan.units):
        return cannot(engine, "a plan without places", "some units have none", "compile it first")
    found = stack_of(plan)
    if found is None:
        return cannot(engine, "a model without a stack of numbered layers", "engines split by layers",
                      "use `-o plan.json` for transformers and accelerate")  # fmt: skip
    return found


def whole_layers(engine: str, stack: Stack) -> Iterator[Diagnostic]:
    """Find the first layer whose parts are apart, for an engine that knows whole layers only."""
    apart = [part for layer in stack.layers for part in layer.parts]
    if apart:
        total = human_size(sum(part.nbytes for part in apart))
        yield cannot(
            engine,
            f"that `{apart[0].path}` is apart from its layer",
            f"{len(apart)} parts, {total}, are not where their layers are",
            f"write `atomic {_pattern(stack)}`, or compile with `--for {engine}`",
        )


def lines(plan: Plan) -> str:
    """Return lines that keep layers whole, for an engine that knows whole layers only."""
    found = None if plan.tree is None else largest_stack(plan.tree)
    if found is None or plan.tree is None:
        return ""
    return "".join(f"{line}\n" for line in whole_lines(plan.tree.paths[found]))


def whole_lines(stack: str) -> list[str]:
    """Return the lines that keep the layers of a stack whole, and what is in them with them."""
    inner = f"{stack}." if stack else ""
    return [f"atomic {inner}*", f"never {inner}** on visiting"]


def ranks_in_order(
    engine: str, stack: Stack, ranks: list[str], *, streams: bool = False
) -> Iterator[Diagnostic]:
    """Find layers that are not on accelerators, or not in one run a device and a host.

    ``streams`` says whether the engine can be told to stream what accelerators have no room for.
    """
    hosts = [layer for layer in stack.layers if not is_accelerator(layer.run)]
    if hosts:
        total = human_size(sum(layer.nbytes for layer in hosts))
        yield cannot(
            engine,
            f"to compute {len(hosts)} layers on `{hosts[0].run}`",
            f"`{hosts[0].path}` and others, {total}, run there",
            "compile with `--offload stream`, or list more accelerators" if streams else _MORE,
        )
        return
    order = [device for device, _ in stack.segments()]
    hosts_met = [host for host, _ in groupby(device.rpartition("/")[0] for device in order)]
    if len(order) > len(ranks) or len(hosts_met) > len(set(hosts_met)):
        yield two_runs(engine, "one rank", order)


def two_runs(engine: str, where: str, order: list[str]) -> Diagnostic:
    """Refuse layers that come back to where layers before them ran."""
    return cannot(
        engine,
        f"two runs of layers on {where}",
        f"the layers run on {in_words(order)}",
        f"compile with `--for {engine}`: each device then has one run of layers",
    )


def misplaced(engine: str, parts: tuple[Apart, ...], device: str, where: str) -> Iterator[Diagnostic]:
    """Warn about parts around the stack that the engine puts elsewhere."""
    apart = [part for part in parts if part.store != device]
    if apart:
        nbytes = sum(part.nbytes for part in apart)
        yield loses(
            engine, f"puts `{apart[0].path}` {where}", nbytes, f"plan `place {apart[0].path} on {device}`"
        )


def ranks_of(stack: Stack) -> list[str]:
    """Return the devices that run layers, in the order of the layers: ranks are numbered so."""
    return [*dict.fromkeys(layer.run for layer in stack.layers)]


def number_of(device: str) -> str:
    """Return the index of a device for people: ``cuda:1`` is 1."""
    return device.rpartition(":")[2] if ":" in device else "0"


def _pattern(stack: Stack) -> str:
    return f"{stack.path}.*" if stack.path else "*"
