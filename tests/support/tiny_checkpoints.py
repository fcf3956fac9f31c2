"""Small random transformers models of many architectures, their inputs, and plans for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers as hf
from compile_plan.ir import Device, Model, Plan, Unit
from torch import nn

DEVICES = (Device("cpu", None), Device("disk", None, at="offload"), Device("cuda:0", None))
_LM = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
_GATED = {**_LM, "intermediate_size": 48, "num_key_value_heads": 2}
_TOKENS = torch.arange(8)[None] % 96


@dataclass(frozen=True)
class Tiny:
    build: Callable[[], nn.Module]
    inputs: dict[str, torch.Tensor]
    one_layer: str
    """A module that hand-written plans put on disk."""
    options: tuple[tuple[str, object], ...] = ()
    """How `save_pretrained` writes it so that its tensors are stored as the model has them."""


def _tokens(**more):
    return {"input_ids": _TOKENS, **more}


TINY = {
    "llama": Tiny(
        lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**_GATED)), _tokens(), "model.layers.1"
    ),
    "qwen2": Tiny(
        lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**_GATED, tie_word_embeddings=True)),
        _tokens(),
        "model.layers.1",
    ),
    "gemma2": Tiny(
        lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**_GATED, head_dim=8)), _tokens(), "model.layers.1"
    ),
    "gpt2": Tiny(
        lambda: hf.GPT2LMHeadModel(
            hf.GPT2Config(vocab_size=96, n_embd=32, n_layer=3, n_head=4, n_positions=64)
        ),
        _tokens(),
        "transformer.h.1",
    ),
    "opt": Tiny(
        lambda: hf.OPTForCausalLM(hf.OPTConfig(**_LM, ffn_dim=48, word_embed_proj_dim=32)),
        _tokens(),
        "model.decoder.layers.1",
    ),
    "bloom": Tiny(
        lambda: hf.BloomForCausalLM(hf.BloomConfig(vocab_size=96, hidden_size=32, n_layer=3, n_head=4)),
        _tokens(),
        "transformer.h.1",
    ),
    "bert": Tiny(
        lambda: hf.BertForMaskedLM(hf.BertConfig(**_LM, intermediate_size=48)),
        _tokens(),
        "bert.encoder.layer.1",
    ),
    "t5": Tiny(
        lambda: hf.T5ForConditionalGeneration(
            hf.T5Config(vocab_size=96, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
        ),
        _tokens(decoder_input_ids=_TOKENS),
        "decoder.block.1",
    ),
    "whisper": Tiny(
        lambda: hf.WhisperForConditionalGeneration(
            hf.WhisperConfig(
                vocab_size=96, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
                decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, num_mel_bins=8,
                max_source_positions=16, max_target_positions=32, pad_token_id=0, bos_token_id=1,
                eos_token_id=2, decoder_start_token_id=1,
            )
        ),
        {"input_features": torch.linspace(-1, 1, 256).view(1, 8, 32), "decoder_input_ids": _TOKENS},
        "model.encoder.layers.1",
    ),
    "mamba": Tiny(
        lambda: hf.MambaForCausalLM(
            hf.MambaConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2, state_size=4)
        ),
        _tokens(),
        "backbone.layers.1",
    ),
    "vit": Tiny(
        lambda: hf.ViTForImageClassification(
            hf.ViTConfig(
                hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
                image_size=16, patch_size=4,
            )
        ),
        {"pixel_values": torch.linspace(-1, 1, 768).view(1, 3, 16, 16)},
        "vit.layers.1",
    ),
    "mixtral": Tiny(
        lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**_GATED, num_local_experts=4)),
        _tokens(),
        "model.layers.1",
        (("save_original_format", False),),
    ),
    "falcon": Tiny(
        lambda: hf.FalconForCausalLM(hf.FalconConfig(**_LM)), _tokens(), "transformer.h.1"
    ),
}  # fmt: skip


_EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
_LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}
_MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8}
STORED_OTHERWISE = {
    "a renamed head": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**_LM, intermediate_size=48)),
    "buffers the model writes into its layers": lambda: hf.FalconH1ForCausalLM(
        hf.FalconH1Config(**_GATED, **_MAMBA, head_dim=8, mamba_expand=1)
    ),
    "transposed experts of the same name": lambda: hf.Qwen3VLMoeTextModel(
        hf.Qwen3VLMoeTextConfig(**_GATED, **_EXPERTS, head_dim=8, num_experts=4)
    ),
    "single experts and a dense layer": lambda: hf.DeepseekV3ForCausalLM(
        hf.DeepseekV3Config(
            **{**_GATED, "num_key_value_heads": 4}, **_EXPERTS, **_LATENT, v_head_dim=8, n_routed_experts=4,
            n_group=1, topk_group=1, first_k_dense_replace=1,
        )
    ),
    "single experts of the same block under another name": lambda: hf.PhimoeForCausalLM(
        hf.PhimoeConfig(**_GATED, num_local_experts=4)
    ),
    "a backbone and projections under other names": lambda: hf.ConditionalDetrModel(
        hf.ConditionalDetrConfig(
            d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=32, decoder_ffn_dim=32, use_timm_backbone=False,
            backbone_config=hf.ResNetConfig(
                embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, layer_type="basic",
                out_features=["stage4"],
            ),
        )
    ),
    "convolutions with a weight norm and sizes in buffers": lambda: hf.EncodecModel(
        hf.EncodecConfig(
            num_filters=4, hidden_size=16, codebook_dim=16, codebook_size=16, num_lstm_layers=1,
            upsampling_ratios=[2, 2], target_bandwidths=[24.0],
        )
    ),
}  # fmt: skip
"""Models whose checkpoints have other names or shapes than they, by what is different."""


def save(tiny: Tiny, folder: Path, **options) -> nn.Module:
    """Save a random model; returns it."""
    torch.manual_seed(0)
    model = tiny.build().eval()
    model.save_pretrained(folder, **options)
    return model


def on_meta(tiny: Tiny) -> nn.Module:
    with torch.device("meta"):
        return tiny.build().eval()


def output(model: nn.Module, tiny: Tiny) -> torch.Tensor:
    with torch.no_grad():
        return model(**tiny.inputs).logits


def plan(*units: Unit, digest: str | None = None) -> Plan:
    return Plan(Model("tiny", digest), DEVICES, units=units)


def tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]
