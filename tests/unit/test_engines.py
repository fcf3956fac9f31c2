"""Each engine is told what the plan says, or the plan is refused with the numbers."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from compile_plan.backends.engines import ENGINES
from compile_plan.grammar import parse
from compile_plan.ir import Account, PlanError, Severity, unit_of_tensors

HEAD = 'plan 1\nmodel "tiny"\n'
DEVICES = "device cuda:0 memory 24GiB\ndevice cuda:1 memory 12GiB\ndevice cpu memory 64GiB\n"
LLAMA = "".join(
    [
        "module model.embed_tokens : Embedding 1GiB\n",
        "module model.layers.{0..7} : LlamaDecoderLayer\n",
        *(f"module model.layers.{{0..7}}.{part} : Linear 1GiB\n" for part in ("self_attn", "mlp")),
        "module model.norm : Norm 1KiB\nmodule lm_head : Linear 1GiB\n",
    ]
)
MIXTURE = "".join(
    [
        "module token_embd : Embedding 1GiB\nmodule output : Linear 1GiB\nmodule output_norm : Norm 1KiB\n",
        "module blk.{0..7} : Block\n",
        *(
            f"module blk.{{0..7}}.{part} : Linear 256MiB\n"
            for part in ("attn_q", "ffn_up_exps", "ffn_gate_exps", "ffn_down_exps")
        ),
    ]
)
ORDINARY = (
    "place model.embed_tokens on cuda:0\nplace model.layers.{0..4} on cuda:0\n"
    "place model.layers.{5..7} on cuda:1\nplace model.norm on cuda:1\nplace lm_head on cuda:1\n"
)


VLLM = "vllm serve MODEL"
SGLANG = "python -m sglang.launch_server --model-path MODEL"
LAYERED = sorted(ENGINES.keys() - {"diffusers"})
"""Engines that load one model; diffusers puts pipelines together."""


def plan_of(table, places, devices=DEVICES):
    return parse(HEAD + devices + table + places)


def told(engine, plan):
    assert [d.message for d in ENGINES[engine].accepts(plan) if d.rule.severity is Severity.ERROR] == []
    return ENGINES[engine].emit(plan)


def codes(engine, plan):
    return [diagnostic.rule.code for diagnostic in ENGINES[engine].accepts(plan)]


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        (
            "vllm",
            f"CUDA_VISIBLE_DEVICES=0,1 VLLM_PP_LAYER_PARTITION=5,3 {VLLM} --pipeline-parallel-size 2\n",
        ),
        (
            "sglang",
            f"CUDA_VISIBLE_DEVICES=0,1 SGLANG_PP_LAYER_PARTITION=5,3 {SGLANG} --pp-size 2\n",
        ),
        ("mlx-lm", "model.pipeline(group, split=[3, 5])\n"),
        ("llama.cpp", "llama-server -m MODEL.gguf -ngl 9 --device CUDA0,CUDA1 -ts 5,4 --fit off\n"),
    ],
)
def test_whole_layers_in_order_are_counted(engine, expected):
    assert told(engine, plan_of(LLAMA, ORDINARY)) == expected


GOLDEN = Path(__file__).parent.parent / "golden" / "engines"


@pytest.mark.parametrize("engine", LAYERED)
def test_the_fixture_of_each_engine(engine):
    assert told(engine, plan_of(LLAMA, ORDINARY)) == (GOLDEN / f"{engine}.txt").read_text()


def layers_told(engine, text):
    """Return how many layers each rank has, as the text says it; None where it says budgets alone."""
    if engine == "llama.cpp":
        found = re.search(r"-ts (\S+)", text) or re.search(r"-ngl (\d+)", text)
        *first, last = map(int, found[1].split(","))
        return [*first, last - 1]
    if engine in {"vllm", "sglang"}:
        return [int(part) for part in re.search(r"PARTITION=(\S+)", text)[1].split(",")]
    if engine == "mlx-lm":
        return json.loads(text[text.index("[") : text.index("]") + 1])[::-1]
    if engine in {"torchtitan", "nemo"}:
        stages = json.loads(text)["module_fqns_per_model_part"]
        return [sum("layers." in module for module in stage) for stage in stages]
    if engine == "transformers":
        devices = json.loads(text[text.index("{") : text.rindex("}") + 1])
        owner = [devices.get(f"model.layers.{i}", devices.get("model", devices.get(""))) for i in range(8)]
        return [owner.count(card) for card in dict.fromkeys(owner)]
    return None


@pytest.mark.parametrize("engine", LAYERED)
@pytest.mark.parametrize("first", [1, 4, 7, 8])
def test_each_engine_is_told_as_many_layers_a_card_as_the_plan_has(engine, first):
    places = f"place . on cuda:0\nplace model.layers.{{{first}..7}} on cuda:1\n" if first < 8 else ""
    ends = "place model.norm on cuda:1\nplace lm_head on cuda:1\n" if places else "place . on cuda:0\n"
    text = told(engine, plan_of(LLAMA, places + ends))
    counts = [first, 8 - first] if places else [8]
    assert layers_told(engine, text) in (counts, None)
    if ENGINES[engine].read is not None:
        plan = replace(plan_of(LLAMA, ""), units=())
        again = ENGINES[engine].read(text.partition("MODEL.gguf ")[2], plan)
        assert told(engine, again) == text


@pytest.mark.parametrize(
    ("engine", "embedding", "layer", "rest"),
    [
        ("torchtitan", "tok_embeddings", "layers.", ["norm", "lm_head"]),
        ("nemo", "model.embed_tokens", "model.layers.", ["model.norm", "lm_head"]),
    ],
)
def test_stages_list_every_module_once_and_the_rotary_embedding_everywhere(engine, embedding, layer, rest):
    stages = json.loads(told(engine, plan_of(LLAMA, ORDINARY)))["module_fqns_per_model_part"]
    rotary = f"{layer.removesuffix('layers.')}rotary_emb"
    assert stages == [
        [embedding, *(f"{layer}{i}" for i in range(5)), rotary],
        [*(f"{layer}{i}" for i in range(5, 8)), *rest, rotary],
    ]


def test_a_model_of_torchtitans_own_keeps_its_names():
    table = LLAMA.replace("model.embed_tokens", "tok_embeddings").replace("model.", "")
    places = ORDINARY.replace("model.embed_tokens", "tok_embeddings").replace("model.", "")
    first, _ = json.loads(told("torchtitan", plan_of(table, places)))["module_fqns_per_model_part"]
    assert first == ["tok_embeddings", *(f"layers.{i}" for i in range(5))]


def test_the_first_layers_stay_with_the_host_in_llama_cpp():
    plan = plan_of(
        LLAMA,
        "place model.embed_tokens on cpu\nplace model.layers.{0..2} on cpu\n"
        "place model.layers.{3..7} on cuda:0\nplace model.norm on cuda:0\nplace lm_head on cuda:0\n",
    )
    assert told("llama.cpp", plan) == "llama-server -m MODEL.gguf -ngl 6 --device CUDA0 --fit off\n"
    assert ENGINES["llama.cpp"].accepts(plan) == ()
    assert codes("vllm", plan) == ["engine-cannot"]


def test_layers_on_the_host_behind_an_accelerator_are_refused():
    plan = plan_of(LLAMA, "place . on cuda:0\nplace model.layers.7 on cpu\n")
    assert codes("llama.cpp", plan) == ["engine-cannot"]


def test_the_embedding_llama_cpp_keeps_on_the_host_is_said_with_its_bytes():
    (warning,) = ENGINES["llama.cpp"].accepts(plan_of(LLAMA, ORDINARY))
    assert warning.rule.code == "engine-loses"
    assert "1.0GiB" in warning.message


MOSTLY = "place . on cuda:0\nplace token_embd on cpu\n"
OUTPUT = "place output on cuda:1\nplace output_norm on cuda:1\n"


def exps(layers, device="cpu"):
    return "".join(f"place blk.{{{layers}}}.ffn_{part}_exps on {device}\n" for part in ("up", "gate", "down"))


def test_experts_of_the_first_layers_on_the_host_have_an_option_of_their_own():
    plan = plan_of(MIXTURE, MOSTLY + exps("0..3"))
    assert "-ngl 9 --device CUDA0 --n-cpu-moe 4 --fit off" in told("llama.cpp", plan)


def test_other_parts_are_named_by_pattern_which_names_them_and_nothing_else():
    plan = plan_of(MIXTURE, MOSTLY + exps("2,5"))
    line = told("llama.cpp", plan)
    pattern = re.compile(re.search(r"-ot '(.*?)=CPU'", line)[1])
    named = {path for path in plan.tree.tensor_paths if pattern.search(path)}
    assert named == {p for p in plan.tree.tensor_paths if re.match(r"blk\.[25]\..*_exps", p)}


def test_parts_of_names_that_no_table_knows_are_refused():
    plan = plan_of(LLAMA.replace("mlp", "strange"), ORDINARY + "place model.layers.3.strange on cpu\n")
    assert codes("llama.cpp", plan) == ["engine-cannot"]


def test_parts_of_a_transformers_model_are_named_as_gguf_names_them():
    pytest.importorskip("gguf")
    table = LLAMA.replace("self_attn", "self_attn.q_proj").replace("mlp", "mlp.up_proj")
    plan = plan_of(table, ORDINARY + "place model.layers.3.mlp.up_proj on cpu\n")
    assert r"-ot '^blk\.(3)\.(ffn_up\.weight)$=CPU'" in told("llama.cpp", plan)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "mlx-lm", "torchtitan"])
def test_parts_apart_from_their_layer_are_refused_where_layers_are_whole(engine):
    plan = plan_of(LLAMA, ORDINARY + "place model.layers.3.mlp on cuda:1\n")
    assert codes(engine, plan) == ["engine-cannot"]


@pytest.mark.parametrize("engine", ["vllm", "sglang", "mlx-lm", "torchtitan", "llama.cpp"])
def test_a_device_that_comes_twice_is_refused(engine):
    plan = plan_of(LLAMA, "place . on cuda:0\nplace model.layers.{3..4} on cuda:1\n")
    assert "engine-cannot" in codes(engine, plan)


def streamed(*layers):
    return "place . on cuda:0\n" + "".join(
        f"place model.layers.{layer} on cpu run on cuda:0\n" for layer in layers
    )


def test_layers_streamed_in_a_period_are_said_by_group():
    line = told("vllm", plan_of(LLAMA, streamed(3, 7)))
    assert "--offload-group-size 4 --offload-num-in-group 1 --offload-prefetch-step 1" in line


def stack_of(cls, layers, dense=()):
    rows = [f"module model.layers.{{0..{layers - 1}}} : {cls}"]
    for layer in range(layers):
        rows.append(f"module model.layers.{layer}.self_attn : Attention 1GiB")
        rows.append(f"module model.layers.{layer}.mlp : MLP" + (" 1GiB" if layer in dense else ""))
        if layer not in dense:
            rows.append(f"module model.layers.{layer}.mlp.gate : Router 1KiB")
            rows.append(f"module model.layers.{layer}.mlp.experts : Experts 1GiB")
    return "\n".join(
        ["module model.embed_tokens : Embedding 1GiB", *rows, "module lm_head : Linear 1GiB", ""]
    )


def parts_streamed(part, *layers):
    return "place . on cuda:0\n" + "".join(
        f"place model.layers.{layer}.{part} on cpu run on cuda:0\n" for layer in layers
    )


def test_one_part_of_layers_in_a_period_is_said_by_its_word():
    table = stack_of("MixtralDecoderLayer", 8)
    line = told("vllm", plan_of(table, parts_streamed("mlp.experts", 3, 7)))
    assert (
        "--offload-group-size 4 --offload-num-in-group 1 --offload-prefetch-step 1 --offload-params experts"
        in line
    )


def test_layers_without_the_part_do_not_disturb_the_period():
    table = stack_of("MixtralDecoderLayer", 8, dense=(0, 1))
    line = told("vllm", plan_of(table, parts_streamed("mlp.experts", *range(2, 8))))
    assert "--cpu-offload-gb 6 --cpu-offload-params experts" in line


def test_a_period_with_a_layer_left_out_is_refused():
    table = stack_of("MixtralDecoderLayer", 8)
    assert codes("vllm", plan_of(table, parts_streamed("mlp.experts", 1, 3, 7))) == ["engine-cannot"]


def test_sglang_streams_what_its_deepseek_models_name_and_nothing_else():
    places = parts_streamed("mlp.experts", 3, 7)
    plan = plan_of(stack_of("DeepseekV3DecoderLayer", 8), places)
    assert ENGINES["sglang"].accepts(plan) == ()
    assert "--offload-group-size 4 --offload-num-in-group 1 --offload-prefetch-step 1\n" in told(
        "sglang", plan
    )
    other = plan_of(stack_of("MixtralDecoderLayer", 8), places)
    assert codes("sglang", other) == ["engine-cannot"]
    assert codes("sglang", plan_of(LLAMA, streamed(3, 7))) == ["engine-loses"]


def test_the_share_of_memory_is_of_what_the_engine_counts():
    places, devices = ORDINARY, "device cuda:0 memory 20GiB\ndevice cuda:1 memory 20GiB\n"
    plan = plan_of(LLAMA, places, devices)
    ledger = (
        Account("cuda:0", weights=8 * 2**30, kv_cache=2 * 2**30, activations=2 * 2**30, runtime=2**30),
        Account("cuda:1", weights=4 * 2**30),
    )
    plan = replace(plan, ledger=ledger)
    assert "--gpu-memory-utilization 0.65" in told("vllm", plan)
    assert "--mem-fraction-static 0.50" in told("sglang", plan)


def test_layers_streamed_without_a_period_are_refused_with_their_bytes():
    plan = plan_of(LLAMA, streamed(1, 2, 6))
    (found,) = ENGINES["vllm"].accepts(plan)
    assert found.rule.code == "engine-cannot"
    assert "6.0GiB" in found.notes[0]
    assert codes("llama.cpp", plan) == ["engine-cannot"]


def test_several_hosts_get_a_line_each():
    devices = "device node1/cuda:0 memory 24GiB\ndevice node2/cuda:0 memory 24GiB\n"
    places = ORDINARY.replace("cuda:0", "node1/cuda:0").replace("cuda:1", "node2/cuda:0")
    text = told("vllm", plan_of(LLAMA, places, devices))
    assert [line for line in text.splitlines() if line.startswith("#")] == ["# on node1", "# on node2"]
    assert text.count("VLLM_PP_LAYER_PARTITION=5,3") == 2
    assert "--node-rank 1" in text
    assert "--device CUDA0,RPC0 -ts 5,4 --rpc HOST0:50052" in told(
        "llama.cpp", plan_of(LLAMA, places, devices)
    )


@pytest.mark.parametrize("engine", LAYERED)
@pytest.mark.parametrize("text", ["device cpu memory 1GiB\n", "device cpu memory 1GiB\nplace a on cpu\n"])
def test_what_is_no_placed_stack_is_refused_with_a_code(engine, text):
    plan = parse(HEAD + text)
    found = ENGINES[engine].accepts(plan)
    assert all(diagnostic.help for diagnostic in found)
    assert found or engine in {"transformers", "tabbyapi"}


def test_what_is_streamed_or_visited_for_its_cache_is_refused_by_llama_cpp():
    plan = plan_of(MIXTURE, MOSTLY + exps("0..3", "cpu run on cuda:0"))
    assert codes("llama.cpp", plan) == ["engine-cannot"]
    table = MIXTURE + "module blk.{0..7}.attn_k : Linear 64MiB\n"
    apart = MOSTLY + "place blk.3.attn_k on cpu\n"
    assert codes("llama.cpp", plan_of(table, apart)) == []
    cached = plan_of(table, apart + 'demand 1MiB with blk.3 for "kv cache"\n')
    assert codes("llama.cpp", cached) == ["engine-cannot"]


def test_a_card_that_has_parts_only_is_named_and_takes_no_layers():
    plan = plan_of(MIXTURE, MOSTLY + exps("5", "cuda:1"))
    line = told("llama.cpp", plan)
    assert "--device CUDA0,CUDA1 -ts 9,0 " in line
    assert "=CUDA1" in line
    assert "=CPU" not in line


@pytest.mark.parametrize("engine", ["mlx-lm", "torchtitan", "nemo"])
def test_help_says_nothing_the_engine_cannot(engine):
    plan = plan_of(LLAMA, "place . on cuda:0\nplace model.layers.7 on cpu\n")
    assert not any("stream" in each.help for each in ENGINES[engine].accepts(plan))


@pytest.mark.parametrize(
    "places",
    [
        MOSTLY + exps("0..3"),
        MOSTLY + exps("2,5") + "place blk.7 on cuda:1\n" + OUTPUT,
        "place . on cpu\nplace blk.{4..5} on cuda:0\nplace blk.{6..7} on cuda:1\n" + OUTPUT,
        "place . on cpu\n",
    ],
)
def test_what_llama_cpp_is_told_reads_back_as_the_same_places(places):
    plan = plan_of(MIXTURE, places)
    line = told("llama.cpp", plan).partition("MODEL.gguf ")[2]
    again = ENGINES["llama.cpp"].read(line, replace(plan, units=()))

    def stores(each):
        return [each.units[unit].store for unit in unit_of_tensors(each.tree, each.units)]

    assert stores(again) == stores(plan)


def test_the_line_of_the_fit_tool_is_read():
    plan = replace(plan_of(MIXTURE, MOSTLY), units=())
    line = r'-c 4096 -ngl 9 -ts 5,4 -ot "blk\.4\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU"'
    again = ENGINES["llama.cpp"].read(line, plan)
    owner = unit_of_tensors(again.tree, again.units)
    stores = {p: again.units[owner[t]].store for t, p in enumerate(again.tree.tensor_paths)}
    assert {store for path, store in stores.items() if path.startswith("blk.4.ffn")} == {"cpu"}
    assert next(store for path, store in stores.items() if path.startswith("blk.4.attn")) == "cuda:0"
    assert next(store for path, store in stores.items() if path.startswith("blk.5.attn")) == "cuda:1"
    assert (again.workload.prompt + again.workload.tokens) == 4096


@pytest.mark.parametrize(
    "line",
    ["", "hello", '-ot "unclosed', "-ngl many", "-ts 1,x", "-ot [=CPU", "-ngl 9 -ot a", "-ngl 9 -ot a=TPU3",
     "-ngl 9 -ts 1,2,3", "-c many -ngl 2"],
)  # fmt: skip
def test_a_line_that_says_nothing_is_refused_with_a_code(line):
    plan = replace(plan_of(MIXTURE, MOSTLY), units=())
    with pytest.raises(PlanError) as error:
        ENGINES["llama.cpp"].read(line, plan)
    assert [d.rule.code for d in error.value.diagnostics] == ["engine-line"]


def test_a_preset_has_the_options_of_the_line():
    plan = plan_of(LLAMA, ORDINARY)
    assert ENGINES["llama.cpp"].file(plan).splitlines() == [
        "[tiny]",
        "model = /path/to/tiny.gguf",
        "n-gpu-layers = 9",
        "device = CUDA0,CUDA1",
        "tensor-split = 5,4",
        "fit = off",
    ]


def test_ranks_are_numbered_in_the_order_of_the_layers_and_the_cards_named_so():
    swapped = ORDINARY.replace("cuda:0", "cuda:9").replace("cuda:1", "cuda:0").replace("cuda:9", "cuda:1")
    line = told("vllm", plan_of(LLAMA, swapped))
    assert line.startswith("CUDA_VISIBLE_DEVICES=1,0 VLLM_PP_LAYER_PARTITION=5,3 ")
