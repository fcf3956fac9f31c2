"""What a model is used for: options, else `workload` lines; what of it a trace follows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any, Final

from ...ir import Demand, Diagnostics, ModuleTree, Plan, Workload, is_accelerator
from ...ir.dtypes import stored_eighths
from ...ir.purposes import ALLOCATOR, MOMENTARY
from ...ir.rules.tracing import TRACED_WITHOUT_CACHE
from ..machine.allocator import LAYOUT, WORKSPACES, beyond_weights
from .options import Options

if TYPE_CHECKING:
    from ..sources.gguf_file import GgufFile
    from ..tracing import Use

SAYING: Final = ("rows", "prompt", "generate", "workload", "optimizer")
"""The options that say what a model is used for."""
_GENERATE: Final = "generate"
_ACCOUNTS: Final = ("kv_cache", "cache_tokens", "batch", "seq", "reserves", "margin")
"""The options by which people say themselves what is kept free."""
LEAST: Final = 2**30
"""Bytes of weights from which on a workload nobody spoke of is given its room."""


def with_workload(options: Options, overrides: Iterable[Plan] = ()) -> Options:
    """Return the options with the workload they and the lines of overrides ask for, if any does.

    An option wins over a line, a later line over an earlier one; what a compile added is nobody's wish.
    """
    lines = [plan.workload for plan in overrides if plan.workload is not None and not plan.workload.added]
    if not lines and not any(map(options.gives, SAYING)):
        return options
    return replace(options, used=_workload(options, lines[-1] if lines else None))


def _workload(options: Options, line: Workload | None) -> Workload:
    kind = options.workload or (_GENERATE if line is None else line.kind)
    base = line if line is not None and line.kind == kind else Workload(kind)
    rows = options.rows or options.batch or (1 if line is None else line.rows)
    prompt = options.prompt if options.gives("prompt") else options.seq
    if kind == _GENERATE:
        tokens = options.generate if options.gives("generate") else base.tokens
        return Workload(kind, rows, base.prompt if prompt is None else prompt, tokens)
    told = base.tokens if line is base else base.prompt
    return Workload(kind, rows, 0, told if prompt is None else prompt)


def use_of(options: Options, *, made: bool) -> Use:
    """Return what of the workload a trace follows; ``made`` says that its inputs are made in that size."""
    from ..tracing import Use

    work = options.used
    if work is None:
        return Use(total=options.cache_tokens, last=False)  # the forward as it is called
    total, written = options.cache_tokens, None
    if total is None and work.kind == _GENERATE:
        total, written = work.prompt + work.tokens if made else None, work.tokens
    use = Use(work.kind, total, written)
    return use if options.optimizer is None else replace(use, optimizer=options.optimizer)


def with_usual(
    plan: Plan, config: Mapping[str, Any], options: Options, diagnostics: Diagnostics | None = None
) -> Plan:
    """Return an untraced plan with room for the usual workload, as far as a configuration tells of it.

    A plan of weights alone dies with the first token. Nothing is assumed where something is said of the
    workload, where a strategy imitates others, and of models so small that any card has the room.
    ``diagnostics`` take that a model which writes keeps a cache nothing tells the size of.
    """
    tree = plan.tree
    if tree is None or not _unspoken(tree, options) or not config or "model_type" not in config:
        return plan
    from ..sources.config_cache import cache_of_config, keeps_unknown, writes_text

    config = config if config.get("architectures") else {**config, "architectures": [tree.classes[0]]}
    usual = Workload(added=True)
    total = usual.prompt + usual.tokens
    cache = cache_of_config(config, tree, total, usual.rows, read=usual.prompt, written=usual.tokens)
    if not cache and not writes_text(config):
        return plan
    if not cache and diagnostics is not None and keeps_unknown(config):
        from ..sources.checkpoint import unknown_cache

        diagnostics.add(unknown_cache(plan.model.name))
    room = _activations(config, tree, usual)
    _say_doubts(plan, config, diagnostics)
    return replace(plan, demands=(*plan.demands, *cache, *room), workload=usual)


def _say_doubts(plan: Plan, config: Mapping[str, Any], diagnostics: Diagnostics | None) -> None:
    """Say where a plan holds an estimate of activations that may be off."""
    from ..sources.config_doubts import doubtful_activations

    if diagnostics is not None and plan.tree is not None:
        found = doubtful_activations(plan.model.name, config, plan.tree)
        diagnostics.extend(() if found is None else (found,))


def with_told_cache(
    plan: Plan, config: Mapping[str, Any], options: Options, found: Diagnostics, diagnostics: Diagnostics
) -> Plan:
    """Return a plan whose forward ran without its cache with the cache that a configuration tells.

    ``found`` is what the trace said; it goes to ``diagnostics``, with what became of the cache.
    """
    tree, total = plan.tree, cached_tokens(options)
    lacking = any(each.rule is TRACED_WITHOUT_CACHE for each in found)
    if not lacking or tree is None or total is None or not config:
        diagnostics.extend(found)
        return plan
    from ..sources.config_cache import cache_of_config

    config = config if config.get("architectures") else {**config, "architectures": [tree.classes[0]]}
    told = cache_of_config(
        config, tree, total, rows_of(options), read=read_tokens(options), written=written_tokens(options)
    )
    note = ("the ledger holds the cache that its configuration tells",)
    diagnostics.extend(
        replace(each, notes=note, help=None) if told and each.rule is TRACED_WITHOUT_CACHE else each
        for each in found
    )
    return replace(plan, demands=(*plan.demands, *told))


def with_asked_room(
    plan: Plan, config: Mapping[str, Any], options: Options, diagnostics: Diagnostics
) -> Plan:
    """Return a plan made from headers with room for the activations of the workload that was asked for."""
    tree, work = plan.tree, options.used
    if tree is None or work is None or options.strategy == "accelerate":
        return plan
    room = _activations(config, tree, work)
    _say_doubts(plan, config, diagnostics)
    return replace(plan, demands=(*plan.demands, *room, _of_the_allocator(tree, (*plan.demands, *room))))


def _of_the_allocator(tree: ModuleTree, there: Iterable[Demand]) -> Demand:
    """Return what an accelerator's allocator holds beyond weights and what is told of a forward."""
    lasting = sum(each.nbytes for each in there if each.purpose not in MOMENTARY)
    moment = max((each.nbytes for each in there if each.purpose in MOMENTARY), default=0)
    held = WORKSPACES + LAYOUT + beyond_weights(_stored(tree), lasting + moment)
    return Demand(held, "", ALLOCATOR, added=True)


