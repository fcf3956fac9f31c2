"""Tiny models of different builds, with random weights, saved for processes of several hosts to load."""

from __future__ import annotations

import torch

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
TOKENS = {"vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
HYBRID = {
    "head_dim": 8,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
LLAMA = ("model.layers", ("model.norm", "lm_head"))
MODELS = {
    "llama": ("LlamaConfig", SIZES, LLAMA),
    "llama-tied": ("LlamaConfig", {**SIZES, "tie_word_embeddings": True}, ("model.layers", ("model.norm",))),
    "gemma3": (
        "Gemma3TextConfig",
        {**SIZES, "head_dim": 8, "sliding_window": 8},
        ("model.layers", ("model.norm",)),
    ),
    "llama-many-words": ("LlamaConfig", {**SIZES, "vocab_size": 4000}, LLAMA),
    "llama-large": ("LlamaConfig", {**SIZES, "hidden_size": 512, "intermediate_size": 4096}, LLAMA),
    "mixtral": ("MixtralConfig", {**SIZES, "num_local_experts": 4}, LLAMA),
    "qwen3-next": ("Qwen3NextConfig", {**SIZES, **HYBRID}, LLAMA),
    "mamba": (
        "MambaConfig",
        {"hidden_size": 32, "num_hidden_layers": 6, "state_size": 8},
        ("backbone.layers", ("backbone.norm_f",)),
    ),
    "gpt2": (
        "GPT2Config",
        {"n_embd": 32, "n_layer": 6, "n_head": 4, "n_positions": 128},
        ("transformer.h", ("transformer.ln_f",)),
    ),
    "opt": (
        "OPTConfig",
        {
            "hidden_size": 32,
            "ffn_dim": 64,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            "word_embed_proj_dim": 32,
        },
        ("model.decoder.layers", ("model.decoder.final_layer_norm",)),
    ),
    "t5": (
        "T5Config",
        {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_heads": 4, "decoder_start_token_id": 0},
        ("", ("decoder.final_layer_norm",)),
    ),
}
"""The class of the configuration, what it is made with, and where the layers are and what follows them."""
T5_LAYERS = tuple(f"{half}.block.{number}" for half in ("encoder", "decoder") for number in range(3))


def layers_of(name):
    """Return the paths of the six layers of a model."""
    stack = MODELS[name][2][0]
    return T5_LAYERS if not stack else tuple(f"{stack}.{number}" for number in range(6))


def tail_of(name):
    """Return what follows the layers."""
    return MODELS[name][2][1]


def saved(name, folder):
    """Save a model, and return it."""
    import transformers

    kind, values, _ = MODELS[name]
    config = getattr(transformers, kind)(**{**TOKENS, **values})
    maker = transformers.AutoModelForSeq2SeqLM if name == "t5" else transformers.AutoModelForCausalLM
    torch.manual_seed(0)
    model = maker.from_config(config).eval()
    model.save_pretrained(folder)
    return model
