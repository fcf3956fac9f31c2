"""The KV cache of a checkpoint: exactly what the traced model keeps, layer by layer."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from checkpoints import llama_tensors, write_shards
from compile_plan.compiler import compile_plan
from compile_plan.compiler.sources.checkpoint import read_checkpoint
from compile_plan.compiler.sources.config_cache import cache_of_config
from compile_plan.compiler.sources.live import lower_model
from compile_plan.compiler.sources.named_tensors import NamedTensor, tree_of_tensors
from compile_plan.compiler.tracing import cache_demands, traced_plan, try_moments
from compile_plan.ir import Diagnostics, Model, Plan

BASE = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 96,
}
GPT = {"n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": 96}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}
LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
}
MODELS = {
    "llama": BASE,
    "qwen3": {**BASE, "head_dim": 32},
    "mistral": {**BASE, "sliding_window": 16},
    "qwen2": {**BASE, "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2},
    "gemma2": {**BASE, "head_dim": 32, "sliding_window": 16},
    "cohere2": {**BASE, "sliding_window": 1},
    "gpt2": {**GPT, "bos_token_id": 1, "eos_token_id": 1},
    "gpt_bigcode": {**GPT, "multi_query": True, "bos_token_id": 1, "eos_token_id": 1},
    "falcon": BASE,
    "bloom": {"hidden_size": 64, "n_layer": 3, "n_head": 4, "vocab_size": 96},
    "phi3": {**BASE, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1},
    "deepseek_v3": {**BASE, **LATENT, "num_key_value_heads": 4},
    "mamba": {"hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 96, "state_size": 8},
    "bamba": {**BASE, **MAMBA, "attn_layer_indices": [1], "mamba_chunk_size": 8},
    "falcon_h1": {**BASE, **MAMBA, "head_dim": 16, "mamba_d_ssm": 128, "mamba_chunk_size": 8},
    "lfm2": {**BASE, "layer_types": ["conv", "full_attention"] * 2},
    "persimmon": BASE,
    "jetmoe": {**BASE, "kv_channels": 16, "num_local_experts": 4},
    "glm_moe_dsa": {
        **BASE, **LATENT, "num_key_value_heads": 4, "index_head_dim": 16, "index_n_heads": 2,
        "pad_token_id": 0,
    },
    "gemma4_text": {
        **BASE, "num_hidden_layers": 6, "head_dim": 16, "global_head_dim": 32, "sliding_window": 16,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
        "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 96, "num_kv_shared_layers": 2,
    },
    "bart": {
        "d_model": 64, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 96,
    },
}  # fmt: skip


def weightless(kind):
    config = transformers.AutoConfig.for_model(kind, **MODELS[kind])
    with torch.device("meta"):
        factory = "AutoModelForSeq2SeqLM" if config.is_encoder_decoder else "AutoModelForCausalLM"
        model = getattr(transformers, factory).from_config(config, dtype=torch.bfloat16)
    model.config.architectures = [type(model).__name__]
    return model


@pytest.mark.parametrize("tokens", [8, 64])
@pytest.mark.parametrize("kind", MODELS)
def test_each_module_keeps_what_the_trace_saw(kind, tokens):
    if kind == "glm_moe_dsa" and transformers.__version__.startswith("5.17"):
        pytest.skip("before 5.18 transformers keeps the keys of every head")
    model = weightless(kind)
    tree = lower_model(model)
    lowered = Plan(model=Model(kind, tree.digest), tree=tree)
    traced = traced_plan(lowered, model, None, Diagnostics(), batch=2, cache_tokens=tokens)[0]
    seen = {demand.path: demand.nbytes for demand in traced.demands if demand.purpose == "kv cache"}
    told = cache_of_config(json.loads(model.config.to_json_string()), tree, tokens, batch=2)
    assert {demand.path: demand.nbytes for demand in told} == seen
    assert seen


@pytest.mark.parametrize(("prompt", "total"), [(8, 64), (48, 64), (16, 20)])
@pytest.mark.parametrize("kind", ["mistral", "qwen2", "gemma2", "gemma4_text", "llama"])
def test_a_window_holds_on_to_the_whole_prompt_until_the_next_token(kind, prompt, total):
    model = weightless(kind)
    found = try_moments(model, None, Diagnostics(), batch=2, seq=prompt, total=total)
    seen = {demand.path: demand.nbytes for demand in cache_demands(found.main, found.cache_nbytes)}
    config = json.loads(model.config.to_json_string())
    told = cache_of_config(config, lower_model(model), total, batch=2, read=prompt)
    assert {demand.path: demand.nbytes for demand in told} == seen


def named(*paths, shape=(8, 8), dtype="bfloat16"):
    return [NamedTensor(path, dtype, shape, 2 * shape[0] * shape[1]) for path in paths]


def hybrid(layers, every):
    """Return names as a model has them that attends in every fourth layer."""
    tensors = named("model.embed_tokens.weight")
    for layer in range(layers):
        if (layer + 1) % every == 0:
            attention = f"model.layers.{layer}.self_attn"
            tensors += named(f"{attention}.q_proj.weight")
            tensors += named(f"{attention}.k_proj.weight", f"{attention}.v_proj.weight", shape=(1024, 64))
        else:
            tensors += named(f"model.layers.{layer}.linear_attn.conv1d.weight", shape=(64, 4))
            tensors += named(f"model.layers.{layer}.linear_attn.A_log", shape=(4, 1))
    return tree_of_tensors(tensors)[0]


def test_a_hybrid_of_64_layers_pays_for_the_16_that_attend():
    config = {"num_hidden_layers": 64, "dtype": "bfloat16"}
    tree = hybrid(64, 4)
    longer, shorter = (sum(d.nbytes for d in cache_of_config(config, tree, n, 1)) for n in (1001, 1000))
    assert longer - shorter == 65_536
    attending = [d.path for d in cache_of_config(config, tree, 1, 1) if d.path.endswith("self_attn")]
    assert attending == [f"model.layers.{layer}.self_attn" for layer in range(3, 64, 4)]


def attention(layer, prefix="model"):
    return named(*(f"{prefix}.layers.{layer}.self_attn.{name}_proj.weight" for name in "qkv"))


def demands(tensors, config, tokens=10):
    tree, _ = tree_of_tensors(tensors)
    return {demand.path: demand.nbytes for demand in cache_of_config(config, tree, tokens, 1)}


def test_layers_beyond_those_the_model_runs_keep_nothing():
    tensors = [*attention(0), *attention(1), *attention(2)]
    assert list(demands(tensors, {"num_hidden_layers": 2})) == [
        f"model.layers.{layer}.self_attn" for layer in (0, 1)
    ]


def test_layers_that_share_the_cache_of_others_keep_nothing():
    config = {"num_hidden_layers": 2, "num_kv_shared_layers": 1}
    assert list(demands([*attention(0), *attention(1)], config)) == ["model.layers.0.self_attn"]


def test_a_checkpoint_has_no_keys_of_layers_that_read_those_of_others():
    own = [name for layer in range(3) for name in attention(layer)]
    reading = ["model.layers.3.self_attn.q_proj.weight", "model.layers.3.self_attn.o_proj.weight"]
    config = {"num_hidden_layers": 4, "num_kv_shared_layers": 1, "num_attention_heads": 4, "hidden_size": 8}
    assert len(demands([*own, *named(*reading)], config)) == 3


def test_towers_for_pictures_keep_nothing():
    tensors = [*attention(0), *attention(1)]
    tensors += [tensor for layer in range(5) for tensor in attention(layer, "vision_tower.encoder")]
    config = {"text_config": {"num_hidden_layers": 2}}
    assert list(demands(tensors, config)) == [f"model.layers.{layer}.self_attn" for layer in (0, 1)]


def test_packed_projections_are_counted_by_the_configuration():
    names = [f"model.layers.{i}.self_attn.{name}_proj.qweight" for i in range(2) for name in "qkv"]
    config = {"num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 64, "torch_dtype": "float16"}
    found = demands(named(*names, shape=(1, 64), dtype="int32"), config)
    assert list(found.values()) == [2 * 2 * 8 * 10 * 2] * 2


def test_quantised_weights_do_not_tell_the_width():
    tensors = [tensor._replace(dtype="float8_e4m3fn", nbytes=64) for tensor in attention(0) + attention(1)]
    assert set(demands(tensors, {"torch_dtype": "bfloat16"}).values()) == {(8 + 8) * 10 * 2}


def test_a_checkpoint_demands_its_cache(tmp_path):
    tensors = {
        f"model.layers.{i}.self_attn.{n}_proj.weight": ("BF16", (8, 8)) for i in range(2) for n in "qkv"
    }
    folder = write_shards(tmp_path / "model", tensors, 1)
    (folder / "config.json").write_text(json.dumps({"num_hidden_layers": 2}))
    plan, _ = read_checkpoint(folder, Diagnostics(), cache_tokens=100, batch=3)
    assert [demand.nbytes for demand in plan.demands] == [16 * 100 * 3 * 2] * 2
    assert not read_checkpoint(folder, Diagnostics())[0].demands


def test_an_unknown_cache_is_a_warning(tmp_path):
    folder = write_shards(tmp_path / "mlp", {"fc.weight": ("F32", (4, 4))}, 1)
    diagnostics = Diagnostics()
    plan, _ = read_checkpoint(folder, diagnostics, cache_tokens=100)
    assert [finding.code for finding in diagnostics] == ["unknown-cache"]
    assert not plan.demands


@pytest.mark.parametrize(("rows", "kept"), [(64, 64 * 10 * 2), (32, None), (96, None)])
def test_keys_and_values_of_one_projection_are_told_where_heads_say_that_it_is_both(rows, kept):
    tensors = named("model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.o_proj.weight")
    tensors += named("model.layers.0.self_attn.kv_proj.weight", shape=(rows, 8))
    config = {"num_hidden_layers": 1, "num_key_value_heads": 2, "head_dim": 16}
    assert demands(tensors, config) == ({} if kept is None else {"model.layers.0.self_attn": kept})


TWO = {"num_hidden_layers": 2}


def crossing(layers, name="encoder_attn"):
    """Return a decoder that attends to itself and to an encoder."""
    inside = [(layer, inner) for layer in range(layers) for inner in ("self_attn", name)]
    paths = [f"decoder.layers.{layer}.{inner}.{n}_proj.weight" for layer, inner in inside for n in "qkv"]
    return named(*paths)


@pytest.mark.parametrize(
    ("architecture", "reads", "kept"),
    [
        ("BartForConditionalGeneration", True, ["self_attn", "encoder_attn"]),
        ("BartForCausalLM", True, ["self_attn"]),
        ("MllamaForConditionalGeneration", False, ["self_attn"]),
    ],
)
def test_attention_to_an_encoder_counts_where_there_is_one(architecture, reads, kept):
    config = TWO | {"architectures": [architecture], "is_encoder_decoder": reads, "sliding_window": 4}
    found = demands(crossing(2), config)
    assert set(found) == {f"decoder.layers.{layer}.{name}" for layer in (0, 1) for name in kept}
    assert {path: n for path, n in found.items() if "encoder" in path} == {
        f"decoder.layers.{layer}.encoder_attn": 2 * 8 * 10 * 2 for layer in (0, 1) if len(kept) > 1
    }


def weights(*paths):
    return named(*(f"{path}.weight" for path in paths))


@pytest.mark.parametrize(
    ("tensors", "config"),
    [
        ([*attention(0), *weights("model.layers.1.mixer.rg_lru.gate", "model.layers.1.mixer.out")], TWO),
        ([*attention(1), *weights("model.layers.0.mixer.conv1d", "model.layers.0.mixer.out")], TWO),
        ([*attention(0), *attention(1), *weights("model.layers.1.self_attn.k_sconv.conv1d")], TWO),
        ([*attention(0), *attention(1), *weights("model.layers.1.self_attn.igate_preact")], TWO),
        ([*attention(0), *attention(1)], TWO | {"model_type": "openai-gpt"}),
        ([*attention(0), *attention(1)], TWO | {"H_cycles": 2}),
        ([*attention(0), *attention(1)], TWO | {"ngram": 2}),
        ([*attention(0), *attention(1)], TWO | {"is_encoder_decoder": True}),
        ([*attention(0), *attention(1), *attention(0, "other"), *attention(1, "other")], TWO),
    ],
    ids=[
        "gates",
        "convolution",
        "convolution-inside",
        "mlstm",
        "gpt1",
        "loops",
        "streams",
        "merged",
        "two-stacks",
    ],
)
def test_what_only_code_tells_is_not_guessed(tensors, config):
    assert demands(tensors, config) == {}


PACKED = [f"model.layers.{i}.self_attn.{name}_proj.qweight" for i in range(2) for name in "qkv"]
OWN_HEADS = {
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "hidden_size": 64, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 64,
}  # fmt: skip


@pytest.mark.parametrize(
    ("said", "first", "second"),
    [
        ({"per_layer_config": {"01": {"head_dim": 16}}}, 2 * 16, 2 * 32),
        ({"per_layer_config": {"1": {"num_key_value_heads": 1}}}, 2 * 16, 16),
        ({"global_head_dim": 16, "attention_k_eq_v": False, "num_global_key_value_heads": 1}, 2 * 16, 2 * 32),
        ({"global_head_dim": 16, "num_global_key_value_heads": 1}, 2 * 16, 32),
        ({"swa_head_dim": 4, "swa_num_key_value_heads": 4}, 4 * 8, 2 * 16),
        ({"v_head_dim": 4}, 2 * 12, 2 * 12),
        ({"model_type": "mimo_v2_flash"}, 4 * 16, 2 * 16),
    ],
)
def test_packed_layers_may_have_heads_of_their_own(said, first, second):
    found = demands(named(*PACKED, shape=(1, 64), dtype="int32"), {**OWN_HEADS, **said})
    assert list(found.values()) == [first * 10 * 2 + 8, second * 10 * 2]


def test_single_layers_may_see_a_window_of_their_own():
    config = TWO | {"per_layer_config": {"0": {"sliding_window": 5}}, "sliding_window": None}
    first, second = demands([*attention(0), *attention(1)], config).values()
    assert (first, second) == (16 * 4 * 2 + 8, 16 * 10 * 2)


def test_a_part_that_keeps_what_it_heard_makes_the_cache_unknown():
    audio = {"use_cache": True, "sliding_window": 750}
    assert demands([*attention(0), *attention(1)], {"text_config": TWO, "audio_config": audio}) == {}


def test_layers_said_to_be_without_attention_keep_nothing():
    tensors = [*attention(0), *attention(2), *weights("model.layers.1.mixer.up_proj")]
    config = {"num_hidden_layers": 3, "layers_block_type": ["attention", "mlp", "attention"]}
    assert len(demands(tensors, config)) == 2
    assert demands(tensors, {"num_hidden_layers": 3}) == {}


def test_a_window_of_another_name_and_kind_counts():
    config = TWO | {"layer_types": ["hybrid_sliding", "hybrid"], "sliding_window_size": 5}
    first, second = demands([*attention(0), *attention(1)], config).values()
    assert (first, second) == (16 * 4 * 2 + 8, 16 * 10 * 2)


def test_a_linear_layer_keeps_a_matrix_of_every_head_wherever_its_decay_is():
    tensors = [*attention(0), *weights("model.layers.0.self_attn.conv1d")]
    tensors += named("model.layers.0.self_attn.forget_gate.A_log")
    config = {"num_hidden_layers": 1, "linear_num_heads": 4, "linear_head_dim": 16, "dtype": "bfloat16"}
    assert list(demands([*tensors, *attention(1)], config).values()) == [8 * 8 * 2 + 4 * 16 * 16 * 4]


def test_a_decoder_keeps_as_much_of_a_sound_as_the_encoder_always_reads(tmp_path):
    sizes = dict.fromkeys(("encoder_layers", "decoder_layers", "encoder_attention_heads"), 2)
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = transformers.WhisperConfig(
        **sizes, **ends, decoder_attention_heads=2, d_model=32, encoder_ffn_dim=32, decoder_ffn_dim=32,
        vocab_size=64,
    )  # fmt: skip
    transformers.WhisperForConditionalGeneration(config).save_pretrained(tmp_path)
    plan = compile_plan(tmp_path, max_memory={"cpu": "1GiB"}, rows=2, prompt=20, generate=11)
    assert plan.ledger[0].kv_cache == 2 * 2 * 2 * 32 * (12 + config.max_source_positions) * 4


@pytest.mark.parametrize(
    "said", [{"model_type": []}, {"model_type": {"a": 1}}, {"num_experts_per_tok": 10**30}]
)
def test_what_is_no_type_and_no_number_is_as_if_it_were_not_said(tmp_path, said):
    config = {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_attention_heads": 2,
        **said,
    }
    folder = write_shards(tmp_path / "m", llama_tensors(2), 1, config=config)
    plan = compile_plan(folder, max_memory={"cpu": "1GiB"}, prompt=8, generate=8)
    assert 0 < plan.ledger[0].activations < 1 << 30