def _activations(config: Mapping[str, Any], tree: ModuleTree, work: Workload) -> tuple[Demand, ...]:
    """Return what a forward over the tokens of a workload needs, by the shapes of the weights."""
    from ..sources.config_activations import activation_demands

    if work.kind == _GENERATE:
        read = work.rows * work.prompt
        return activation_demands(config, tree, read, work.rows, sequences=work.rows)
    tokens = work.rows * work.tokens
    widened = 2 if work.kind == "loss" else 0  # the scores, and their logarithms
    return activation_demands(config, tree, tokens, tokens, copies=widened, sequences=work.rows)


def _unspoken(tree: ModuleTree, options: Options) -> bool:
    """Say whether nobody spoke of the workload of a model that is large enough for it to matter."""
    said = options.used is not None or any(map(options.gives, _ACCOUNTS))
    return not said and options.strategy == "auto" and nbytes_of(tree) >= LEAST


def roomy(file: GgufFile, options: Options, diagnostics: Diagnostics) -> Plan:
    """Return the plan of a GGUF file with the room llama.cpp takes for what was asked, else for the usual."""
    tokens, tree = cached_tokens(options), file.plan.tree
    cards = [device for device in options.devices or () if is_accelerator(device.name)]
    several = options.devices is None or len(cards) > 1
    if tokens is not None:
        return file.with_room(diagnostics, tokens, rows_of(options), several=several)
    if tree is None or not _unspoken(tree, options):
        return file.plan
    from ..sources.gguf_room import USUAL

    found = file.with_room(None, USUAL.prompt + USUAL.tokens, several=several)
    return replace(found, workload=USUAL) if found.demands else found


def without_usual(plan: Plan, overrides: Iterable[Plan], options: Options) -> Plan:
    """Return the plan as it was where a person accounts for what is not weights."""
    lines = [each for plan in overrides for each in (*plan.demands, *plan.reserves)]
    if plan.workload is None or not plan.workload.added or not (lines or options.reserves):
        return plan
    return replace(plan, workload=None, demands=tuple(each for each in plan.demands if not each.added))


def nbytes_of(tree: ModuleTree) -> int:
    """Return the bytes of the weights, as they are stored."""
    return sum(_stored(tree))


def _stored(tree: ModuleTree) -> Sequence[int]:
    """Return the bytes of each tensor, as it is stored."""
    if tree.nbytes is not None:
        return tree.nbytes
    rows = zip(tree.shapes, tree.dtypes, tree.storages, strict=True)
    return [
        prod(shape) * (stored_eighths(dtype) or 0) // 8
        for index, (shape, dtype, storage) in enumerate(rows)
        if index == storage
    ]


def rows_of(options: Options) -> int:
    """Return how many sequences there are at once."""
    return (options.batch or 1) if options.used is None else options.used.rows


def read_tokens(options: Options) -> int | None:
    """Return how many tokens the forward reads; None where nobody says."""
    if options.used is None or options.seq is not None:
        return options.seq
    return (options.used.prompt if options.used.kind == _GENERATE else options.used.tokens) or None


def written_tokens(options: Options) -> int | None:
    """Return how many tokens are written where that, and nothing else, tells how long a decoder's text is."""
    if options.cache_tokens is not None or options.used is None or options.used.kind != _GENERATE:
        return None
    return options.used.tokens


def cached_tokens(options: Options) -> int | None:
    """Return how many tokens a cache holds at its longest; None where nobody says."""
    if options.cache_tokens is not None or options.used is None or options.used.kind != _GENERATE:
        return options.cache_tokens
    return options.used.prompt + options.used.tokens
