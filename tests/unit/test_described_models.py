"""Classes that are planned from a table give the plans that building them gives, to the byte."""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest

pytest.importorskip("transformers")

from compile_plan.backends import encode
from compile_plan.compiler import compile_plan
from compile_plan.compiler.driver import facts, inputs
from compile_plan.compiler.sources.described_models import described_model, table_version

pytestmark = pytest.mark.skipif(
    version("transformers") != table_version(), reason="the table is of another transformers"
)
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
    "transformers_version": "4.40.0",
}
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
    "vocab_size": 320,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
TYPES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "GemmaForCausalLM": "gemma",
    "Gemma2ForCausalLM": "gemma2",
    "MixtralForCausalLM": "mixtral",
    "Olmo2ForCausalLM": "olmo2",
    "Qwen3MoeForCausalLM": "qwen3_moe",
}
CLASSES = {name: {"architectures": [name], "model_type": kind, **SMALL} for name, kind in TYPES.items()}


def folder_of(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def both(folder, monkeypatch, **options):
    """Return the plan from the table, and the plan of the model that is built."""
    monkeypatch.setenv("COMPILE_PLAN_NO_CACHE", "1")
    assert facts.described_facts(folder / "config.json") is not None
    told = encode(compile_plan(folder, **options), "msgpack")
    with monkeypatch.context() as patched:
        patched.setattr(inputs, "described_facts", lambda *_: None)
        return told, encode(compile_plan(folder, **options), "msgpack")


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize(
    "said", [{"torch_dtype": "bfloat16"}, {"tie_word_embeddings": True}, {"torch_dtype": "float16"}], ids=str
)
def test_a_class_from_the_table_is_the_class_that_is_built(tmp_path, monkeypatch, name, said):
    folder = folder_of(tmp_path, {**CLASSES[name], **said})
    told, built = both(folder, monkeypatch, max_memory={0: "80KiB", 1: "100KiB", "cpu": "1GiB"})
    assert told == built


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("said", [{}, {"architectures": None}, {"architectures": []}], ids=str)
def test_a_configuration_that_names_no_class_is_of_the_one_with_a_head(tmp_path, monkeypatch, name, said):
    config = {key: value for key, value in CLASSES[name].items() if key != "architectures"}
    folder = folder_of(tmp_path, config | said)
    told, built = both(folder, monkeypatch, max_memory={0: "80KiB", "cpu": "1GiB"})
    assert told == built


LARGE = {"hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 16, "num_key_value_heads": 4}
WINDOWS = {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 2, "num_hidden_layers": 6}
GIBIBYTES = {
    "llama": LLAMA,
    "qwen2": {**CLASSES["Qwen2ForCausalLM"], **LARGE, **WINDOWS, "vocab_size": 151936},
    "gemma2": {**CLASSES["Gemma2ForCausalLM"], **LARGE, "head_dim": 128, "vocab_size": 256000},
    "qwen3_moe": {
        **CLASSES["Qwen3MoeForCausalLM"],
        **LARGE,
        "head_dim": 64,
        "num_experts": 16,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 768,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "output_router_logits": False,
    },
    "mixtral": {**CLASSES["MixtralForCausalLM"], **LARGE, "num_local_experts": 8, "num_experts_per_tok": 2},
}


@pytest.mark.parametrize("kind", GIBIBYTES)
def test_a_model_of_gibibytes_has_room_for_its_first_tokens_all_the_same(tmp_path, monkeypatch, kind):
    told, built = both(
        folder_of(tmp_path, GIBIBYTES[kind]), monkeypatch, max_memory={0: "24GiB", "cpu": "64GiB"}
    )
    assert told == built


def test_a_size_has_the_names_its_configuration_reads(tmp_path, monkeypatch):
    config = {"num_local_experts" if k == "num_experts" else k: v for k, v in GIBIBYTES["qwen3_moe"].items()}
    told, built = both(folder_of(tmp_path, config), monkeypatch, max_memory={0: "24GiB", "cpu": "64GiB"})
    assert told == built
    assert described_model(config | {"num_experts": 8}) is None  # which of the two counts?


def test_what_needs_the_forward_builds_the_model(tmp_path, monkeypatch):
    folder = folder_of(tmp_path, CLASSES["LlamaForCausalLM"])
    told, built = both(folder, monkeypatch, max_memory={0: "1MiB", "cpu": "1GiB"}, prompt=16, generate=4)
    assert told == built


@pytest.mark.parametrize(
    "said",
    [
        {"attention_bias": True},
        {"a_word_of_tomorrow": 1},
        {"hidden_size": 0},
        {"hidden_size": "64"},
        {"hidden_size": True},
        {"num_attention_heads": 7},
        {"rope_scaling": {"rope_type": "longrope", "long_factor": [1.0]}},
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        {"layer_types": ["linear_attention"]},
        {"quantization_config": {"quant_method": "gptq"}},
        {"auto_map": {"AutoConfig": "code.Config"}},
        {"torch_dtype": "float64"},
        {"model_type": "mistral"},
        {"architectures": ["LlamaForSequenceClassification"]},
        {"tie_word_embeddings": "yes"},
        {"num_hidden_layers": 10**9},
        {"layer_types": [["full_attention"]]},
        {"rope_scaling": {"rope_type": ["linear"]}},
        {"torch_dtype": ["bfloat16"]},
    ],
    ids=str,
)
def test_what_the_table_was_not_tried_with_is_built(said):
    config = CLASSES["LlamaForCausalLM"]
    assert described_model(config) is not None
    assert described_model({**config, **said}) is None


def test_a_head_of_its_own_counts_where_the_class_heeds_it(tmp_path, monkeypatch):
    config = CLASSES["Qwen2ForCausalLM"] | {"head_dim": 32}
    told, built = both(folder_of(tmp_path, config), monkeypatch, max_memory={0: "80KiB", "cpu": "1GiB"})
    assert told == built
    assert described_model(config | {"head_dim": None}) is None
    assert described_model(config | {"mlp_only_layers": [1]}) is None


def test_another_transformers_is_asked_itself(tmp_path, monkeypatch):
    folder = folder_of(tmp_path, LLAMA)
    monkeypatch.setattr(facts, "version", lambda _: "99.1")
    assert facts.described_facts(folder / "config.json") is None


def test_the_first_command_opens_neither_library(tmp_path):
    code = (
        "import sys; from compile_plan.compiler.cli.command import main; code = main(sys.argv[1:]);"
        "print({'torch', 'transformers'} & set(sys.modules), code, file=sys.stderr)"
    )
    folder = str(folder_of(tmp_path, LLAMA))
    arguments = [folder, "--memory", "cuda:0=24GiB,cpu=64GiB", "-q", "-o", "-"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == "set() 0"
    assert "place" in done.stdout
