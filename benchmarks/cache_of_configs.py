"""Compares the KV cache a configuration tells with the one the traced forward keeps.

    python benchmarks/cache_of_configs.py [llama gemma3 ...]

Every type of transformers that writes text, in its default configuration with six layers at most, in
bfloat16; one request whose cache holds 24 tokens, and 1,200 so that windows fill. A line a type: the same,
unknown (nothing is said, a finding is given), or both numbers.
"""

from __future__ import annotations

import contextlib
import json
import sys
import warnings

import torch
import transformers
from compile_plan.compiler.sources.config_cache import cache_of_config
from compile_plan.compiler.sources.live import lower_model
from compile_plan.compiler.tracing import cache_demands as traced_cache
from compile_plan.compiler.tracing import try_moments
from compile_plan.ir import Diagnostics
from zoo_types import SETTINGS, classes_for

LAYERS = 6
TOKENS = (24, 1200)
COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers")
WRITING = (*transformers.AutoModelForCausalLM._model_mapping._model_mapping,  # noqa: SLF001
           *transformers.AutoModelForSeq2SeqLM._model_mapping._model_mapping)  # noqa: SLF001  # fmt: skip


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


def compare(kind: str) -> tuple[str, str]:
    """Return a verdict and what it is about."""
    config = small_config(kind)
    with torch.device("meta"):
        model = next(classes_for(config))._from_config(config, dtype=torch.bfloat16)  # noqa: SLF001
    model = model.eval()
    tree = lower_model(model)
    model.config.architectures = [type(model).__name__]
    content = json.loads(model.config.to_json_string())
    told, seen = [], []
    for tokens in TOKENS:
        found = try_moments(model, None, Diagnostics(), seq=16, total=tokens)
        if found is None:
            return "not traced", ""
        seen.append(sum(each.nbytes for each in traced_cache(found.main, found.cache_nbytes)))
        told.append(sum(each.nbytes for each in cache_of_config(content, tree, tokens, 1)))
        if tokens == TOKENS[1] and not found.later and seen[-1] == seen[0]:
            told[-1] = seen[-1]  # it does not go on from what it kept: nothing to compare with
    if not any(seen):
        return ("none kept", "") if not any(told) else ("WRONG", f"{told} told, {seen} traced")
    if told == seen:
        return "same", f"{told[1]:,}"
    return ("unknown", f"{seen} traced") if not any(told) else ("WRONG", f"{told} told, {seen} traced")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    counts: dict[str, int] = {}
    for kind in sys.argv[1:] or sorted(set(WRITING)):
        try:
            verdict, about = compare(kind)
        except Exception as error:  # noqa: BLE001  # models of others may raise anything
            verdict, about = "not built", f"{type(error).__name__}: {str(error).partition(chr(10))[0][:80]}"
        counts[verdict] = counts.get(verdict, 0) + 1
        print(f"{kind:34} {verdict:10} {about}", flush=True)
    print(counts)
