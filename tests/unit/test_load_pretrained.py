"""A folder becomes a running model in one call; what transformers forgives in it is forgiven with a word."""

from __future__ import annotations

import json

import pytest
import torch
from compile_plan.compiler import compile_model, compile_plan, load_model, load_pretrained
from compile_plan.ir import Diagnostics, PlanError
from safetensors.torch import load_file, save_file

transformers = pytest.importorskip("transformers")

CPU = {"cpu": "1GiB"}
TINY = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2,
}  # fmt: skip
T5 = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
TOKENS = torch.arange(1, 7)[None]


def saved(folder, kind, **settings):
    torch.manual_seed(0)
    model = kind(kind.config_class(**settings)).eval()
    model.save_pretrained(folder)
    return model


def edit(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def loaded(folder, kind, **settings):
    with torch.device("meta"):
        empty = kind(kind.config_class(**settings)).eval()
    found = Diagnostics()
    plan = compile_model(empty, max_memory=CPU)
    return load_model(plan, empty, folder, diagnostics=found), [finding.code for finding in found]


def test_a_folder_is_loaded_in_one_line(tmp_path):
    model = saved(tmp_path, transformers.LlamaForCausalLM, **TINY)
    transformers.GenerationConfig(max_new_tokens=3).save_pretrained(tmp_path)
    mine = load_pretrained(tmp_path, max_memory=CPU)
    assert not mine.training
    assert mine.generation_config.max_new_tokens == 3
    assert torch.equal(mine.generate(TOKENS), model.generate(TOKENS, max_new_tokens=3))


def test_it_takes_a_plan_of_any_form(tmp_path):
    from compile_plan.backends import write_plan

    model = saved(tmp_path / "m", transformers.LlamaForCausalLM, **TINY)
    plan = compile_plan(tmp_path / "m", max_memory=CPU)
    for form in ("plan", "msgpack", "json"):
        write_plan(plan, tmp_path / f"p.{form}")
        mine = load_pretrained(tmp_path / "m", tmp_path / f"p.{form}")
        assert torch.equal(mine(TOKENS).logits, model(TOKENS).logits)


def test_dtype_and_class_can_be_chosen(tmp_path):
    saved(tmp_path, transformers.LlamaForCausalLM, **TINY)
    mine = load_pretrained(tmp_path, dtype=torch.bfloat16, max_memory=CPU)
    assert {p.dtype for p in mine.parameters()} == {torch.bfloat16}
    assert (
        type(load_pretrained(tmp_path, auto_class=transformers.AutoModel, max_memory=CPU)).__name__
        == "LlamaModel"
    )


def test_dtype_is_the_one_transformers_chooses(tmp_path):
    saved(tmp_path, transformers.LlamaForCausalLM, **TINY)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**content, "dtype": None}))
    edit(tmp_path, lambda tensors: tensors.update({k: v.half() for k, v in tensors.items()}))
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    assert load_pretrained(tmp_path, max_memory=CPU).dtype == theirs.dtype == torch.float16
    assert load_pretrained(tmp_path, dtype="auto", max_memory=CPU).dtype == torch.float16


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dtype", "flaot16"),
        ("dtype", "int8"),
        ("dtype", torch.int8),
        ("dtype", 5),
        ("auto_class", "AutoModel"),
        ("auto_class", dict),
        ("attn_implementation", 3),
        ("pickled", "yes"),
        ("trust_remote_code", 1),
    ],
)
def test_a_value_that_is_none_of_an_argument_s_is_named(tmp_path, name, value):
    with pytest.raises(PlanError) as caught:
        load_pretrained(tmp_path, **{name: value})
    (found,) = caught.value.diagnostics
    assert found.rule.code == "bad-option-value"
    assert f"`{name}`" in found.message


@pytest.mark.parametrize("folder", [None, 5, b"folder"])
def test_what_is_no_folder_is_named(folder):
    with pytest.raises(PlanError) as caught:
        load_pretrained(folder)
    assert [found.rule.code for found in caught.value.diagnostics] == ["bad-option-value"]


