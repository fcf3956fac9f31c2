"""The pipelines: each strategy is a list of passes, nothing more."""

from __future__ import annotations

from typing import assert_never

from ...ir import Plan
from ..passes.account_memory import AccountMemory
from ..passes.annotate_sizes import AnnotateSizes
from ..passes.apply_overrides import ApplyOverrides
from ..passes.assign_balanced import AssignBalanced
from ..passes.assign_greedy import AssignGreedy
from ..passes.avoid_spills import AvoidSpills
from ..passes.emit_warnings import EmitWarnings
from ..passes.expand_splits import ExpandSplits
from ..passes.merge_ties import MergeTies
from ..passes.pipeline import Pass
from ..passes.reserve_runtime import ReserveRuntime
from ..passes.rewrite_fallbacks import RewriteFallbacks
from ..passes.search_placements import SearchPlacements
from ..passes.share_cache import ShareCache
from .options import Options


def passes_for(options: Options, overrides: tuple[Plan, ...] = ()) -> tuple[Pass, ...]:
    """Return the passes of a strategy, in order."""
    return (
        AnnotateSizes(dtype=options.dtype, special_dtypes=options.special_dtypes),
        MergeTies(),
        *((ShareCache(options.kv_cache),) if options.kv_cache else ()),
        ApplyOverrides(overrides),
        ReserveRuntime(options.runtime),
        ExpandSplits(),
        *_placing(options),
        AccountMemory(),
        EmitWarnings(offload_buffers=options.offload_buffers),
    )


def _placing(options: Options) -> tuple[Pass, ...]:
    match options.strategy:
        case "accelerate":
            greedy = AssignGreedy(rules="accelerate", fallback=options.fallback, offload=options.offload)
            return (greedy,)
        case "balanced" | "balanced_low_0":
            spread = AssignBalanced(low_zero=options.strategy == "balanced_low_0")
            wish = options.objective or "balance"
            return (spread, RewriteFallbacks(), AvoidSpills(wish, options.offload, options.time_limit))
        case "sequential":
            search = AvoidSpills(options.objective, options.offload, options.time_limit)
            return (AssignGreedy(), RewriteFallbacks(), search)
        case "auto":
            return (AssignGreedy(), RewriteFallbacks(), _search(options))
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
