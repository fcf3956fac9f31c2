"""The names, dtypes and ties of a folder's plan are those of the model transformers makes of the folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoints import llama_tensors, write_file, write_shards
from compile_plan.compiler import compile_model, compile_plan, load_model, load_pretrained
from compile_plan.compiler.sources import known_classes
from compile_plan.compiler.sources.checkpoint import read_checkpoint
from compile_plan.compiler.sources.model_names import behind_the_last
from compile_plan.ir import Diagnostics, PlanError
from safetensors.torch import load_file, save_file

transformers = pytest.importorskip("transformers")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

CAUSAL = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
SAMPLE = (
    "llama",
    "gpt_neox",
    "qwen3_moe",
    "mixtral",
    "t5",
    "bart",
    "bert",
    "vit",
    "llava",
    "zamba2",
    "mpnet",
    "clip",
    "deepseek_v4",
    "deformable_detr",
    "gemma3",
)
"""Renamed, merged, ambiguous and composed names, ties, blocks that several layers use."""


def read(path):
    found = Diagnostics()
    plan, _ = read_checkpoint(path, found)
    return plan, [finding.code for finding in found]


@pytest.mark.parametrize("name", SAMPLE)
def test_what_transformers_loads_is_loaded_in_every_way(name, tmp_path):
    from folder_sweep import WAYS, tried

    row = tried(name, tmp_path)
    assert row.get("lost") == 0
    assert row["ways"] == dict.fromkeys(WAYS)


@pytest.mark.slow
def test_every_type_that_transformers_loads_is_loaded_in_every_way():
    from folder_sweep import sweep

    rows = sweep(sorted(transformers.CONFIG_MAPPING.keys()))
    assert [row for row in rows if not row.get("lost") and any(row.get("ways", {}).values())] == []


@pytest.mark.slow
def test_every_head_of_every_type_is_loaded_by_the_plan_of_its_folder(tmp_path):
    from folder_sweep import refusal, saved

    table = json.loads(known_classes._TABLE.read_text())["classes"]
    classes = [getattr(transformers, name, None) for name in table if "For" in name]
    wrong, loaded = {}, 0
    for cls in classes:
        if getattr(getattr(cls, "config_class", None), "model_type", None) not in transformers.CONFIG_MAPPING:
            continue
        folder = tmp_path / cls.__name__
        made = saved(cls.config_class.model_type, folder, cls)
        if not isinstance(made, str):
            why, loaded = refusal("folder plan", made, folder), loaded + 1
            wrong |= {} if why is None or made.lost else {cls.__name__: why}
        shutil.rmtree(folder, ignore_errors=True)
    assert loaded > len(classes) // 2
    assert wrong == {}


@pytest.mark.parametrize(
    "name", ["LlamaForCausalLM", "GPT2LMHeadModel", "T5ForConditionalGeneration", "GPTNeoXModel"]
)
def test_the_table_says_what_the_class_says(name):
    table = known_classes._table()["classes"][name]
    kind = getattr(transformers, name)
    assert table["prefix"] == kind.base_model_prefix
    assert table.get("ties", {}) == (kind._tied_weights_keys or {})
    assert table.get("float32", []) == sorted(kind._keep_in_fp32_modules or ())
    assert table.get("unexpected", []) == sorted(kind._keys_to_ignore_on_load_unexpected or ())


@pytest.mark.slow
def test_the_table_is_that_of_the_installed_transformers():
    from known_classes import WRITTEN, table, written

    if json.loads(WRITTEN.read_text())["transformers"] != transformers.__version__:
        pytest.skip("the table is of another release")
    assert WRITTEN.read_text() == written(table())


def test_a_tie_that_is_stored_twice_is_counted_once_if_the_values_agree(tmp_path):
    config = {**CAUSAL, "tie_word_embeddings": True}
    tensors = llama_tensors(1)
    same = write_shards(tmp_path / "same", tensors, 1, config=config)
    plan, _ = read(same)
    head, embedding = (plan.tree.tensor_index[n] for n in ("lm_head.weight", "model.embed_tokens.weight"))
    assert plan.tree.storages[head] == embedding
    assert plan.tree.nbytes[head] == 0

    torch.manual_seed(0)
    values = {name: torch.randn(shape).bfloat16() for name, (_, shape) in tensors.items()}
    (tmp_path / "other").mkdir()
    save_file(values, tmp_path / "other" / "model.safetensors")
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    plan, _ = read(tmp_path / "other")
    assert plan.tree.storages == tuple(range(len(plan.tree.storages)))


def test_a_head_of_its_own_counts_where_the_class_knows_the_names_by_others(tmp_path):
    from folder_sweep import _difference

    config = transformers.CONFIG_MAPPING["gemma3"](
        text_config={
            "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        },
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 56, "patch_size": 14,
        },
    )  # fmt: skip
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    table = next(tensor for name, tensor in stored.items() if name.endswith("embed_tokens.weight"))
    stored["language_model.lm_head.weight"] = torch.randn_like(table)
    save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
    theirs = transformers.Gemma3ForConditionalGeneration.from_pretrained(tmp_path)
    plan = compile_plan(tmp_path, max_memory={"cpu": "1GiB"})
    parameters = dict(theirs.named_parameters())
    planned = dict(zip(plan.tree.tensor_paths, plan.tree.nbytes, strict=True))
    assert sum(planned[path] for path in parameters) == sum(each.nbytes for each in parameters.values())
    found = Diagnostics()
    assert _difference(load_pretrained(tmp_path, plan, diagnostics=found), theirs) is None
    assert "untied-tensors" in [each.code for each in found]


def loads_as_planned(folder, theirs):
    """Compare the bytes of a folder's plan, and what is loaded by it, with what transformers makes of it."""
    from folder_sweep import _difference, _miscounted

    plan = compile_plan(folder, max_memory={"cpu": "1GiB"})
    assert _miscounted(plan, theirs) is None
    ours = load_pretrained(folder, plan, auto_class=type(theirs), diagnostics=Diagnostics())
    assert _difference(ours, theirs) is None
    return plan