def test_a_missing_folder_is_a_finding(tmp_path):
    with pytest.raises(PlanError) as caught:
        load_pretrained(tmp_path / "nothing")
    assert caught.value.diagnostics[0].code == "missing-input"
    (tmp_path / "config.json").touch()
    with pytest.raises(PlanError) as caught:
        load_pretrained(tmp_path / "config.json")
    assert caught.value.diagnostics[0].message == f"`{tmp_path / 'config.json'}` is a file"


def test_a_keyword_that_is_unknown_is_one_of_the_function_that_was_called(tmp_path):
    with pytest.raises(TypeError, match=r"^load_pretrained\(\) .*'device_map'; did you mean 'strategy'\?$"):
        load_pretrained(tmp_path, device_map="auto")


def test_a_head_of_its_own_is_untied_as_transformers_does(tmp_path):
    saved(tmp_path, transformers.T5ForConditionalGeneration, **T5)
    edit(tmp_path, lambda tensors: tensors.update({"lm_head.weight": torch.randn(64, 16)}))
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path)
    mine, codes = loaded(tmp_path, transformers.T5ForConditionalGeneration, **T5)
    assert codes == ["untied-tensors"]
    assert torch.equal(mine.lm_head.weight, theirs.lm_head.weight)
    assert mine.shared.weight is mine.encoder.embed_tokens.weight


def test_a_failed_load_leaves_ties_as_they_were(tmp_path):
    saved(tmp_path, transformers.T5ForConditionalGeneration, **T5)

    def change(tensors):
        tensors["lm_head.weight"] = torch.randn(64, 16)
        del tensors["encoder.final_layer_norm.weight"]

    edit(tmp_path, change)
    with torch.device("meta"):
        empty = transformers.T5ForConditionalGeneration(transformers.T5Config(**T5))
    with pytest.raises(PlanError):
        load_model(compile_model(empty, max_memory=CPU), empty, tmp_path)
    assert empty.lm_head.weight is empty.shared.weight


def test_float32_modules_stay_float32(tmp_path):
    saved(tmp_path, transformers.T5ForConditionalGeneration, **T5).half().save_pretrained(tmp_path)
    config = transformers.T5Config(**T5)
    with torch.device("meta"):
        empty = transformers.T5ForConditionalGeneration._from_config(config, dtype=torch.float16)
    plan = compile_model(empty, max_memory=CPU)
    load_model(plan, empty, tmp_path)
    assert empty.encoder.block[0].layer[1].DenseReluDense.wo.weight.dtype == torch.float32
    assert sum(account.weights for account in plan.ledger) == sum(p.nbytes for p in empty.parameters())


BERT = {**TINY, "max_position_embeddings": 16}


def test_a_head_that_is_not_stored_is_made_anew(tmp_path):
    model = saved(tmp_path, transformers.BertModel, **BERT)
    mine, codes = loaded(tmp_path, transformers.BertForSequenceClassification, **BERT)
    assert "new-tensor" in codes
    assert not torch.equal(mine.classifier.weight, torch.zeros_like(mine.classifier.weight))
    assert torch.equal(mine.bert.embeddings.word_embeddings.weight, model.embeddings.word_embeddings.weight)


@pytest.mark.parametrize(
    ("kind", "other", "settings", "codes"),
    [
        ("LlamaForCausalLM", "LlamaForSequenceClassification", TINY, {"new-tensor", "ignored-tensor"}),
        ("BertForPreTraining", "BertForMaskedLM", BERT, {"ignored-tensor"}),
        ("BertForSequenceClassification", "BertForTokenClassification", BERT, {"ignored-tensor"}),
        ("BertForMaskedLM", "BertModel", BERT, {"new-tensor", "ignored-tensor"}),
        ("BertForMaskedLM", "BertForSequenceClassification", BERT, {"new-tensor", "ignored-tensor"}),
    ],
)
def test_parts_of_another_class_are_skipped_with_a_word(tmp_path, kind, other, settings, codes):
    saved(tmp_path, getattr(transformers, kind), **settings)
    theirs, again = (getattr(transformers, other).from_pretrained(tmp_path) for _ in range(2))
    mine, found = loaded(tmp_path, type(theirs), **settings)
    assert set(found) >= codes
    stored = [n for n, value in theirs.state_dict().items() if torch.equal(value, again.state_dict()[n])]
    assert stored
    assert all(torch.equal(theirs.state_dict()[name], mine.state_dict()[name]) for name in stored)


