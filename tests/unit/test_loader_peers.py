"""Our maps in accelerate and transformers as they are, and our loader under PEFT: the real libraries."""

from __future__ import annotations

import accelerate
import peft
import pytest
import torch
import transformers
from accelerate.utils import extract_submodules_state_dict
from compile_plan.backends import to_device_map
from compile_plan.compiler import compile_model
from compile_plan.compiler.loading import load_model, release_model
from compile_plan.ir import Unit, is_within
from rounding import same_outputs
from small_net import ON_CPU
from tiny_checkpoints import TINY, on_meta, output, plan, save, tensors
from transformers.integrations.accelerate import expand_device_map

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft asks
NAMES = ["llama", "gpt2", "bert", "t5", "gemma2", "qwen2", "vit", "bloom"]


@pytest.fixture(scope="module", params=NAMES, name="saved")
def _saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    tiny = TINY[request.param]
    model = save(tiny, folder, max_shard_size="40KB", **dict(tiny.options))
    return tiny, folder, output(model, tiny)


def map_with_disk(tiny):
    """Compile for half the bytes in memory, the rest on disk."""
    model = on_meta(tiny)
    nbytes = sum({id(t): t.nbytes for t in tensors(model)}.values())
    compiled = compile_model(model, max_memory={"cpu": int(nbytes * 0.6), "disk": "1GiB"})
    found = to_device_map(compiled)
    assert set(found.values()) == {"cpu", "disk"}
    return found


def meant(device_map, name):
    """Return the device of the only key that a tensor lies within, names taken whole."""
    (device,) = {device for key, device in device_map.items() if is_within(name, key)}
    return device


def test_readers_that_go_by_letters_agree_with_whole_names(saved):
    """A key may be the beginning of a sibling's name: `word_embeddings` of `word_embeddings_layernorm`.

    transformers takes the deepest and longest key whose letters a name begins with, accelerate whole names.
    """
    tiny, *_ = saved
    device_map, state = map_with_disk(tiny), on_meta(tiny).state_dict()
    wanted = {name: meant(device_map, name) for name in state}
    assert expand_device_map(device_map, list(state)) == wanted
    on_disk = [key for key, device in device_map.items() if device == "disk"]
    assert extract_submodules_state_dict(state, on_disk).keys() == {
        n for n, d in wanted.items() if d == "disk"
    }


# accelerate warns of keys that are bare tensors, its own maps' too
@pytest.mark.filterwarnings("ignore:The following device_map keys do not match")
def test_dispatch_model_takes_our_map(saved, tmp_path):
    tiny, folder, expected = saved
    device_map = map_with_disk(tiny)
    model = load_model(plan(ON_CPU), on_meta(tiny), folder, map_memory=False)
    accelerate.dispatch_model(model, device_map, main_device="cpu", offload_dir=tmp_path, force_hooks=True)
    assert any(tensor.is_meta for tensor in tensors(model))
    assert same_outputs(output(model, tiny), expected)


@pytest.mark.filterwarnings("ignore:The following device_map keys do not match")
def test_from_pretrained_takes_our_map(saved, tmp_path):
    tiny, folder, expected = saved
    device_map = map_with_disk(tiny)
    loaded = type(on_meta(tiny)).from_pretrained(folder, device_map=device_map, offload_folder=tmp_path)
    assert loaded.hf_device_map == device_map
    assert same_outputs(output(loaded.eval(), tiny), expected)


def adapted(model):
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=2, init_lora_weights=True)
    return peft.get_peft_model(model, config).eval()


@pytest.fixture(name="llama")
def _llama(tmp_path):
    tiny = TINY["llama"]
    return tiny, tmp_path, output(save(tiny, tmp_path), tiny)


UNITS = (ON_CPU, Unit("model.layers.1", "disk", "cpu"))


def test_a_loaded_model_is_given_adapters(llama):
    tiny, folder, expected = llama
    model = adapted(load_model(plan(*UNITS), on_meta(tiny), folder))
    assert same_outputs(output(model, tiny), expected)


def test_a_model_with_adapters_is_loaded_by_the_plan_of_its_base(llama):
    tiny, folder, expected = llama
    model = adapted(on_meta(tiny))
    made = []

    def materialize(path, tensor):
        if "lora_" not in path:
            return None
        made.append(path)
        return torch.zeros(tensor.shape) if "lora_B" in path else torch.ones(tensor.shape)

    load_model(plan(*UNITS), model, folder, materialize=materialize)
    assert not any(tensor.is_meta for tensor in tensors(model))
    assert len(made) in {0, 12}
    assert same_outputs(output(model, tiny), expected)
    release_model(model)


def test_adapters_are_merged_into_mapped_weights_without_changing_the_file(llama):
    tiny, folder, expected = llama
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    model = adapted(load_model(plan(ON_CPU), on_meta(tiny), folder))
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(value)
    with_adapters = output(model, tiny)
    merged = model.merge_and_unload()
    assert same_outputs(output(merged, tiny), with_adapters)
    assert not same_outputs(with_adapters, expected)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert isinstance(merged, transformers.LlamaForCausalLM)
