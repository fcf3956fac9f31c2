"""The passes by name; written by hand so that the list is the truth."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from .account_memory import AccountMemory
from .annotate_sizes import AnnotateSizes
from .apply_overrides import ApplyOverrides
from .assign_accelerate import AssignAccelerate
from .assign_balanced import AssignBalanced
from .assign_greedy import AssignGreedy
from .emit_warnings import EmitWarnings
from .expand_splits import ExpandSplits
from .merge_ties import MergeTies
from .pipeline import Pass
from .reserve_runtime import ReserveRuntime
from .rewrite_fallbacks import RewriteFallbacks
from .search_placements import SearchPlacements
from .share_cache import ShareCache

PASSES: Final[Mapping[str, type[Pass]]] = MappingProxyType(
    {
        AccountMemory.name: AccountMemory,
        AnnotateSizes.name: AnnotateSizes,
        ApplyOverrides.name: ApplyOverrides,
        AssignAccelerate.name: AssignAccelerate,
        AssignBalanced.name: AssignBalanced,
        AssignGreedy.name: AssignGreedy,
        EmitWarnings.name: EmitWarnings,
        ExpandSplits.name: ExpandSplits,
        MergeTies.name: MergeTies,
        ReserveRuntime.name: ReserveRuntime,
        RewriteFallbacks.name: RewriteFallbacks,
        SearchPlacements.name: SearchPlacements,
        ShareCache.name: ShareCache,
    }
)

__all__ = ["PASSES"]