def test_half_a_pooler_is_no_new_one(tmp_path):
    saved(tmp_path, transformers.BertModel, **BERT)
    edit(tmp_path, lambda tensors: tensors.pop("pooler.dense.bias"))
    with pytest.raises(PlanError) as caught:
        loaded(tmp_path, transformers.BertModel, **BERT)
    assert [found.code for found in caught.value.diagnostics] == ["tensor-not-in-checkpoint"]


def test_a_parameter_the_modules_of_the_class_have_not_is_still_an_error(tmp_path):
    saved(tmp_path, transformers.LlamaForCausalLM, **TINY)
    name = "model.layers.0.self_attn.q_proj.bias"
    edit(tmp_path, lambda tensors: tensors.update({name: torch.ones(16)}))
    with pytest.raises(PlanError) as caught:
        loaded(tmp_path, transformers.LlamaForCausalLM, **TINY)
    assert [found.code for found in caught.value.diagnostics] == ["tensor-not-in-model"]


def test_what_old_releases_stored_is_skipped_with_a_word(tmp_path):
    saved(tmp_path, transformers.LlamaForCausalLM, **TINY)
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit(tmp_path, lambda tensors: tensors.update({name: torch.ones(4)}))
    assert loaded(tmp_path, transformers.LlamaForCausalLM, **TINY)[1] == ["ignored-tensor"]


def test_a_buffer_that_is_not_stored_is_made_anew(tmp_path):
    sizes = {"vocab_size": 64, "d_model": 16, "max_position_embeddings": 16}
    for part in ("encoder", "decoder"):
        sizes |= {f"{part}_layers": 1, f"{part}_attention_heads": 2, f"{part}_ffn_dim": 16}
    kind = transformers.BartForConditionalGeneration
    saved(tmp_path, kind, **sizes)
    edit(tmp_path, lambda tensors: tensors.pop("final_logits_bias"))
    mine, codes = loaded(tmp_path, kind, **sizes)
    assert codes == ["new-tensor"]
    assert not mine.final_logits_bias.any()


def test_a_layer_that_is_missing_is_still_an_error(tmp_path):
    saved(tmp_path, transformers.LlamaForCausalLM, **TINY)
    edit(tmp_path, lambda tensors: tensors.pop("model.layers.0.mlp.up_proj.weight"))
    with pytest.raises(PlanError) as caught:
        loaded(tmp_path, transformers.LlamaForCausalLM, **TINY)
    assert caught.value.diagnostics[0].code == "tensor-not-in-checkpoint"


def test_quantised_weights_are_refused_as_what_they_are(tmp_path):
    saved(tmp_path, transformers.LlamaForCausalLM, **TINY)
    content = json.loads((tmp_path / "config.json").read_text())
    quantised = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (tmp_path / "config.json").write_text(json.dumps({**content, "quantization_config": quantised}))
    with pytest.raises(PlanError) as caught:
        loaded(tmp_path, transformers.LlamaForCausalLM, **TINY)
    (finding,) = caught.value.diagnostics
    assert finding.code == "quantised-checkpoint"
    assert "bitsandbytes" in finding.message
    assert "strict" not in finding.help


def test_weights_are_loaded_as_they_were_planned(tmp_path):
    saved(tmp_path, transformers.LlamaForCausalLM, **TINY)
    for given in (None, "bfloat16"):
        with torch.device("meta"):
            empty = transformers.LlamaForCausalLM(transformers.LlamaConfig(**TINY))
        plan = compile_model(empty, max_memory=CPU, dtype="bfloat16")
        load_model(plan, empty, tmp_path, dtype=given)
        assert {p.dtype for p in empty.parameters()} == {torch.bfloat16}


def test_more_bytes_than_planned_are_said(tmp_path):
    saved(tmp_path, transformers.LlamaForCausalLM, **TINY).bfloat16().save_pretrained(tmp_path)
    with torch.device("meta"):
        empty = transformers.LlamaForCausalLM(transformers.LlamaConfig(**TINY))
    found = Diagnostics()
    load_model(compile_plan(tmp_path, max_memory=CPU), empty, tmp_path, diagnostics=found)
    assert [finding.code for finding in found] == ["larger-than-planned"]
