"""The pipelines: each strategy is a list of passes, nothing more."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from ...ir import Plan, Unit
from ..passes.account_memory import AccountMemory
from ..passes.annotate_sizes import AnnotateSizes
from ..passes.apply_overrides import ApplyOverrides
from ..passes.assign_accelerate import AssignAccelerate
from ..passes.assign_balanced import AssignBalanced
from ..passes.assign_greedy import AssignGreedy
from ..passes.emit_warnings import EmitWarnings
from ..passes.expand_splits import ExpandSplits
from ..passes.merge_ties import MergeTies
from ..passes.pipeline import Pass
from ..passes.reserve_runtime import ReserveRuntime
from ..passes.rewrite_fallbacks import RewriteFallbacks
from ..passes.search_placements import SearchPlacements
from ..passes.share_cache import ShareCache
from ..search.flows import Flow
from .options import Options


def passes_for(
    options: Options,
    overrides: tuple[Plan, ...] = (),
    own: tuple[Unit, ...] = (),
    flows: tuple[Flow, ...] = (),
    *,
    sized: bool = False,
) -> tuple[Pass, ...]:
    """Return the passes of a strategy, in order.

    ``own`` are the lines of the plan itself, ``flows`` what the modules hand each other, if a trace told;
    ``sized`` says that its bytes were made for the dtypes of the options.
    """
    return (
        AnnotateSizes(dtype=options.dtype, special_dtypes=options.special_dtypes, sized=sized),
        MergeTies(),
        ApplyOverrides(overrides, own),
        *(() if options.kv_cache is None else (ShareCache(options.kv_cache),)),
        ReserveRuntime(options.runtime, allocator=options.strategy == "auto"),
        ExpandSplits(),
        *_placing(options, flows),
        AccountMemory(),
        EmitWarnings(offload_buffers=options.offload_buffers),
    )


def _placing(options: Options, flows: tuple[Flow, ...]) -> tuple[Pass, ...]:
    greedy, searched = (AssignGreedy(), RewriteFallbacks()), replace(_search(options), flows=flows)
    match options.strategy:
        case "accelerate":
            offload = "stream" if options.offload == "auto" else options.offload  # as accelerate's hooks do
            return (AssignAccelerate(options.fallback, offload),)
        case "balanced" | "balanced_low_0":
            spread = AssignBalanced(low_zero=options.strategy == "balanced_low_0")
            search = replace(searched, objective=options.objective or "balance", spills_only=True)
            return (spread, *greedy, search)
        case "sequential":
            return (*greedy, replace(searched, spills_only=True))
        case "auto":
            return (*greedy, searched)
        case _:
            assert_never(options.strategy)


def _search(options: Options) -> SearchPlacements:
    return SearchPlacements(
        objective=options.objective,
        offload=options.offload,
        time_limit=options.time_limit,
        batch=options.batch or 1,
        prompt=options.prompt,
        generate=options.generate,
    )
