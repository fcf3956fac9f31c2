"""Small configurations of transformers models, one for each family of architecture."""

from __future__ import annotations

import torch
import transformers

TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "vocab_size": 500}
DECODER = {**TEXT, "num_hidden_layers": 2, "num_key_value_heads": 2}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

CONFIGS = {
    "bert": {**TEXT, "num_hidden_layers": 2},
    "bloom": {"n_layer": 2, "hidden_size": 64, "n_head": 4, "vocab_size": 500},
    "falcon": {
        "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 500, **SPECIAL,
    },
    "gemma2": {**DECODER, "head_dim": 16},
    "gpt2": {"n_layer": 3, "n_embd": 64, "n_head": 4, "vocab_size": 500, **SPECIAL},
    "gpt_neox": {**TEXT, "num_hidden_layers": 2, **SPECIAL},
    "llama": DECODER,
    "mixtral": {**DECODER, "num_local_experts": 4},
    "opt": {**TEXT, "num_hidden_layers": 2, "ffn_dim": 128, "word_embed_proj_dim": 64},
    "qwen2": DECODER,
    "resnet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]},
    "t5": {"num_layers": 2, "d_model": 64, "d_ff": 128, "num_heads": 4, "d_kv": 16, "vocab_size": 500},
    "vit": {
        **{key: value for key, value in TEXT.items() if key != "vocab_size"},
        "num_hidden_layers": 2, "image_size": 32, "patch_size": 4,
    },
    "whisper": {
        "encoder_layers": 2, "decoder_layers": 2, "d_model": 64, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "vocab_size": 500,
        "max_source_positions": 50, "decoder_start_token_id": 1, **SPECIAL,
    },
}  # fmt: skip


def small_model(name: str, *, device: str = "meta", **changes):
    config = transformers.AutoConfig.for_model(name, **{**CONFIGS[name], **changes})
    with torch.device(device):
        for factory in (transformers.AutoModelForCausalLM, transformers.AutoModelForSeq2SeqLM):
            if type(config) in factory._model_mapping:
                return factory.from_config(config).eval()
        return transformers.AutoModel.from_config(config).eval()
