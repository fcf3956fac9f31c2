"""What people do with a model after it was loaded: everything works, or is refused by name."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from compile_plan.compiler.loading import load_model, release_model
from compile_plan.ir import PlanError, Unit
from rounding import same_outputs
from safetensors.torch import save_file
from tiny_checkpoints import TINY, on_meta, output, plan, save
from torch import nn

ON_DISK = Unit("", "disk", "cpu")
ON_CPU = Unit("", "cpu", "cpu")
TOKENS = torch.arange(1, 6)[None]
MODES = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "top_k": 5},
    "static cache": {"cache_implementation": "static"},
    "prompt lookup": {"prompt_lookup_num_tokens": 2},
}


def codes(caught):
    return [found.code for found in caught.value.diagnostics]


@pytest.fixture(name="served", scope="module", params=["llama", "gpt2", "mixtral"])
def _served(request, tmp_path_factory):
    """Return a plain model, the folder it was saved to, and what it is."""
    tiny, folder = TINY[request.param], tmp_path_factory.mktemp(request.param)
    return save(tiny, folder).eval(), folder, tiny


def on_disk(served):
    _, folder, tiny = served
    return load_model(plan(ON_DISK), on_meta(tiny), folder).eval()


@pytest.mark.parametrize("mode", MODES)
def test_it_generates_in_every_mode(served, mode):
    written = []
    for model in (served[0], on_disk(served)):
        torch.manual_seed(0)
        written.append(model.generate(TOKENS, max_new_tokens=4, pad_token_id=0, **MODES[mode]))
    assert torch.equal(*written)


def test_it_assists_and_is_assisted(served):
    real, mine = served[0], on_disk(served)
    options = {"max_new_tokens": 4, "pad_token_id": 0}
    expected = real.generate(TOKENS, **options)
    assert torch.equal(mine.generate(TOKENS, assistant_model=real, **options), expected)
    assert torch.equal(real.generate(TOKENS, assistant_model=mine, **options), expected)


def same_values(found, expected):
    return list(found) == list(expected) and all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("original", [True, False])
def test_it_is_saved_whole(served, original, tmp_path):
    real, mine = served[0], on_disk(served)
    assert same_values(mine.state_dict(), real.state_dict())
    mine.save_pretrained(tmp_path, save_original_format=original)
    assert same_values(type(real).from_pretrained(tmp_path).state_dict(), real.state_dict())
    torch.save(mine.state_dict(), tmp_path / "state.pt")
    assert same_values(torch.load(tmp_path / "state.pt", weights_only=True), real.state_dict())


CHANGES = {
    "half": lambda model: model.half(),
    "to a dtype": lambda model: model.to(torch.bfloat16),
    "to a device": lambda model: model.to("meta"),
    "empty": lambda model: model.to_empty(device="meta"),
    "no such device": lambda model: model.to("xpu:7"),
    "a part": lambda model: model.get_submodule("model.layers.1").half(),
    "around a part": lambda model: model.model.double(),
    "shared": lambda model: model.share_memory(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_would_change_streamed_weights_is_refused_and_changes_nothing(change, tmp_path):
    tiny = TINY["llama"]
    real = save(tiny, tmp_path).eval()
    model = load_model(plan(ON_CPU, Unit("model.layers.1", "disk", "cpu")), on_meta(tiny), tmp_path).eval()
    with pytest.raises(PlanError) as caught:
        CHANGES[change](model)
    assert codes(caught) == ["moved-by-hand"]
    assert same_values(model.state_dict(), real.state_dict())
    release_model(model)
    assert model.half().dtype == torch.float16


def test_what_changes_nothing_is_let_through(served):
    model = on_disk(served)
    assert model.to("cpu").float().to(model.device) is model
    assert same_outputs(output(model, served[2]), output(served[0], served[2]))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return self.second(self.first(x))


def two(tmp_path, *units, **options):
    torch.manual_seed(0)
    real = Two()
    save_file(real.state_dict(), tmp_path / "model.safetensors")
    with torch.device("meta"):
        model = Two()
    return real, load_model(plan(*units), model, tmp_path, **options)


def test_a_model_on_several_devices_is_converted_but_not_moved(tmp_path):
    units = Unit("first", "cpu", "cpu"), Unit("second", "cuda:0", "cuda:0")
    _, model = two(tmp_path, *units, devices={"cuda:0": "cpu:0"})
    for one in (model, copy.deepcopy(model)):
        with pytest.raises(PlanError) as caught:
            one.to("meta")
        assert codes(caught) == ["moved-by-hand"]
        assert "several devices" in caught.value.diagnostics[0].message
        assert one.double()(torch.ones(8, dtype=torch.double)).dtype == torch.double


def test_a_training_step_is_taken_where_weights_are_used_in_place(tmp_path):
    real, model = two(tmp_path, Unit("", "disk", "cpu"))
    before = (tmp_path / "model.safetensors").read_bytes()
    for one in (real, model):
        optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
        for _ in range(2):
            one(torch.ones(3, 8)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert same_outputs(model(torch.ones(3, 8)), real(torch.ones(3, 8)))
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_backward_through_weights_that_have_gone_is_refused_by_name(tmp_path):
    units = Unit("first", "cpu", "cpu"), Unit("second", "disk", "cpu")
    _, model = two(tmp_path, *units, dtype=torch.float64)
    written = model(torch.ones(3, 8, dtype=torch.float64))
    with pytest.raises(PlanError) as caught:
        written.sum().backward()
    assert codes(caught) == ["training-while-streaming"]
    assert "`second`" in caught.value.diagnostics[0].message
    assert same_outputs(model(torch.ones(3, 8, dtype=torch.float64)), written)


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_a_loaded_model_is_moved_to_another_plan_without_its_files(name, tmp_path):
    tiny = TINY[name]
    real = save(tiny, tmp_path).eval()
    model = load_model(plan(ON_DISK), on_meta(tiny), tmp_path).eval()
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()  # who has it open has it still
    one_layer, all_here = (ON_CPU, Unit("model.layers.1", "disk", "cpu")), (ON_CPU,)
    for units in ((ON_DISK,), one_layer, one_layer, all_here):
        assert load_model(plan(*units), model) is model
        assert same_outputs(output(model, tiny), output(real, tiny))
    assert same_values(model.half().state_dict(), real.half().state_dict())
    with pytest.raises(PlanError) as caught:
        load_model(plan(ON_DISK), model)
    assert codes(caught) == ["disk-without-checkpoint"]


def test_what_runs_in_another_precision_goes_on_doing_so(tmp_path):
    real, model = two(tmp_path, Unit("", "disk", "cpu"), dtype=torch.float64)
    load_model(plan(Unit("first", "cpu", "cpu"), Unit("second", "disk", "cpu")), model)
    x = torch.ones(3, 8, dtype=torch.float64)
    assert same_outputs(model(x), real.double()(x))


def test_it_is_copied_as_far_as_nothing_of_it_is_streamed(served):
    real, folder, tiny = served
    expected = real(TOKENS).logits
    resident = load_model(plan(ON_CPU), on_meta(tiny), folder).eval()
    twin = copy.deepcopy(resident)
    assert same_outputs(twin(TOKENS).logits, expected)
    with torch.no_grad():
        next(twin.parameters()).zero_()
    assert same_outputs(resident(TOKENS).logits, expected)
    streamed = on_disk(served)
    with pytest.raises(PlanError) as caught:
        copy.deepcopy(streamed)
    assert codes(caught) == ["copied-while-streaming"]
    release_model(streamed)
    assert same_outputs(copy.deepcopy(streamed)(TOKENS).logits, expected)


def test_a_model_in_training_mode_is_said_to_be(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="compile_plan"):
        two(tmp_path, Unit("", "cpu", "cpu"))
    assert "`Two` is in training mode" in caplog.text