@pytest.mark.parametrize("name", ["electra", "rembert", "bigbird_pegasus", "cpmant", "xlstm"])
def test_names_that_lack_the_prefix_leave_what_is_beside_the_body_where_it_is(name, tmp_path):
    from folder_sweep import saved

    made = saved(name, tmp_path)
    prefix = f"{made.cls.base_model_prefix}."
    stored = load_file(tmp_path / "model.safetensors")
    assert any(not each.startswith(prefix) for each in stored)
    bare = {each.removeprefix(prefix): value for each, value in stored.items()}
    save_file(bare, tmp_path / "model.safetensors", {"format": "pt"})
    theirs = made.cls.from_pretrained(tmp_path)
    plan = loads_as_planned(tmp_path, theirs)
    assert set(plan.tree.tensor_paths) >= {path for path, _ in theirs.named_parameters()}


@pytest.mark.parametrize("head", ["SequenceClassification", "TokenClassification", "QuestionAnswering"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "mistral"])
def test_a_head_that_types_share_has_their_body_below_its_prefix(name, head, tmp_path):
    """Reward models: their class is a mixin's, which sets the body by the name in ``base_model_prefix``."""
    config = transformers.CONFIG_MAPPING[name](
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, num_labels=1 if head == "SequenceClassification" else 3,
    )  # fmt: skip
    auto = getattr(transformers, f"AutoModelFor{head}")
    auto.from_config(config).save_pretrained(tmp_path)
    loads_as_planned(tmp_path, auto.from_pretrained(tmp_path))


def test_a_body_may_have_a_part_of_the_name_of_one_beside_it(tmp_path):
    config = transformers.Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, conv_dim=(16, 16),
        conv_kernel=(3, 3), conv_stride=(2, 2), num_feat_extract_layers=2, num_conv_pos_embedding_groups=2,
        num_conv_pos_embeddings=4, tdnn_dim=(16, 16), tdnn_kernel=(3, 3), tdnn_dilation=(1, 1),
        xvector_output_dim=16, vocab_size=32,
    )  # fmt: skip
    transformers.Wav2Vec2ForXVector(config).save_pretrained(tmp_path)
    loads_as_planned(tmp_path, transformers.Wav2Vec2ForXVector.from_pretrained(tmp_path))


@pytest.mark.parametrize("name", ["t5gemma2", "hyperclovax_vision_v2"])
def test_a_head_the_class_ties_is_found_under_the_name_its_files_have(name, tmp_path):
    from folder_sweep import saved

    if name not in transformers.CONFIG_MAPPING:
        pytest.skip("this transformers does not have it")
    made = saved(name, tmp_path)
    model = made.cls.from_pretrained(tmp_path)
    ties, model.all_tied_weights_keys = model.all_tied_weights_keys, {}
    for path in ties:
        owner, _, last = path.rpartition(".")
        module = model.get_submodule(owner)
        setattr(module, last, torch.nn.Parameter(torch.randn_like(getattr(module, last))))
    model.save_pretrained(tmp_path)
    theirs = made.cls.from_pretrained(tmp_path)
    assert len({id(each) for each in theirs.parameters()}) == len(dict(model.named_parameters()))
    loads_as_planned(tmp_path, theirs)


