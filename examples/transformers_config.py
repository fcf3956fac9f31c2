"""A transformers model from nothing but its configuration; needs ``pip install 'compile-plan[hub]'``.

Atomic units come from the model's own ``_no_split_modules``.

    compile-plan examples/transformers_config.py --memory cuda:0=24GiB,cuda:1=24GiB,cpu=64GiB
"""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, LlamaConfig


def build():
    """The shape of an eight-billion-parameter Llama."""
    config = LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
