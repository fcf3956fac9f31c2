"""Compares what a configuration tells of cache and activations with what the traced forward needs.

    python benchmarks/needs_of_configs.py [llama gemma3 ...]

Every type of transformers that writes text, in its default configuration with a few layers, in bfloat16, for
the usual workload: one request of 512 tokens, 128 written. A line a type: whether the cache is the same,
unknown (nothing is said, a finding is given), not traced (the forward runs without it) or wrong, and told by
traced activations of the largest moment on accelerators; what the host alone needs follows where it is less.
"""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
import transformers
from compile_plan.compiler.sources.config_activations import activation_demands
from compile_plan.compiler.sources.config_cache import cache_of_config
from compile_plan.compiler.sources.live import lower_model
from compile_plan.compiler.tracing import Moments, Use, demands, try_moments
from compile_plan.ir import Demand, Diagnostics, ModuleTree, Workload
from compile_plan.ir.purposes import ALONE_HOST, KV_CACHE, MOMENTARY, ON_HOST
from compile_plan.ir.rules.tracing import TRACED_WITHOUT_CACHE
from zoo_types import SETTINGS, classes_for

LAYERS = 4
USUAL = Workload()
TOTAL = USUAL.prompt + USUAL.tokens
COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers")
WRITING = (*transformers.AutoModelForCausalLM._model_mapping._model_mapping,  # noqa: SLF001
           *transformers.AutoModelForSeq2SeqLM._model_mapping._model_mapping)  # noqa: SLF001  # fmt: skip
LEAST, MOST = 1.0, 1.5
"""Told by traced activations of what counts as right: less runs out of memory, more spills needlessly."""


def small_config(kind: str) -> transformers.PreTrainedConfig:
    """Return the default configuration of a type with few layers."""
    settings = SETTINGS.get(kind, {})
    whole = transformers.AutoConfig.for_model(kind, **settings)
    few = {
        n: min(v, LAYERS)
        for n in COUNTS
        if isinstance(v := getattr(whole, n, None), int) and n not in settings
    }
    with contextlib.suppress(Exception):
        return transformers.AutoConfig.for_model(kind, **settings, **few)
    return whole


def built(
    config: transformers.PreTrainedConfig, dtype: torch.dtype = torch.bfloat16
) -> tuple[torch.nn.Module, ModuleTree, dict[str, Any]]:
    """Return a model without weights, its tree and its ``config.json``."""
    with torch.device("meta"):
        model = next(classes_for(config))._from_config(config, dtype=dtype)  # noqa: SLF001
    model.config.architectures = [type(model).__name__]
    return model.eval(), lower_model(model), json.loads(model.config.to_json_string())


def traced(model: torch.nn.Module) -> tuple[Moments | None, bool]:
    """Return the moments of the usual workload, and whether they are without the cache."""
    use, found = Use(total=TOTAL, written=USUAL.tokens), Diagnostics()
    moments = try_moments(model, None, found, seq=USUAL.prompt, use=use)
    return moments, any(each.rule is TRACED_WITHOUT_CACHE for each in found)


def cached(found: Iterable[Demand]) -> int:
    return sum(each.nbytes for each in found if each.purpose == KV_CACHE)


def largest(found: Iterable[Demand], *, host: bool = False) -> int:
    left_out = set[str]() if host else {ON_HOST, *ALONE_HOST}
    return max((each.nbytes for each in found if each.purpose in MOMENTARY - left_out), default=0)


def compare(kind: str) -> tuple[str, str]:
    """Return a verdict and both numbers of both."""
    model, tree, content = built(small_config(kind))
    found, uncached = traced(model)
    if found is None:
        return "not traced", ""
    needs = demands(found)
    told = cached(cache_of_config(content, tree, TOTAL, 1, read=USUAL.prompt, written=USUAL.tokens))
    counted = activation_demands(content, tree, USUAL.prompt, 1)
    room, kept, moment = largest(counted), cached(needs), largest(needs)
    cache = "same" if told == kept else "unknown" if not told else f"WRONG {told:,}/{kept:,}"
    cache = "not traced" if uncached and not kept else cache
    ratio = room / moment if moment else 0.0
    right = "" if LEAST <= ratio <= MOST else "UNDER" if ratio < LEAST else "over"
    if largest(counted, host=True) < largest(needs, host=True):
        right = "UNDER"
    return cache, f"activations {room:>12,}/{moment:<12,} {ratio:5.2f} {right}"


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    counts: Counter[str] = Counter()
    for kind in sys.argv[1:] or sorted(set(WRITING)):
        try:
            verdict, about = compare(kind)
        except Exception as error:  # noqa: BLE001  # models of others may raise anything
            verdict, about = "not built", f"{type(error).__name__}: {str(error).partition(chr(10))[0][:80]}"
        counts.update([verdict.partition(" ")[0], *about.split(" ")[-1:]])
        print(f"{kind:34} {verdict:10} {about}", flush=True)
    print(dict(counts))
