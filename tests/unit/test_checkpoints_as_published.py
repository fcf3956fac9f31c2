"""Checkpoints as people have them: pickles, parts of larger models, older spellings, other attention."""

from __future__ import annotations

import pytest
import torch
from compile_plan.compiler import compile_model, load_model, load_pretrained
from compile_plan.grammar import parse
from compile_plan.ir import Diagnostics, PlanError
from rounding import same_outputs
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import utils

transformers = pytest.importorskip("transformers")

HOST = {"cpu": "1GiB"}
ON_DISK = 'device cpu\ndevice disk\nplace "" on disk run on cpu\n'
TOKENS = torch.arange(1, 6)[None]
TEXT = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
SIGHT = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}


def llama():
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT)).eval()


@pytest.fixture(name="pickled")
def _pickled(tmp_path):
    model = llama()
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    return model, tmp_path


def refused(call):
    with pytest.raises(PlanError) as caught:
        call()
    return caught.value.diagnostics


def test_pickles_are_refused_with_the_way_out(pickled):
    model, folder = pickled
    (found,) = refused(lambda: load_pretrained(folder, max_memory=HOST))
    assert found.code == "unknown-input"
    assert "pickled=True" in found.help
    plan = compile_model(model, max_memory=HOST)
    (found,) = refused(lambda: load_model(plan, model, folder / "pytorch_model.bin"))
    assert (found.code, "pickle" in found.message) == ("unknown-input", True)


def test_pickles_are_read_when_asked(pickled):
    model, folder = pickled
    mine = load_pretrained(folder, pickled=True, max_memory=HOST)
    assert not mine.training
    assert torch.equal(mine(TOKENS).logits, model(TOKENS).logits)
    half = load_pretrained(folder, pickled=True, dtype="bfloat16", max_memory=HOST)
    assert half.dtype == torch.bfloat16
    (found,) = refused(lambda: load_pretrained(folder, parse(ON_DISK), pickled=True))
    assert found.code == "disk-without-checkpoint"


class Harm:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_pickles_that_run_code_are_not_read(pickled, capsys):
    _, folder = pickled
    torch.save({"a": Harm()}, folder / "pytorch_model.bin")
    (found,) = refused(lambda: load_pretrained(folder, pickled=True, max_memory=HOST))
    assert found.code == "config-failed"
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_attention_is_the_one_that_is_asked_for(name, tmp_path):
    model = llama()
    model.save_pretrained(tmp_path)
    for plan in (None, parse(ON_DISK)):
        options = {"max_memory": HOST} if plan is None else {}
        mine = load_pretrained(tmp_path, plan, attn_implementation=name, **options)
        assert mine.config._attn_implementation == name
        assert same_outputs(mine(TOKENS).logits, model(TOKENS).logits)


def test_attention_without_a_wish_is_what_transformers_chooses(tmp_path):
    llama().save_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation
    assert load_pretrained(tmp_path, max_memory=HOST).config._attn_implementation == theirs
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace("{", '{"attn_implementation": "eager",', 1))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation
    assert load_pretrained(tmp_path, max_memory=HOST).config._attn_implementation == theirs == "eager"
    found = refused(lambda: load_pretrained(tmp_path, attn_implementation="none such", max_memory=HOST))
    assert [each.code for each in found] == ["config-failed"]


def gemma():
    config = transformers.Gemma3Config(
        text_config={**TEXT, "head_dim": 8}, vision_config=SIGHT, mm_tokens_per_image=1
    )
    return transformers.Gemma3ForConditionalGeneration(config)


def llava():
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**TEXT),
        vision_config=transformers.CLIPVisionConfig(**SIGHT),
        image_token_index=63,
    )
    return transformers.LlavaForConditionalGeneration(config)


