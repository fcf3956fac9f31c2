"""No option without effect: one that cannot do anything for an input, or beside another, is refused.

The table says for each option what it needs; a reader who wonders whether an option counts looks here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Final, TypeAlias

from ...ir import Diagnostic, Diagnostics, Plan, Role
from ...ir.rules.usage import OPTION_WITHOUT_EFFECT
from ..sources.config_numbers import WIDTHS
from .options import Options, settled


class Holding(StrEnum):
    """What is compiled, as far as options can tell inputs apart."""

    MODULE = "a model"
    CONFIG = "a model built from its config.json"
    HEADERS = "a checkpoint that is planned from its headers"
    PLAN = "a plan"


GGUF: Final = "gguf"
"""The method of a file with packed weights that llama.cpp reads."""
Why: TypeAlias = tuple[str, str]
"""Why an option does nothing, and what would."""

_NO_FORWARD: Final[Mapping[Holding, Why]] = {
    Holding.HEADERS: (
        "nothing is traced",
        "give the model itself: a script, or its config.json",
    ),
    Holding.PLAN: (
        "a plan has no forward to trace",
        "start from the model; `--kv-cache` sizes a plan's cache",
    ),
}
_NO_CODE: Final[Why] = ("nothing is built from a config.json", "leave it out")
_BY_HOLDING: Final[Mapping[str, Mapping[Holding, Why]]] = {
    "seq": _NO_FORWARD,
    "example_inputs": _NO_FORWARD,
    "batch": {Holding.PLAN: _NO_FORWARD[Holding.PLAN]},
    "rows": {Holding.PLAN: _NO_FORWARD[Holding.PLAN]},
    "workload": {Holding.PLAN: _NO_FORWARD[Holding.PLAN]},
    "cache_tokens": {Holding.PLAN: _NO_FORWARD[Holding.PLAN]},
    "trust_remote_code": {holds: _NO_CODE for holds in Holding if holds is not Holding.CONFIG},
}
"""Options that need something some inputs do not have."""

_TIMED: Final = frozenset({None, "latency", "throughput"})


def packed_in(plan: Plan) -> str | None:
    """Return the dtype by which the weights of a plan are quantised; a tree of bytes alone tells nothing."""
    tree = plan.tree
    if tree is None:
        return None
    dtypes = {dtype for dtype, role in zip(tree.dtypes, tree.roles, strict=True) if role is Role.PARAMETER}
    return None if dtypes == {"uint8"} else min(filter(_packs, dtypes), default=None)


def _packs(dtype: str) -> bool:
    """Say whether quantisers leave weights in a dtype, where positions and counters are of others."""
    return dtype in {"int8", "uint8", "int32"} or dtype.startswith(("float8", "float4"))


def _quantised(dtype: str | None, packed: str | None) -> Iterator[tuple[str, str, str]]:
    """Yield a dtype that quantised weights leave without effect."""
    if packed == GGUF and dtype is not None:
        yield "dtype", "llama.cpp loads it as it is stored", "leave it out, or quantise the file anew"
    elif packed is not None and dtype is not None and dtype not in WIDTHS:
        why = f"its weights are quantised already ({packed})"
        yield "dtype", why, "leave it out, or say what the rest is loaded as: `--dtype bfloat16`"


def _beside(options: Options, holds: Holding) -> Iterator[tuple[str, str, str]]:
    """Yield options that another one, given or missing, leaves without effect."""
    accelerate = options.strategy == "accelerate"
    if options.gives("fallback") and not accelerate:
        yield "fallback", "only strategy `accelerate` has it", "add `--strategy accelerate`, or leave it out"
    for name in ("objective", "time_limit"):
        if options.gives(name) and accelerate:
            yield name, "strategy `accelerate` searches nothing", "take another strategy, or leave it out"
    counted = options.used is not None and holds is not Holding.PLAN
    for name in ("prompt", "generate"):
        if options.gives(name) and options.objective not in _TIMED and not counted:
            yield name, f"objective `{options.objective}` is not about time", "take objective `latency`"
    yield from _workload(options, holds)
    if options.gives("cache_tokens") and options.gives("kv_cache"):
        yield "cache_tokens", "`--kv-cache` says how large the cache is", "give one of the two"
    if holds is Holding.HEADERS and options.gives("batch") and options.cache_tokens is None:
        yield "batch", "it only multiplies the KV cache here", "say how long that is: `--cache-tokens 4096`"


def _workload(options: Options, holds: Holding) -> Iterator[tuple[str, str, str]]:
    """Yield options about what the model is used for that do nothing beside what else is said of it."""
    kind = "generate" if options.used is None else options.used.kind
    if options.rows is not None and options.batch is not None:
        yield "batch", "`--rows` says how many sequences there are", "give one of the two"
    if options.gives("prompt") and options.seq is not None:
        yield "seq", "`--prompt` says how many tokens are read", "give one of the two"
    if kind != "generate" and options.gives("generate"):
        yield "generate", f"a workload of kind `{kind}` writes no tokens", "leave it out"
    if kind != "generate" and options.cache_tokens is not None:
        yield "cache_tokens", f"a workload of kind `{kind}` keeps no cache", "leave it out"
    if kind != "train" and options.optimizer is not None:
        yield "optimizer", f"a workload of kind `{kind}` trains nothing", "add `--workload train`"
    if kind == "train" and options.offload == "stream":
        why = "a step of training streams nothing, as its backward pass needs the weights again"
        yield "offload", why, "leave it out, or take `compute`"
    if kind == "train" and holds is Holding.HEADERS:
        why, way_out = _NO_FORWARD[Holding.HEADERS]
        yield "workload", why, way_out
    if kind != "generate" and options.strategy == "accelerate":
        yield "workload", "strategy `accelerate` counts weights only", "take another strategy"


def check_effects(
    options: Options,
    holds: Holding,
    diagnostics: Diagnostics,
    *,
    example_inputs: bool = False,
    packed: str | None = None,
    lines: Iterable[Plan] = (),
    spelled: Callable[[str], str] = str,
) -> None:
    """Report every given option that would change nothing for this input.

    ``packed`` is the method that its weights are quantised by, if they are; a dtype may be one of ``lines``.
    """
    asked = {name for name in _BY_HOLDING if name != "example_inputs" and options.gives(name)}
    asked |= {"example_inputs"} if example_inputs else set()
    dtype = None if packed is None else settled(options, lines, Diagnostics()).dtype
    rows = [(name, *by[holds]) for name, by in _BY_HOLDING.items() if name in asked and holds in by]
    for name, why, help_ in (*_quantised(dtype, packed), *rows, *_beside(options, holds)):
        shown = "option dtype" if name == "dtype" and options.dtype is None else spelled(name)
        message = f"`{shown}` has no effect on {holds}: {why}"
        diagnostics.add(Diagnostic(OPTION_WITHOUT_EFFECT, message, help=help_))
