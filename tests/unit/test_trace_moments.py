"""Reading a prompt and writing tokens are two moments; the ledger is for the larger of each."""

from __future__ import annotations

import pytest
import torch
import transformers
from compile_plan.compiler.tracing import Moments, cache_demands, demands, try_moments
from compile_plan.compiler.tracing.moments import Use
from compile_plan.compiler.tracing.results import cache_of, state_of, unique
from compile_plan.ir import Diagnostics
from live_bytes import LiveBytes, shared_heads_are_fused
from small_models import small_model
from torch import nn

ROWS, PROMPT, WRITTEN = 2, 12, 5
TOTAL = PROMPT + WRITTEN
WRITING = ("bloom", "falcon", "gemma2", "gpt2", "gpt_neox", "llama", "mixtral", "opt", "qwen2")


def moments_of(name, **options):
    found = try_moments(small_model(name), None, Diagnostics(), batch=ROWS, seq=PROMPT, **options)
    assert found is not None
    return found


def real_step(name):
    """Return a model on the CPU, its real cache one token short of full, and that cache's bytes once full."""
    model = small_model(name, device="cpu")
    with torch.no_grad():
        first = model(input_ids=torch.ones(ROWS, TOTAL - 1, dtype=torch.int64))
    return model, first


def largest(found, purpose):
    return max(each.nbytes for each in found if each.purpose == purpose)


@pytest.mark.parametrize("name", WRITING)
def test_the_cache_is_as_long_as_prompt_and_written_tokens(name):
    model, first = real_step(name)
    key, state = state_of(first)
    with torch.no_grad():
        last = model(input_ids=torch.ones(ROWS, 1, dtype=torch.int64), **{key: state})
    kept = sum(tensor.nbytes for tensor in unique(cache_of(last)))
    found = moments_of(name, total=TOTAL)
    assert sum(each.nbytes for each in cache_demands(found.main, found.cache_nbytes)) == kept


@pytest.mark.parametrize("name", WRITING)
def test_writing_a_token_needs_what_is_alive_beside_the_full_cache(name):
    model, first = real_step(name)
    key, state = state_of(first)
    weights = {each.untyped_storage()._cdata for each in (*model.parameters(), *model.buffers())}
    old = unique(cache_of(first))
    before = sum(tensor.nbytes for tensor in old)
    live = LiveBytes(weights)
    for tensor in old:
        live.see(tensor)
    del old, first, tensor
    tokens = torch.ones(ROWS, 1, dtype=torch.int64)
    with torch.no_grad(), live:
        last = model(input_ids=tokens, **{key: state})
    full = sum(tensor.nbytes for tensor in unique(cache_of(last)))
    found = moments_of(name, total=TOTAL)
    predicted = full + largest(demands(Moments(found.later[0])), "activations")
    assert live.peak <= predicted
    if name != "falcon" or not shared_heads_are_fused():
        assert predicted <= live.peak + (full - before) + tokens.nbytes


def windowed(device, window):
    sizes = {"vocab_size": 500, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.MistralConfig(**sizes, **heads, sliding_window=window)
    with torch.device(device):
        return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("window", [4096, 12, 8])
def test_a_window_cut_from_all_there_was_is_there_twice_with_what_it_was_cut_from(window):
    model = windowed("cpu", window)
    live = LiveBytes({each.untyped_storage()._cdata for each in (*model.parameters(), *model.buffers())})
    with torch.no_grad():
        result = model(input_ids=torch.ones(ROWS, PROMPT, dtype=torch.int64))
        key, state = state_of(result)
        for tensor in unique(cache_of(result)):
            live.see(tensor)
        del result, tensor
        live.peak = live.now
        with live:
            for _ in range(WRITTEN):
                model(input_ids=torch.ones(ROWS, 1, dtype=torch.int64), **{key: state})
    options = {"batch": ROWS, "seq": PROMPT, "total": TOTAL}
    found = try_moments(windowed("meta", window), None, Diagnostics(), **options)
    kept = sum(each.nbytes for each in cache_demands(found.main, found.cache_nbytes))
    predicted = kept + largest(demands(Moments(found.later[0])), "activations")
    assert live.peak <= predicted <= 1.15 * live.peak


SAMPLER = 30
"""Bytes of a word while a sampler sorts: widened, changed twice, sorted with their places, summed."""


def test_generation_keeps_the_scores_of_the_last_position_only():
    plain, generating = moments_of("llama"), moments_of("llama", generate=True)
    scores = largest(demands(plain), "logits")
    sampled = largest(demands(generating), "logits") - scores // PROMPT
    assert sampled == scores // PROMPT // 4 * SAMPLER


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("bfloat16", 2)])
def test_a_sampler_holds_the_last_scores_while_it_makes_the_next(dtype, width):
    found = moments_of("llama", dtype=dtype, use=Use(total=TOTAL))
    assert found.later
    assert largest(demands(found), "logits") == ROWS * small_model("llama").config.vocab_size * (
        width + SAMPLER + 8
    )


def test_a_cache_shorter_than_the_prompt_is_obeyed():
    found = moments_of("llama", total=3)
    asked = sum(each.nbytes for each in cache_demands(found.main, found.cache_nbytes))
    assert asked * PROMPT == 3 * sum(each.nbytes for each in cache_demands(found.main))


def test_what_writes_nothing_has_one_moment():
    found = try_moments(nn.Linear(3, 4), torch.ones(2, 3), Diagnostics(), generate=True, total=9)
    assert found is not None
    assert found.traces == (found.main,)


def test_the_length_of_the_cache_holds_for_given_inputs():
    given = {"input_ids": torch.ones(1, 4, dtype=torch.int64)}
    found = try_moments(small_model("llama"), given, Diagnostics(), total=4096)
    four = sum(each.nbytes for each in cache_demands(found.main))
    assert sum(each.nbytes for each in cache_demands(found.main, found.cache_nbytes)) == 1024 * four


STUBBORN = {
    "dbrx": {
        "n_layers": 2, "d_model": 64, "n_heads": 4, "vocab_size": 96,
        "attn_config": {"rope_theta": 10_000.0, "clip_qkv": 8.0, "kv_n_heads": 2},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "cpmant": {
        "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "dim_head": 16, "dim_ff": 64,
        "vocab_size": 96,
    },
}  # fmt: skip
"""Asks for values in every forward; does not go on by a token on the meta device, and has 32 of its own."""


@pytest.mark.parametrize("total", [24, 64])
@pytest.mark.parametrize(("kind", "own"), [("dbrx", 0), ("cpmant", 32)])
def test_a_cache_is_as_long_as_asked_where_a_model_is_stubborn(kind, own, total):
    config = transformers.AutoConfig.for_model(kind, **STUBBORN[kind])
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    found = try_moments(model, None, Diagnostics(), seq=16, total=total)
    assert found is not None
    asked = sum(each.nbytes for each in cache_demands(found.main, found.cache_nbytes))
    assert asked * (16 + own) == sum(each.nbytes for each in cache_demands(found.main)) * (total + own)