@pytest.mark.parametrize(
    ("make", "part", "inner"),
    [(gemma, "Gemma3ForCausalLM", None), (gemma, "Gemma3TextModel", "language_model"),
     (llava, "LlamaForCausalLM", None), (llava, "LlamaModel", "language_model")],
)  # fmt: skip
def test_the_text_part_of_a_model_that_sees_is_loaded_alone(make, part, inner, tmp_path):
    torch.manual_seed(0)
    whole = make().eval()
    whole.save_pretrained(tmp_path)
    expected = whole(input_ids=TOKENS) if inner is None else getattr(whole.model, inner)(TOKENS)
    for plan in (None, parse(ON_DISK)):
        said, options = Diagnostics(), ({"max_memory": HOST} if plan is None else {})
        kind = getattr(transformers, part)
        mine = load_pretrained(tmp_path, plan, auto_class=kind, diagnostics=said, **options)
        assert type(mine) is kind
        assert same_outputs(mine(TOKENS)[0], expected[0])
        assert [found.code for found in said] == ["ignored-tensor"]


def normed(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ModuleDict({"a": nn.Linear(4, 4)})["a"])
    for layer in model:
        {"old": utils.weight_norm, "new": utils.parametrizations.weight_norm}[kind](layer)
    return model


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("stored", ["old", "new"])
@pytest.mark.parametrize("built", ["old", "new"])
def test_weight_norm_is_read_in_both_spellings(stored, built, tmp_path):
    source = normed(stored)
    save_file(source.state_dict(), tmp_path / "a.safetensors")
    model = normed(built)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    load_model(compile_model(model, max_memory=HOST), model, tmp_path / "a.safetensors")
    x = torch.ones(1, 4)
    assert same_outputs(model(x), source(x))


@pytest.mark.parametrize("spelling", ["old", "new"])
def test_weight_norm_of_transformers_models_is_read_in_both_spellings(spelling, tmp_path):
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8, 8),
        conv_stride=(2, 2), conv_kernel=(3, 3), num_feat_extract_layers=2, num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, vocab_size=8,
    )  # fmt: skip
    real = transformers.Wav2Vec2ForCTC(config).eval()
    real.save_pretrained(tmp_path)
    values = load_file(tmp_path / "model.safetensors")
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    for newer, older in names.items():
        before, after = (newer, older) if spelling == "old" else (older, newer)
        values = {name.replace(before, after): value for name, value in values.items()}
    save_file(values, tmp_path / "model.safetensors", metadata={"format": "pt"})
    sound = torch.ones(1, 400)
    for plan in (None, parse(ON_DISK)):
        mine = load_pretrained(tmp_path, plan, **({"max_memory": HOST} if plan is None else {}))
        assert same_outputs(mine(sound).logits, real(sound).logits)


def test_of_several_saves_the_one_transformers_reads_is_read_and_said(tmp_path):
    llama().save_pretrained(tmp_path)
    torch.manual_seed(1)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT)).save_pretrained(
        tmp_path / "shards", max_shard_size="3KB"
    )
    for file in (tmp_path / "shards").glob("model*"):
        file.rename(tmp_path / file.name)
    said = Diagnostics()
    mine = load_pretrained(tmp_path, max_memory=HOST, diagnostics=said)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(mine.lm_head.weight, theirs.lm_head.weight)
    assert [found.code for found in said] == ["several-saves"]


def test_a_folder_with_more_around_its_model_is_loaded(tmp_path):
    """As sentence-transformers saves: the model in the folder, pooling and dense layers in folders in it."""
    torch.manual_seed(0)
    kind = transformers.BertConfig(
        vocab_size=32, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    real = transformers.BertModel(kind).eval()
    real.save_pretrained(tmp_path)
    (tmp_path / "modules.json").write_text('[{"idx": 0, "name": "0", "path": ""}]')
    dense = tmp_path / "2_Dense"
    dense.mkdir()
    (dense / "config.json").write_text('{"in_features": 8, "out_features": 4}')
    save_file({"linear.weight": torch.ones(4, 8)}, dense / "model.safetensors")
    mine = load_pretrained(tmp_path, max_memory=HOST)
    assert same_outputs(mine(TOKENS)[0], real(TOKENS)[0])