@pytest.mark.parametrize(
    "stored",
    [lambda name: name.removeprefix("model."), lambda name: f"model.{name}"],
    ids=["lacks the prefix", "has it twice"],
)
def test_prefixes_are_those_of_the_class_and_the_head_has_none(tmp_path, stored):
    tensors = {stored(name): each for name, each in llama_tensors(1).items()}
    plan, codes = read(write_shards(tmp_path / "m", tensors, 1, config=CAUSAL))
    assert set(llama_tensors(1)) == set(plan.tree.tensor_paths)
    assert codes == []


def test_what_the_class_has_not_is_left_out_with_a_word(tmp_path):
    tensors = {**llama_tensors(2), "adviser.fc.weight": ("BF16", (8, 8))}
    config = {**CAUSAL, "num_hidden_layers": 2, "vocab_size": 64, "num_attention_heads": 2}
    plan, codes = read(write_shards(tmp_path / "m", tensors, 1, config=config))
    assert codes == ["unbuilt-layers"]
    assert "adviser" not in plan.tree.module_index


@pytest.mark.parametrize("said", ["half", "torch.half", "float16"])
def test_a_dtype_may_be_said_by_any_of_its_names(tmp_path, said):
    folder = write_shards(tmp_path / "m", llama_tensors(1), 1, config={**CAUSAL, "torch_dtype": said})
    assert set(read(folder)[0].tree.dtypes) == {"float16"}


def test_a_body_has_no_use_for_the_head_beside_it(tmp_path):
    config = {"architectures": ["LlamaModel"], "model_type": "llama"}
    plan, codes = read(write_shards(tmp_path / "m", llama_tensors(1), 1, config=config))
    assert set(plan.tree.tensor_paths) == {
        name.removeprefix("model.") for name in llama_tensors(1) if name != "lm_head.weight"
    }
    assert codes == []


def test_a_stored_head_under_its_older_name_is_its_own(tmp_path):
    from folder_sweep import _difference

    config = transformers.GPTNeoXConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    transformers.GPTNeoXForCausalLM(config).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    stored["embed_out.weight"] = torch.randn(96, 32)
    save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
    theirs = transformers.GPTNeoXForCausalLM.from_pretrained(tmp_path)
    plan = compile_plan(tmp_path, max_memory={"cpu": "1GiB"})
    assert _difference(load_pretrained(tmp_path, plan, diagnostics=Diagnostics()), theirs) is None


def test_layers_no_model_builds_are_neither_planned_nor_loaded(tmp_path):
    config = transformers.RobertaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2
    )
    transformers.RobertaForMaskedLM(config).save_pretrained(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**said, "num_hidden_layers": 1}))
    plan, codes = read(tmp_path)
    assert codes == ["unbuilt-layers"]
    assert "roberta.encoder.layer.1" not in plan.tree.module_index
    model = load_pretrained(tmp_path, max_memory={"cpu": "1GiB"}, diagnostics=Diagnostics())
    assert len(model.roberta.encoder.layer) == 1


def test_lists_of_different_lengths_are_no_layers_too_many():
    paths = [f"encoder.layers.{n}.conv.weight" for n in range(14)]
    paths += [f"encoder_transformer.layers.{n}.fc1.weight" for n in range(8)]
    assert behind_the_last(paths, {"num_hidden_layers": 8}) == set()
    assert behind_the_last(paths[:14], {"num_hidden_layers": 13}) == {"encoder.layers.13.conv.weight"}


def test_a_list_beside_layers_under_a_name_with_digits_is_no_stack_of_theirs():
    names = [f"data2vec_vision.encoder.layer.{n}.w" for n in range(2)]
    beside = [f"decode_head.blocks.{n}.w" for n in range(4)]
    assert behind_the_last([*names, *beside], {"num_hidden_layers": 2}) == set()
    assert behind_the_last(names, {"num_hidden_layers": 1}) == {names[1]}


def test_layers_behind_the_last_one_are_left_out_with_a_word(tmp_path):
    config = {**CAUSAL, "num_hidden_layers": 2}
    plan, codes = read(write_shards(tmp_path / "m", llama_tensors(3), 1, config=config))
    assert codes == ["unbuilt-layers"]
    assert "model.layers.2" not in plan.tree.module_index
    assert "model.layers.1" in plan.tree.module_index


