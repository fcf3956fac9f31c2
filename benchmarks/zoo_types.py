"""Which class of transformers to build for a type of model, and what its default config leaves open."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import transformers

FACTORIES = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForImageTextToText", "AutoModel")

ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
ROPES = {"full_attention": ROPE, "sliding_attention": ROPE}
HALF = {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.5, "mrope_section": [8, 12, 12]}}
HEADS = {"head_dim": 128}
DENSE = {"mlp_layer_types": ["dense"] * 64}
EXPERTS = {"num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 704}
SETTINGS: dict[str, dict[str, object]] = {
    "autoformer": {"prediction_length": 24},
    "aya_vision": {"vision_config": {"model_type": "siglip_vision_model", "num_attention_heads": 12}},
    "blip-2": {"image_token_index": 50_000},
    "chameleon": {"vocabulary_map": {"<image>": 4}},
    "cohere_compass": {"text_config": {"model_type": "cohere_compass_text", "rope_parameters": ROPES}},
    "cohere_compass_text": {"rope_parameters": ROPES},
    "dbrx": {"attn_config": {"rope_theta": 10_000.0, "clip_qkv": 8.0}},
    "deepseek_ocr2": {"text_config": {"model_type": "deepseek_ocr2_text", **DENSE}},
    "deepseek_ocr2_text": DENSE,
    "deepseek_v2": {"num_experts_per_tok": 2},
    "diffusion_gemma": {"text_config": {"model_type": "diffusion_gemma_text", **EXPERTS}},
    "diffusion_gemma_text": EXPERTS,
    "dots1": {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    "glm46v": {"text_config": {"model_type": "glm4v_text", **HALF}},
    "glm4v": {"text_config": {"model_type": "glm4v_text", **HALF}},
    "glm4v_moe": {"text_config": {"model_type": "glm4v_moe_text", **HALF, **HEADS}},
    "glm4v_moe_text": {**HALF, **HEADS},
    "glm4v_text": HALF,
    "glm_image": {"text_config": {"model_type": "glm_image_text", **HALF}},
    "glm_image_text": HALF,
    "glmga": {"text_config": {"model_type": "glm4v_text", **HALF}},
    "granite4_vision": {"deepstack_layer_map": [], "downsample_rate": "1/2"},
    "hunyuan_v1_dense": HEADS,
    "hunyuan_v1_moe": HEADS,
    "hunyuan_vl": {"text_config": {"model_type": "hunyuan_vl_text", **HEADS}},
    "hunyuan_vl_text": HEADS,
    "informer": {"prediction_length": 24},
    "instructblip": {"image_token_index": 30_000},
    "instructblipvideo": {"video_token_index": 30_000},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 16},
    "ministral": HEADS,
    "moonshine_streaming": {"num_key_value_heads": 8},
    "qwen3_omni_moe_talker_text": {"shared_expert_intermediate_size": 768},
    "t5gemma2_decoder": {"dropout_rate": 0.0},
    "t5gemma2_text": {"dropout_rate": 0.0},
    "time_series_transformer": {"prediction_length": 24},
    "xmod": {"default_language": "en_XX"},
}
"""Values for fields without which the default config of a type makes no model or no forward."""


def classes_for(config: transformers.PreTrainedConfig) -> Iterator[type[transformers.PreTrainedModel]]:
    """Yield the classes for a config: those the factories know, then those of its module."""
    for mapping in (getattr(transformers, factory)._model_mapping for factory in FACTORIES):  # noqa: SLF001
        if type(config) in mapping:
            known = mapping[type(config)]
            yield from known if isinstance(known, tuple | list) else (known,)
    name = type(config).__module__.replace(".configuration_", ".modeling_")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError:
        return
    for kind in vars(module).values():
        if (
            isinstance(kind, type)
            and issubclass(kind, transformers.PreTrainedModel)
            and kind.config_class is type(config)
            and "forward" in vars(kind)
        ):
            yield kind
