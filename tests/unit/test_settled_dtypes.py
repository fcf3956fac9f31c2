"""A dtype counts the same wherever it is said: option, line of an override, plan; so do devices for files."""

from __future__ import annotations

import pytest
import torch
import transformers
from compile_plan.compiler import compile_plan, load_pretrained
from compile_plan.grammar import parse
from compile_plan.ir import PlanError
from small_folders import SAVED, write_quantised
from tiny_gguf import write_gguf

HOST, CARD = {"cpu": "1GiB"}, {0: "1GiB", "cpu": "1GiB"}
ON_CPU, ON_CARD = parse("device cpu memory 1GiB\n"), parse("device cuda:0 memory 1GiB\n")


@pytest.fixture(autouse=True)
def _no_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(name="folder")
def _folder(tmp_path):
    return write_quantised(tmp_path / "m", "fp8")


@pytest.fixture(name="half")
def _half(tmp_path):
    config = transformers.LlamaConfig(**SAVED)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    return tmp_path / "half"


def nbytes(given, budgets=None, **options):
    return sum(compile_plan(given, max_memory=budgets, **options).tree.nbytes)


def of_model(model):
    return sum(parameter.nbytes for parameter in model.parameters())


def option(dtype):
    return parse(f'option dtype "{dtype}"\n')


@pytest.mark.parametrize("spelled", ["float32", "fp32", "float", "torch.float32"])
def test_a_dtype_of_a_line_is_read_as_an_option_is(folder, spelled):
    expected = nbytes(folder, HOST, dtype="float32")
    assert nbytes(folder, HOST, overrides=option(spelled)) == expected > nbytes(folder, HOST)


def test_of_several_lines_the_last_dtype_counts(folder):
    lines = [option("float32"), option("bfloat16")]
    assert nbytes(folder, HOST, overrides=lines) == nbytes(folder, HOST, dtype="bfloat16")
    assert nbytes(folder, HOST, overrides=lines[::-1]) == nbytes(folder, HOST, dtype="float32")


@pytest.mark.parametrize(
    ("lines", "budgets", "same"),
    [
        ([ON_CARD, ON_CPU], None, HOST),
        ([ON_CPU, ON_CARD], None, CARD),
        ([ON_CARD], HOST, CARD),
        ([ON_CARD, parse('device cpu memory 1GiB\noption dtype "bfloat16"\n')], None, CARD),
    ],
)
def test_weights_are_packed_by_the_devices_that_lines_end_up_with(folder, lines, budgets, same):
    plan = compile_plan(folder, max_memory=budgets, overrides=lines)
    assert sum(plan.tree.nbytes) == nbytes(folder, same)
    assert ("cuda:0" in {device.name for device in plan.devices}) == (same is CARD)


def refused(given, **options):
    with pytest.raises(PlanError) as caught:
        compile_plan(given, **options)
    return [found.code for found in caught.value.diagnostics] == ["option-without-effect"]


@pytest.mark.parametrize("asked", [{"dtype": "int4"}, {"overrides": option("int4")}])
def test_quantised_weights_are_not_quantised_again_however_it_is_asked(folder, tmp_path, asked):
    file = write_gguf(tmp_path / "m.gguf")
    for given in (folder, file, compile_plan(folder, max_memory=CARD), compile_plan(file, max_memory=HOST)):
        assert refused(given, **asked)


def test_a_plan_of_plain_weights_may_be_quantised(half):
    plan = compile_plan(half, max_memory=HOST)
    assert nbytes(plan, HOST, dtype="int4") < nbytes(plan, HOST)
    packed = compile_plan(half, max_memory=HOST, dtype="int4")
    assert nbytes(packed, HOST, dtype="int4") == sum(packed.tree.nbytes)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"attn_implementation": "eager"},
        {"auto_class": transformers.AutoModel},
        {"auto_class": transformers.AutoModelForCausalLM},
    ],
)
@pytest.mark.parametrize("by", ["plan", "line"])
def test_a_folder_is_loaded_in_the_dtype_of_its_plan_whatever_else_is_asked(half, more, by):
    lines = option("fp32")
    if by == "plan":
        if more.get("auto_class") is transformers.AutoModel:
            pytest.skip("a plan of the whole model is none of its inner one")
        model = load_pretrained(half, compile_plan(half, max_memory=HOST, dtype="float32"), **more)
    else:
        model = load_pretrained(half, max_memory=HOST, overrides=lines, **more)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def planned_while_loading(monkeypatch, folder, **options):
    """Return the model that is loaded, and the plan it was loaded by."""
    from compile_plan.compiler.driver import pretrained

    plans = []
    monkeypatch.setattr(pretrained, "tell", lambda plan, _: plans.append(plan))
    return load_pretrained(folder, **options), plans[0]


@pytest.mark.parametrize("said", [{"dtype": "float32"}, {"overrides": option("float32")}])
def test_a_quantised_folder_is_planned_in_the_dtype_it_is_loaded_in(folder, monkeypatch, said):
    """transformers leaves what is not packed as it is stored, here two bytes, and the plan counts it wide."""
    model, plan = planned_while_loading(monkeypatch, folder, max_memory=HOST, **said)
    beside = 2 * (2 * SAVED["vocab_size"] + 7) * SAVED["hidden_size"]  # table, head, norms
    assert of_model(model) + beside == sum(plan.tree.nbytes) == nbytes(folder, HOST, dtype="float32")


@pytest.mark.filterwarnings("ignore")  # diffusers' own
def test_a_pipeline_is_loaded_in_the_dtype_of_its_plan(tmp_path, monkeypatch):
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    made = diffusers.DDIMPipeline(unet.to(torch.bfloat16), diffusers.DDIMScheduler())
    made.save_pretrained(tmp_path)
    plan = compile_plan(tmp_path, max_memory=HOST, dtype="float32")
    expected = sum(plan.tree.nbytes)
    assert of_model(load_pretrained(tmp_path, plan).unet) == expected == 2 * nbytes(tmp_path, HOST)
    loaded, own = planned_while_loading(monkeypatch, tmp_path, max_memory=HOST, dtype="float32")
    assert of_model(loaded.unet) == sum(own.tree.nbytes) == expected


@pytest.mark.parametrize("given", ["folder", "config.json", "plan"])
def test_a_special_dtype_changes_its_tensor_alone(tmp_path, given):
    """What a class keeps in float32 stays so, also where the special dtype is taken back."""
    config = transformers.T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    said = {"max_memory": HOST, "dtype": "float16"}
    plain = compile_plan(tmp_path / "config.json" if given == "config.json" else tmp_path, **said)
    start = {"folder": tmp_path, "config.json": tmp_path / "config.json", "plan": plain}[given]
    wide, kept = "shared.weight", "encoder.block.0.layer.1.DenseReluDense.wo.weight"
    same = compile_plan(start, special_dtypes={wide: "float16"}, **said)
    assert same.tree.nbytes == plain.tree.nbytes
    changed = compile_plan(start, special_dtypes={wide: "float32", kept: "float16"}, **said)
    assert sum(changed.tree.nbytes) == sum(plain.tree.nbytes) + 2 * 64 * 32 - 2 * 64 * 32
    assert changed.tree.nbytes != plain.tree.nbytes
    assert compile_plan(changed, max_memory={"cpu": "2GiB"}).tree.nbytes == changed.tree.nbytes
    other = compile_plan(changed, special_dtypes={"decoder.final_layer_norm.weight": "float16"})
    assert other.tree.nbytes == plain.tree.nbytes