def test_dtypes_are_those_transformers_loads(tmp_path):
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    model = transformers.T5ForConditionalGeneration(config).half()
    model.save_pretrained(tmp_path)
    plan, _ = read(tmp_path)
    kinds = dict(zip(plan.tree.tensor_paths, plan.tree.dtypes, strict=True))
    theirs = type(model).from_pretrained(tmp_path)
    assert {path: f"torch.{kinds[path]}" for path in kinds} == {
        path: str(value.dtype) for path, value in theirs.named_parameters(remove_duplicate=False)
    }
    assert "float32" in set(kinds.values())


def test_old_frequencies_have_no_place(tmp_path):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    folder = write_shards(tmp_path / "m", {**llama_tensors(2), name: ("F32", (2,))}, 1, config=CAUSAL)
    assert name not in read(folder)[0].tree.tensor_index


def test_a_class_nobody_can_build_keeps_the_names_of_its_files(tmp_path):
    write_file(tmp_path / "model.safetensors", llama_tensors(2))
    config = {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "text_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    plan, codes = read(tmp_path)
    assert codes == ["stored-names"]
    assert "model.layers.0" in plan.tree.module_index


def test_experts_are_merged_without_torch(tmp_path):
    kind = transformers.CONFIG_MAPPING["qwen3_moe"]
    small = {"hidden_size": 16, "moe_intermediate_size": 8, "num_hidden_layers": 2, "num_experts": 4}
    config = kind(**small, num_attention_heads=2, num_key_value_heads=1, head_dim=8, vocab_size=32)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    assert any(".experts.3." in name for name in load_file(tmp_path / "model.safetensors"))
    plan, _ = read(tmp_path)
    shapes = dict(zip(plan.tree.tensor_paths, plan.tree.shapes, strict=True))
    assert shapes == {path: tuple(value.shape) for path, value in model.named_parameters()}
    code = (
        "import sys; from compile_plan.compiler.cli.command import main; main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules"
    )
    done = [
        sys.executable,
        "-c",
        code,
        str(tmp_path),
        "-q",
        "--memory",
        "cpu=1GiB",
        "-o",
        str(tmp_path / "p.plan"),
    ]
    assert subprocess.run(done, check=False).returncode == 0


@pytest.mark.parametrize("name", ["quantization_config", "compression_config"])
@pytest.mark.parametrize("dtype", [None, "float16"])
def test_nothing_said_of_packed_weights_is_said_of_none(tmp_path, name, dtype):
    kind = transformers.CONFIG_MAPPING["mixtral"]
    small = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "num_local_experts": 4}
    config = kind(**small, num_attention_heads=2, num_key_value_heads=1, vocab_size=32)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**said, name: {}}))
    plan, _ = read_checkpoint(tmp_path, Diagnostics(), dtype=dtype)
    assert set(plan.tree.tensor_paths) == set(dict(model.named_parameters()))


@pytest.mark.parametrize("packed", [False, True])
def test_what_scales_is_of_the_asked_dtype_unless_packed_weights_share_it(tmp_path, packed):
    stored = {
        "block.weight": ("U8" if packed else "F32", (4, 4)),
        "block.layer_scale": ("F32", (4,)),
        "scale_shift_table": ("F32", (2, 4)),
    }
    folder = write_shards(tmp_path / "m", stored, 1, config={"model_type": "mine"})
    plan, _ = read_checkpoint(folder, Diagnostics(), dtype="float16")
    kinds = dict(zip(plan.tree.tensor_paths, plan.tree.dtypes, strict=True))
    rest = "float32" if packed else "float16"
    assert kinds == {
        "block.weight": "uint8" if packed else "float16",
        "block.layer_scale": rest,
        "scale_shift_table": rest,
    }


def test_a_folder_with_two_saves_is_read_as_transformers_does(tmp_path):
    folder = write_shards(tmp_path / "m", llama_tensors(1), 2, config=CAUSAL)
    write_file(folder / "model.safetensors", llama_tensors(2))
    plan, codes = read(folder)
    assert codes == ["several-saves"]
    assert "model.layers.1" in plan.tree.module_index


def test_names_of_files_that_are_not_the_model_s_come_with_a_change_that_works(tmp_path):
    from folder_sweep import saved

    made = saved("llava", tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    foreign = {**said, "architectures": ["OwnForConditionalGeneration"], "model_type": "own"}
    (tmp_path / "config.json").write_text(json.dumps(foreign))
    budget, hollow = {"cpu": "4GiB"}, made.loaded.to("meta")
    with pytest.raises(PlanError) as refused:
        load_model(compile_plan(tmp_path, max_memory=budget), hollow, tmp_path)
    finding = refused.value.diagnostics[0]
    assert finding.code == "unknown-path"
    assert "language_model" in finding.message
    assert "compile_model(model)" in finding.help
    load_model(compile_model(hollow, max_memory=budget), hollow, tmp_path)
