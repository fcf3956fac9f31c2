"""Cases from public reports whose numbers can be worked out by hand: the scores and the cache."""

from __future__ import annotations

import pytest
import torch
import transformers
from compile_plan.compiler import compile_model
from compile_plan.compiler.tracing import cache_demands, trace_model

BATCH, SEQ = 2, 48


def model_of(name: str, **config) -> torch.nn.Module:
    with torch.device("meta"):
        chosen = transformers.AutoConfig.for_model(name, **config)
        return transformers.AutoModelForCausalLM.from_config(chosen, dtype=torch.bfloat16).eval()


def cache_of(model: torch.nn.Module, seq: int, batch: int = BATCH) -> dict[str, int]:
    return {demand.path: demand.nbytes for demand in cache_demands(trace_model(model, batch=batch, seq=seq))}


def test_scores_are_a_line_on_the_card_of_the_head():
    model = model_of(
        "llama", vocab_size=200_000, hidden_size=64, intermediate_size=128, num_attention_heads=4,
        num_hidden_layers=4,
    )  # fmt: skip
    head = 200_000 * 64 * 2
    scores = 128 * 200_000 * (2 + 4)
    plan = compile_model(
        model, max_memory={0: head + 2_000_000, 1: head + scores + 2_000_000}, batch=128, seq=1
    )
    where = {unit.path: unit.run for unit in plan.units}
    assert where["lm_head"] == "cuda:1"
    lines = {account.device: account.activations for account in plan.ledger}
    assert lines["cuda:1"] == scores
    assert lines["cuda:0"] < 1_000_000


def test_a_hybrid_of_64_layers_pays_for_its_16_caches():
    model = model_of(
        "qwen3_next", num_hidden_layers=64, full_attention_interval=4, num_key_value_heads=4, head_dim=256,
        num_attention_heads=8, hidden_size=64, intermediate_size=64, moe_intermediate_size=16,
        shared_expert_intermediate_size=16, num_experts=2, num_experts_per_tok=1, vocab_size=100,
    )  # fmt: skip
    short, long = cache_of(model, SEQ, batch=1), cache_of(model, 2 * SEQ, batch=1)
    growing = {path for path in long if long[path] != short[path]}
    assert growing == {f"model.layers.{index}.self_attn" for index in range(3, 64, 4)}
    assert sum(long.values()) - sum(short.values()) == 65_536 * SEQ
    assert {long[path] for path in growing} == {65_536 // 16 * 2 * SEQ}
    assert len(long) == 64


SMALL = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 100}
KEYS_AND_VALUES = 2 * 2 * 16 * 2
"""Bytes of one token in one layer: keys and values of two heads of sixteen numbers in bfloat16."""


@pytest.mark.parametrize(
    ("name", "config", "windows"),
    [
        ("llama", {"num_key_value_heads": 2}, [None] * 4),
        ("qwen2", {"num_key_value_heads": 2}, [None] * 4),
        ("mistral", {"num_key_value_heads": 2, "sliding_window": 8}, [8] * 4),
        ("gemma2", {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 8}, [8, None] * 2),
        (
            "gemma3_text",
            {
                "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 8,
                "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
            },
            [8, 8, 8, None],
        ),
        (
            "gpt_oss",
            {
                "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 8, "num_local_experts": 2,
                "num_experts_per_tok": 1,
                "layer_types": ["sliding_attention", "full_attention"] * 2,
            },
            [8, None] * 2,
        ),
    ],
)  # fmt: skip
def test_windows_and_full_layers_keep_what_they_need(name, config, windows):
    found = cache_of(model_of(name, num_hidden_layers=4, **SMALL, **config), SEQ)
    # A window of 8 is a view of the longer prompt until the next token; a number of 8 bytes counts tokens.
    expected = [KEYS_AND_VALUES * BATCH * SEQ + (0 if window is None else 8) for window in windows]
    assert found == {f"model.layers.{i}.self_attn": nbytes for i, nbytes in enumerate(expected)}


@pytest.mark.parametrize(
    ("name", "config", "attending"),
    [
        (
            "jamba",
            {
                "num_key_value_heads": 2, "attn_layer_period": 4, "attn_layer_offset": 1, "num_experts": 2,
                "mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False, "num_hidden_layers": 8,
            },
            [1, 5],
        ),
        (
            "lfm2",
            {
                "num_key_value_heads": 2, "num_hidden_layers": 4,
                "layer_types": ["conv", "conv", "full_attention", "conv"],
            },
            [2],
        ),
        (
            "falcon_h1",
            {
                "num_key_value_heads": 2, "head_dim": 16, "num_hidden_layers": 2, "mamba_d_ssm": 64,
                "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1,
            },
            [0, 1],
        ),
    ],
)  # fmt: skip
def test_only_attention_grows_with_the_context(name, config, attending):
    model = model_of(name, **SMALL, **config)
    short, long = cache_of(model, SEQ), cache_of(model, 2 * SEQ)
    growth = {path: long[path] - short[path] for path in long if long[path] != short[path]}
    assert [int(path.split(".")[2]) for path in growth] == attending
    assert set(growth.values()) == {KEYS_AND_VALUES * BATCH * SEQ}
    assert len(long) >= len(growth)
