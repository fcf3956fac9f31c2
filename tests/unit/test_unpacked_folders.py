"""Quantised folders take what transformers makes of them: packed where it computes so, else plain."""

from __future__ import annotations

import json
from math import prod

import pytest
import torch
import transformers
from checkpoints import SIZES, write_shards
from compile_plan.backends import read_plan
from compile_plan.compiler import compile_plan, load_pretrained
from compile_plan.compiler.cli.command import main
from compile_plan.compiler.driver import folders
from compile_plan.grammar import parse
from compile_plan.ir import PlanError
from safetensors import safe_open
from small_folders import SAVED, write_blocks, write_quantised

HOST, CARD = {"cpu": "1GiB"}, {0: "1GiB", "cpu": "1GiB"}
WRITE = {"fp8": lambda folder: write_quantised(folder, "fp8"), "mxfp4": write_blocks}
SHAPES = {"q_proj": (256, 256), "up_proj": (512, 256), "down_proj": (256, 512)}
LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 64, "hidden_size": 256,
    "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
    "tie_word_embeddings": False, "dtype": "bfloat16",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_card(monkeypatch):
    """Whatever card this machine has: torch sees none, so that transformers and plans decide alike."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def nbytes(given, budgets, **options):
    return sum(compile_plan(given, max_memory=budgets, **options).tree.nbytes)


def loaded(folder, **options):
    kind = transformers.AutoModelForCausalLM
    model = kind.from_pretrained(folder, **{"dtype": "auto", **options})
    return sum(parameter.nbytes for parameter in model.parameters())


def stored(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118  # not a mapping


@pytest.mark.parametrize("method", WRITE)
def test_what_the_host_cannot_compute_packed_is_planned_as_it_is_loaded(tmp_path, method):
    folder = WRITE[method](tmp_path)
    assert nbytes(folder, HOST) == loaded(folder) > 1.5 * stored(folder)


@pytest.mark.parametrize(("method", "widened"), [("fp8", 0), ("mxfp4", 2 * 2 * 4 * (64 + 64))])
def test_what_a_card_computes_packed_is_planned_as_it_is_stored(tmp_path, method, widened):
    """The modules that compute blocks have the biases of their experts in float32."""
    folder = WRITE[method](tmp_path)
    assert nbytes(folder, CARD) == stored(folder) + widened


@pytest.mark.parametrize(
    ("method", "capability", "kernels", "packed"),
    [
        ("fp8", (8, 0), True, False),
        ("fp8", (9, 0), False, True),
        ("mxfp4", (7, 0), True, False),
        ("mxfp4", (8, 0), True, True),
        ("mxfp4", (8, 0), False, False),
    ],
)
def test_a_card_that_torch_sees_is_asked(tmp_path, monkeypatch, method, capability, kernels, packed):
    folder = WRITE[method](tmp_path)
    expected = nbytes(folder, CARD if packed else HOST)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(folders, "find_spec", lambda _: object() if kernels else None)
    assert nbytes(folder, CARD) == expected


def scaled(out, into, *, group):
    return {"weight_scale": ("BF16", (out, into // group)), "weight_shape": ("I64", (2,))}


COMPRESSED = {
    "pack-quantized": ({"num_bits": 4, "type": "int"}, lambda out, into: {
        "weight_packed": ("I32", (out, into // 8)), **scaled(out, into, group=128)}),
    "float-quantized": ({"num_bits": 8, "type": "float"}, lambda out, into: {
        "weight": ("F8_E4M3", (out, into)), "weight_scale": ("F32", (1,))}),
    "int-quantized": ({"num_bits": 8, "type": "int"}, lambda out, into: {
        "weight": ("I8", (out, into)), "weight_scale": ("BF16", (out, 1))}),
}  # fmt: skip


def write_compressed(folder, kind, make):
    tensors = {"model.embed_tokens.weight": ("BF16", (64, 256)), "lm_head.weight": ("BF16", (64, 256))}
    for layer in range(2):
        for name, shape in SHAPES.items():
            path = f"model.layers.{layer}.{'self_attn' if name == 'q_proj' else 'mlp'}.{name}"
            tensors |= {f"{path}.{part}": said for part, said in make(*shape).items()}
    said = {
        "quant_method": "compressed-tensors",
        "format": kind,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": COMPRESSED[kind][0]}},
    }
    return write_shards(folder, tensors, 1, config=LLAMA | {"quantization_config": said}), tensors


@pytest.mark.parametrize("budgets", [HOST, CARD], ids=["host", "card"])
@pytest.mark.parametrize("kind", COMPRESSED)
def test_what_is_unpacked_in_the_first_forward_counts_plain_beside_its_scales(
    tmp_path, monkeypatch, kind, budgets
):
    monkeypatch.setitem(SIZES, "I8", 1)
    folder, tensors = write_compressed(tmp_path / "m", kind, COMPRESSED[kind][1])
    packed = ("weight_packed", "proj.weight")
    beside = {name: said for name, said in tensors.items() if not name.endswith(packed)}
    plain = 2 * 2 * sum(prod(shape) for shape in SHAPES.values())
    expected = plain + sum(SIZES[dtype] * prod(shape) for dtype, shape in beside.values())
    scales = 2 * 3 * 2 if kind == "float-quantized" else 0  # parameters of a model, which is of two bytes
    assert nbytes(folder, budgets) == expected - scales


def write_ternary(folder, layers):
    """Write what bitnet stores: four numbers a byte, of four rows, and a scale."""
    tensors = {"model.embed_tokens.weight": ("BF16", (64, 256))}
    for name, (out, into) in SHAPES.items():
        path = f"model.layers.0.{'self_attn' if name == 'q_proj' else 'mlp'}.{name}"
        tensors |= {f"{path}.weight": ("U8", (out // 4, into)), f"{path}.weight_scale": ("BF16", (1,))}
    said = {"quant_method": "bitnet", "linear_class": layers, "quantization_mode": "offline"}
    kind = {"model_type": "bitnet", "architectures": ["BitNetForCausalLM"], "tie_word_embeddings": True}
    return write_shards(folder, tensors, 1, config=LLAMA | kind | {"quantization_config": said})


@pytest.mark.parametrize(("layers", "eighths"), [("autobitlinear", 16), ("bitlinear", 2)])
def test_ternary_weights_are_packed_where_their_layers_are(tmp_path, layers, eighths):
    folder = write_ternary(tmp_path / "m", layers)
    beside = 2 * 64 * 256 + 2 * len(SHAPES)
    assert nbytes(folder, CARD) == beside + eighths * sum(map(prod, SHAPES.values())) // 8


@pytest.mark.parametrize("dtype", ["int4", "int8", "fp8"])
def test_weights_that_are_quantised_are_not_quantised_again(tmp_path, dtype, capsys):
    folder = write_quantised(tmp_path, "fp8")
    command = [str(folder), "--memory", "cpu=1GiB", "--dtype"]
    assert main([*command, dtype]) == 1
    shown = capsys.readouterr().err
    assert "error[option-without-effect]" in shown
    assert "`--dtype bfloat16`" in shown
    assert main([*command, "bfloat16"]) == 0


def test_beside_packed_weights_a_dtype_is_that_of_the_rest(tmp_path):
    folder = write_quantised(tmp_path, "fp8")
    beside = 2 * (2 * SAVED["vocab_size"] + 7) * SAVED["hidden_size"]  # table, head, norms
    assert nbytes(folder, CARD, dtype="float32") == nbytes(folder, CARD) + beside


def write_t5(folder):
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    return transformers.T5ForConditionalGeneration


def write_llava(folder):
    torch.manual_seed(0)
    sight = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**SAVED),
        vision_config=transformers.CLIPVisionConfig(**sight, image_size=16, patch_size=8),
        image_token_index=63,
    )
    transformers.LlavaForConditionalGeneration(config).to(torch.bfloat16).save_pretrained(folder)
    return transformers.LlavaForConditionalGeneration


@pytest.mark.parametrize("given", ["folder", "config"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("write", [write_t5, write_llava])
def test_a_dtype_is_what_transformers_loads_in_it(tmp_path, write, dtype, given):
    """Wider than what is stored as well, and what a class keeps in float32 stays so."""
    kind = write(tmp_path)
    model = kind.from_pretrained(tmp_path, dtype=dtype)
    expected = sum({t.data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}.values())
    source = tmp_path if given == "folder" else tmp_path / "config.json"
    assert nbytes(source, HOST, dtype=dtype) == expected


def test_a_plan_for_a_wider_dtype_is_loaded_in_it_and_is_the_same_when_it_is_placed_again(tmp_path):
    write_t5(tmp_path / "m")
    plan = compile_plan(tmp_path / "m", max_memory=HOST, dtype="float16")
    kept = [
        path for path, dtype in zip(plan.tree.tensor_paths, plan.tree.dtypes, strict=True) if "32" in dtype
    ]
    assert kept
    again = compile_plan(plan, max_memory={"cpu": "2GiB"})
    assert again.tree.nbytes == plan.tree.nbytes
    model = load_pretrained(tmp_path / "m", plan)
    assert {path for path, p in model.named_parameters() if p.dtype == torch.float32} == set(kept)
    assert model.dtype == torch.float16


def test_a_wider_dtype_is_loaded_as_it_was_planned(tmp_path):
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SAVED)).to(torch.bfloat16).save_pretrained(
        tmp_path
    )
    plan = compile_plan(tmp_path, max_memory=HOST, dtype="float32")
    model = load_pretrained(tmp_path, plan)
    assert model.dtype == torch.float32
    assert sum(p.nbytes for p in model.parameters()) == sum(plan.tree.nbytes)


@pytest.mark.parametrize(
    ("whole", "nested", "width"),
    [("float32", "bfloat16", 4), ("bfloat16", "float32", 2), (None, "float32", 2)],
)
def test_the_dtype_of_a_model_is_that_of_all_its_parts(tmp_path, whole, nested, width):
    """What a part says counts only where nothing else tells; the files here are of two bytes."""
    write_llava(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["dtype"]
    config |= {} if whole is None else {"dtype": whole}
    config["text_config"]["dtype"] = nested
    (tmp_path / "config.json").write_text(json.dumps(config))
    plan = compile_plan(tmp_path, max_memory=HOST, cache_tokens=10)
    assert sum(demand.nbytes for demand in plan.demands) == 2 * 128 * 10 * 3 * width
    assert plan.tree.nbytes[plan.tree.tensor_index["lm_head.weight"]] == width * 64 * 128


def test_a_written_plan_says_the_same(tmp_path):
    folder = write_quantised(tmp_path / "m", "fp8")
    written = tmp_path / "p.msgpack"
    assert main([str(folder), "-q", "--memory", "cpu=1GiB", "--dtype", "float32", "-o", str(written)]) == 0
    assert sum(account.total for account in read_plan(written).ledger) == nbytes(
        folder, HOST, dtype="float32"
    )


def test_a_text_part_may_say_that_weights_are_quantised(tmp_path):
    folder = write_quantised(tmp_path, "fp8")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] = {"quantization_config": config.pop("quantization_config")}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(PlanError) as caught:
        compile_plan(folder, max_memory=CARD, dtype="int4")
    assert [found.code for found in caught.value.diagnostics] == ["option-without-effect"]


def test_devices_and_dtype_of_lines_count_as_those_of_options(tmp_path):
    folder = write_quantised(tmp_path, "fp8")
    lines = parse('plan 1\ndevice cuda:0 memory 1GiB\noption dtype "float32"\n')
    plan = compile_plan(folder, overrides=lines)
    assert sum(plan.tree.nbytes) == nbytes(folder, CARD, dtype="float32")
    assert {unit.store for unit in plan.units} == {"cuda:0"}


@pytest.mark.parametrize(("dtype", "said"), [(None, True), ("bfloat16", True), ("int4", False)])
def test_a_quantised_configuration_is_said_unless_a_packed_dtype_is_asked_for(tmp_path, dtype, said):
    folder = write_quantised(tmp_path, "fp8")
    plan = compile_plan(folder / "config.json", max_memory=CARD, dtype=dtype)
    assert ("quantised-config" in {found.code for found in plan.diagnostics}) == said
