"""Quantised folders by `load_pretrained`: each works as its quantizer does, or is refused unread."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
import transformers
from compile_plan.compiler import load_model, load_pretrained
from compile_plan.compiler.driver import quantised_folder
from compile_plan.ir import Device, Model, Plan, PlanError, Unit
from own_process import run_support
from small_folders import METHODS, SAVED, UNSHOWN, write_quantised

DEVICES = (Device("cuda:0", None), Device("cuda:1", None), Device("cpu", None), Device("disk", None))
PLACES = {
    "streamed": (Unit("", "cuda:0", "cuda:0"), Unit("model.layers.1", "cpu", "cuda:0")),
    "card and host": (Unit("", "cuda:0", "cuda:0"), Unit("model.layers.1", "cpu", "cpu")),
    "disk": (Unit("", "cpu", "cpu"), Unit("model.layers.1", "disk", "cpu")),
    "disk to card": (Unit("", "cuda:0", "cuda:0"), Unit("model.layers.1", "disk", "cuda:0")),
}


def plan(*units: Unit) -> Plan:
    return Plan(Model("quantised"), DEVICES, units=units)


def never(*_args, **_options):
    raise AssertionError("the weights were asked for")


KINDS = [(method, place) for method in METHODS for place in PLACES if method in UNSHOWN or "disk" in place]


@pytest.mark.parametrize(("method", "place"), KINDS)
def test_what_a_quantizer_cannot_have_elsewhere_is_refused_before_it_is_asked(
    tmp_path, monkeypatch, method, place
):
    folder = write_quantised(tmp_path, method)
    monkeypatch.setattr(transformers.LlamaForCausalLM, "from_pretrained", never)
    with pytest.raises(PlanError) as caught:
        load_pretrained(folder, plan(*PLACES[place]), devices={"cuda:0": "cpu"})
    (found,) = caught.value.diagnostics
    assert found.code == "opaque-weights"
    assert method in found.message
    assert found.help is not None


def test_a_library_that_is_not_there_is_named(tmp_path):
    folder = write_quantised(tmp_path, "vptq")
    if importlib.util.find_spec("vptq") is not None:
        pytest.skip("vptq is installed")
    with pytest.raises(PlanError) as caught:
        load_pretrained(folder, max_memory={"cpu": "1GiB"})
    (found,) = caught.value.diagnostics
    assert found.code == "config-failed"
    assert any("vptq" in note.lower() for note in found.notes)
    assert "install" in found.help


def test_a_host_that_is_too_small_is_said_before_anything_is_read(tmp_path, monkeypatch):
    folder = write_quantised(tmp_path, "fp8")
    monkeypatch.setattr(transformers.LlamaForCausalLM, "from_pretrained", never)
    monkeypatch.setattr(quantised_folder, "available_memory", lambda: (1000, "here"))
    with pytest.raises(PlanError) as caught:
        load_pretrained(folder, plan(*PLACES["streamed"]), devices={"cuda:0": "cpu"})
    (found,) = caught.value.diagnostics
    assert found.code == "no-memory"
    assert "1000B" in found.message


def test_cards_alone_are_filled_by_the_quantizer_itself(tmp_path, monkeypatch):
    folder, asked = write_quantised(tmp_path, "bitsandbytes"), {}

    def given(_folder, **options):
        asked.update(options)
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SAVED))

    monkeypatch.setattr(transformers.LlamaForCausalLM, "from_pretrained", given)
    both = (Unit("", "cuda:0", "cuda:0"), Unit("model.layers.1", "cuda:1", "cuda:1"))
    load_pretrained(folder, plan(*both), devices={"cuda:1": "cuda:3"})
    assert asked["device_map"] == {"": 0, "model.layers.1": "cuda:3"}


def test_quantised_weights_are_streamed_and_computed_on_the_host():
    found = run_support("quantised_runs.py")
    assert found["fp8"] == dict.fromkeys(("streamed", "card and host", "units of tensors"), "equal")
    assert {got for rows in found.values() for got in rows.values()} == {"equal"}, found


@pytest.mark.parametrize("how", ["folder", "file"])
def test_gguf_is_refused_as_what_it_is(tmp_path, how):
    transformers.LlamaConfig(**SAVED).save_pretrained(tmp_path)
    (tmp_path / "small.gguf").write_bytes(b"GGUF" + bytes(60))
    given = tmp_path if how == "folder" else tmp_path / "small.gguf"
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SAVED))
    everything = plan(Unit("", "cpu", "cpu"))
    for load in (lambda: load_pretrained(given, everything), lambda: load_model(everything, model, given)):
        with pytest.raises(PlanError) as caught:
            load()
        (found,) = caught.value.diagnostics
        assert found.code == "unknown-input"
        assert "llama.cpp's own format" in " ".join((found.message, *found.notes))
        assert "gguf_file=" in found.help


def test_a_method_without_a_name_is_no_traceback(tmp_path):
    folder = write_quantised(tmp_path, "fp8")
    said = json.loads((folder / "config.json").read_text())
    for strange in ({"bits": 4}, {"quant_method": ["x"]}, ["fp8"], "fp8", {"quant_method": "x" * 900}):
        (folder / "config.json").write_text(json.dumps({**said, "quantization_config": strange}))
        for place in ("streamed", "disk"):
            with pytest.raises(PlanError) as caught:
                load_pretrained(folder, plan(*PLACES[place]), devices={"cuda:0": "cpu"})
            assert len(caught.value.diagnostics[0].message) < 600
