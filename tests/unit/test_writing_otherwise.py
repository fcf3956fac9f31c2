"""What `generate()` holds where it is not transformers' own, or keeps nothing from one token to the next."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import transformers
from compile_plan.compiler import compile_model

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import activation_peaks

MANY = {"cpu": "64GiB"}


def sampled(model, inputs, written):
    """Return the most bytes that are alive while tokens are sampled, of padded rows."""
    for part in model.modules():
        if hasattr(part, "generation_config"):
            part.generation_config = transformers.GenerationConfig(pad_token_id=0, eos_token_id=None)
    inputs = activation_peaks.padded(inputs)
    settings = {"do_sample": True, "temperature": 0.7, "top_k": 50, "top_p": 0.9}
    with torch.no_grad(), activation_peaks.watched(model, inputs) as live:
        model.generate(**inputs, max_new_tokens=written, **settings)
    return live.peak


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("openai-gpt", {"n_embd": 64, "n_head": 4, "n_layer": 2}),
        ("xlm", {"emb_dim": 64, "n_heads": 4, "n_layers": 2, "n_words": 500}),
    ],
)
def test_where_nothing_is_kept_the_whole_text_is_read_for_every_token(kind, sizes, rows):
    config = transformers.AutoConfig.for_model(kind, vocab_size=500, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    account = compile_model(model, max_memory=MANY, rows=rows, prompt=24, generate=23).ledger[0]
    taken = sampled(model, {"input_ids": torch.randint(8, 400, (rows, 24))}, 24)
    assert account.kv_cache == 0
    assert taken <= account.activations <= 1.02 * taken


def captioning():
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2}
    words = {"vocab_size": 4000, "bos_token_id": 1, "sep_token_id": None, "encoder_hidden_size": 64}
    picture = {"image_size": 64, "patch_size": 16}
    config = transformers.BlipConfig(text_config={**sizes, **words}, vision_config={**sizes, **picture})
    return transformers.BlipForConditionalGeneration(config)


def answering():
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2}
    words = {"model_type": "opt", **sizes, "ffn_dim": 128, "word_embed_proj_dim": 64, "vocab_size": 4000}
    config = transformers.Blip2Config(
        text_config=words,
        vision_config={**sizes, "image_size": 64, "patch_size": 16},
        qformer_config={**sizes, "encoder_hidden_size": 64},
        num_query_tokens=4,
        image_token_index=3990,
    )
    return transformers.Blip2ForConditionalGeneration(config)


@pytest.mark.parametrize("written", [2, 30])
@pytest.mark.parametrize("made", [captioning, answering])
def test_a_generate_that_hands_the_writing_over_holds_what_was_seen(made, written):
    model = made().eval()
    account = compile_model(model, max_memory=MANY, rows=2, prompt=16, generate=written - 1).ledger[0]
    taken = sampled(model, activation_peaks.real_inputs(model, 2, 16), written)
    assert taken <= account.kv_cache + account.activations <= 1.03 * taken
