"""What compiled device_maps are worth: transformers and accelerate load and run models by them."""

from __future__ import annotations

import pytest
from accelerate import dispatch_model
from accelerate.utils import check_device_map
from compile_plan.backends import device_map_diagnostics, to_device_map
from compile_plan.compiler import compile_model
from rounding import same_outputs
from tiny_checkpoints import TINY, output, save

# accelerate says so of keys that name a parameter, which it then obeys
pytestmark = pytest.mark.filterwarnings("ignore:The following device_map keys do not match any submodules")


@pytest.fixture(scope="module", params=TINY)
def saved(request, tmp_path_factory):
    """A saved model, its plan with about half of it on disk, and what it computes."""
    tiny = TINY[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    model = save(tiny, folder, max_shard_size="40KB", **dict(tiny.options))
    sizes = [parameter.nbytes for parameter in model.parameters()]
    memory = max(sum(sizes) * 6 // 10, max(sizes) + 2**12)  # what runs must fit, whatever is on disk
    plan = compile_model(model, max_memory={"cpu": memory, "disk": 2**30}, time_limit=2)
    return tiny, folder, model, plan, output(model, tiny)


def place_of(device_map, tensor):
    """Find a tensor's device by whole names, as the keys are meant."""
    while tensor and tensor not in device_map:
        tensor = tensor.rpartition(".")[0]
    return device_map[tensor]


def test_accelerate_accepts_the_map(saved):
    _, _, model, plan, _ = saved
    device_map = to_device_map(plan)
    check_device_map(model, device_map)
    assert set(device_map.values()) == {"cpu", "disk"}
    assert device_map_diagnostics(plan) == ()


def test_transformers_loads_by_the_map(saved, tmp_path):
    tiny, folder, model, plan, expected = saved
    device_map = to_device_map(plan)
    loaded = type(model).from_pretrained(folder, device_map=device_map, offload_folder=tmp_path)
    found = {name: parameter.is_meta for name, parameter in loaded.named_parameters()}
    assert found == {name: place_of(device_map, name) == "disk" for name in found}
    assert same_outputs(output(loaded.eval(), tiny), expected)


def test_accelerate_dispatches_by_the_map(saved, tmp_path):
    tiny, _, model, plan, expected = saved
    dispatched = dispatch_model(model, to_device_map(plan), offload_dir=tmp_path, main_device="cpu")
    assert same_outputs(output(dispatched, tiny), expected)
