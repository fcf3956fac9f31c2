"""Whatever the architecture and wherever its weights are stored, the loaded model computes the same."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
import torch
from compile_plan.compiler import load_pretrained
from compile_plan.compiler.loading import load_model
from compile_plan.compiler.loading.conversions import converted
from compile_plan.compiler.loading.stacked import Stacked
from compile_plan.compiler.sources.checkpoint_index import index_checkpoint
from compile_plan.compiler.sources.live import lower_model
from compile_plan.ir import Diagnostics, PlanError, Unit
from rounding import same_outputs
from safetensors.torch import load_file, save_file
from tiny_checkpoints import STORED_OTHERWISE, TINY, on_meta, output, plan, save, tensors
from transformers import CONFIG_MAPPING

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

ON_CPU = Unit("", "cpu", "cpu")
ON_DISK = Unit("", "disk", "cpu")


@pytest.fixture(scope="module", params=TINY)
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    tiny = TINY[request.param]
    model = save(tiny, folder, max_shard_size="40KB", **dict(tiny.options))
    return tiny, folder, output(model, tiny)


def units_of(place, tiny):
    return {
        "cpu": (ON_CPU,),
        "disk": (ON_DISK,),
        "one-layer-on-disk": (ON_CPU, Unit(tiny.one_layer, "disk", "cpu")),
        "one-layer-in-memory": (ON_DISK, Unit(tiny.one_layer, "cpu", "cpu")),
    }[place]


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("place", ["cpu", "disk", "one-layer-on-disk", "one-layer-in-memory"])
def test_output_equals_plainly_loaded(saved, place, mapped):
    tiny, folder, expected = saved
    before = {file.name: file.stat().st_size for file in folder.iterdir()}
    model = load_model(plan(*units_of(place, tiny)), on_meta(tiny), folder, map_memory=mapped)
    assert not any(tensor.is_meta for tensor in tensors(model))
    assert same_outputs(output(model, tiny), expected)
    assert same_outputs(output(model, tiny), expected)
    assert {file.name: file.stat().st_size for file in folder.iterdir()} == before


def test_ties_are_those_of_the_model(saved):
    tiny, folder, _ = saved
    model = on_meta(tiny)
    before = lower_model(model).storages
    assert lower_model(load_model(plan(ON_CPU), model, folder)).storages == before


def test_values_of_another_precision_are_converted_on_the_way(saved):
    tiny, folder, _ = saved
    expected = load_model(plan(ON_CPU), on_meta(tiny), folder)
    expected = {name: value.to(torch.bfloat16) for name, value in expected.state_dict().items()}
    model = load_model(plan(ON_CPU), on_meta(tiny), folder, dtype="bfloat16")
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            assert value.dtype == torch.bfloat16
            assert torch.equal(value, expected[name])


def test_experts_stored_one_by_one_are_merged_while_they_are_read(tmp_path):
    tiny = TINY["mixtral"]
    expected = output(save(tiny, tmp_path, max_shard_size="40KB"), tiny)
    model = load_model(plan(ON_CPU), on_meta(tiny), tmp_path)
    assert same_outputs(output(model, tiny), expected)


def with_other_values(model):
    """Fill all that a checkpoint holds with values no initialisation makes."""
    with torch.no_grad():
        held = model.state_dict(keep_vars=True).values()
        for number, tensor in enumerate(value for value in held if value.is_floating_point()):
            tensor.copy_(torch.linspace(-1, 1 + number, tensor.numel()).view(tensor.shape))
    return model


@pytest.mark.parametrize("original", [True, False])
@pytest.mark.parametrize("difference", STORED_OTHERWISE)
def test_what_is_stored_otherwise_becomes_the_same_model(tmp_path, difference, original):
    real = with_other_values(STORED_OTHERWISE[difference]())
    real.save_pretrained(tmp_path, save_original_format=original)
    with torch.device("meta"):
        model = STORED_OTHERWISE[difference]()
    load_model(plan(ON_CPU), model, tmp_path)
    for kind in ("named_parameters", "named_buffers"):
        made = dict(getattr(model, kind)())
        expected = dict(getattr(real, kind)())
        assert list(made) == list(expected)
        assert [name for name in made if not torch.equal(made[name], expected[name])] == []


@pytest.mark.parametrize("difference", STORED_OTHERWISE)
def test_what_pieces_tell_of_a_stack_is_what_stacking_them_makes(difference, tmp_path):
    model = STORED_OTHERWISE[difference]()
    model.save_pretrained(tmp_path)
    index = index_checkpoint(tmp_path, Diagnostics())
    known = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    merges = converted(model, index.tensors, known).merges
    assert "single experts" not in difference or any(merge.kinds() for merge in merges)
    for merge in merges:
        values = [torch.empty(one.shape, dtype=getattr(torch, one.dtype)) for _, one in merge.sources]
        made = merge.run(values, model)
        assert merge.shapes(model) == {path: (tuple(one.shape), one.dtype) for path, one in made.items()}


def test_experts_stored_one_by_one_stay_so_on_disk(tmp_path):
    tiny = TINY["mixtral"]
    expected = output(save(tiny, tmp_path, max_shard_size="40KB"), tiny)
    model = load_model(plan(ON_DISK), on_meta(tiny), tmp_path)
    for _ in range(2):
        assert same_outputs(output(model, tiny), expected)
    stack = model.model.layers[0].mlp.experts.down_proj
    assert not stack.is_meta
    assert repr(stack) == f"Stacked({list(stack.shape)}, dtype=torch.float32, on disk in pieces)"


def test_pieces_of_several_precisions_are_put_together_when_they_are_used(tmp_path):
    tiny = TINY["mixtral"]
    save(tiny, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if "experts.1." in name)
    save_file(tensors | {name: tensors[name].bfloat16()}, tmp_path / "model.safetensors")
    in_memory, on_disk = (load_model(plan(unit), on_meta(tiny), tmp_path) for unit in (ON_CPU, ON_DISK))
    assert same_outputs(output(on_disk, tiny), output(in_memory, tiny))


@pytest.mark.parametrize("kind", ["gte", "kimi_k25"])
def test_what_is_cut_on_loading_is_cut_whenever_it_is_used(kind, tmp_path):
    from folder_sweep import saved

    if kind not in CONFIG_MAPPING:
        pytest.skip("this transformers is older")
    made = saved(kind, tmp_path)
    model = load_pretrained(tmp_path, plan(ON_DISK), auto_class=made.cls)
    cut = [name for name, value in model.named_parameters() if isinstance(value, Stacked)]
    assert cut
    assert same_values(model.state_dict(), made.loaded.state_dict())
    owner = model.get_submodule(cut[0].rpartition(".")[0])
    x = torch.ones(2, owner.weight.shape[1])
    assert torch.equal(owner(x), made.loaded.get_submodule(cut[0].rpartition(".")[0])(x))
    model.save_pretrained(tmp_path / "again")
    again = made.cls.from_pretrained(tmp_path / "again")
    assert same_values(again.state_dict(), made.loaded.state_dict())
    owner.weight.data.mul_(2)
    owner.weight.detach()[0].mul_(2)
    assert torch.equal(owner.weight[1:], 2 * made.loaded.get_parameter(cut[0])[1:])
    assert torch.equal(owner.weight[0], 4 * made.loaded.get_parameter(cut[0])[0])
    assert owner.weight.pieces.spans() == []
    assert owner.weight.data.pieces is owner.weight.pieces


def test_what_a_forward_writes_to_pieces_on_disk_is_there_in_the_next(tmp_path):
    tiny = TINY["mixtral"]
    real = save(tiny, tmp_path)
    model = load_model(plan(ON_DISK), on_meta(tiny), tmp_path)
    for each in (real, model):
        experts = each.model.layers[0].mlp.experts

        def doubled(module, _inputs):
            with torch.no_grad():
                module.down_proj.mul_(2)

        handle = experts.register_forward_pre_hook(doubled)
        output(each, tiny)
        handle.remove()
    assert same_outputs(output(model, tiny), output(real, tiny))
    assert same_values(model.state_dict(), real.state_dict())


def added_to_all(stack):
    for row in stack:
        row.add_(1)


def cut_part(stack):
    stack.data[1] *= 2


def stepped(optimizer):
    def step(stack):
        stack.grad = torch.ones(stack.shape)
        optimizer([stack], lr=0.1).step()

    return step


WRITES = {
    "all": lambda stack: stack.data.mul_(2),
    "in-lists": lambda stack: torch._foreach_mul_([stack.data], 2),
    "views-in-lists": lambda stack: torch._foreach_mul_([stack[0], stack[1], stack.data[0]], 2),
    "as-output": lambda stack: torch.mul(torch.ones_like(stack), 3, out=stack.data),
    "view-as-output": lambda stack: torch.mul(torch.ones_like(stack[0]), 3, out=stack[0]),
    "by-index": lambda stack: stack.__setitem__(0, stack[1]),
    "by-mask": lambda stack: stack.__setitem__(stack > 0, 0.5),
    "part-of-data": cut_part,
    "row": lambda stack: stack[1].copy_(stack[0]),
    "rows": added_to_all,
    "chunk": lambda stack: stack.chunk(2, dim=1)[1].zero_(),
    "split": lambda stack: stack.split([1, 3], dim=0)[1].zero_(),
    "narrow": lambda stack: stack.narrow(2, 1, 2).add_(1),
    "flat": lambda stack: stack.view(-1)[3:9].add_(1),
    "transposed": lambda stack: stack[0].T[1].add_(1),
    "diagonal": lambda stack: stack[0].diagonal().zero_(),
    "other-dtype": lambda stack: stack.view(torch.int32)[1].zero_(),
    "data": lambda stack: setattr(stack, "data", torch.ones(stack.shape).mT.contiguous().mT),
    "set": lambda stack: stack.set_(torch.ones(stack.shape)),
    "init": lambda stack: torch.nn.init.ones_(stack[1]),
    "vector": lambda stack: torch.nn.utils.vector_to_parameters(torch.ones(stack.numel()), [stack]),
    "sgd": stepped(torch.optim.SGD),
    "adamw": stepped(torch.optim.AdamW),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_what_is_written_to_pieces_on_disk_is_kept_and_their_files_are_not_needed(write, tmp_path):
    tiny = TINY["mixtral"]
    real = save(tiny, tmp_path)
    model = load_model(plan(ON_DISK), on_meta(tiny), tmp_path)
    stacks = [each.model.layers[0].mlp.experts.down_proj for each in (real, model)]
    with torch.no_grad():
        for stack in stacks * 2:
            write(stack)
    assert same_outputs(output(model, tiny), output(real, tiny))
    assert same_values(model.state_dict(), real.state_dict())
    pieces = stacks[1].pieces
    assert pieces.writes >= 2
    assert (pieces.spans(), pieces.spans([1])) == ([], [])
    assert stacks[1].data.pieces is pieces


@pytest.fixture
def stack(tmp_path):
    tiny = TINY["mixtral"]
    save(tiny, tmp_path)
    return load_model(plan(ON_DISK), on_meta(tiny), tmp_path).model.layers[0].mlp.experts.down_proj


@pytest.mark.parametrize(
    "change",
    [
        lambda stack: stack.set_(torch.zeros(2, 2)),
        lambda stack: stack.transpose_(1, 2),
        lambda stack: setattr(stack, "data", torch.zeros(2, 2)),
        lambda stack: setattr(stack[0], "data", torch.zeros(stack[0].shape)),
        lambda stack: stack.share_memory_(),
        lambda stack: torch.from_dlpack(stack.detach()[0]),
    ],
)
def test_what_works_on_the_memory_of_a_tensor_is_refused_for_one_in_files(change, stack):
    with torch.no_grad(), pytest.raises(PlanError) as caught:
        change(stack)
    assert [found.code for found in caught.value.diagnostics] == ["not-in-memory"]


def test_a_view_of_a_stack_in_files_is_read_like_any_tensor(stack):
    plain = stack.clone()
    array = stack.detach()[0].numpy()
    assert (array == plain[0].detach().numpy()).all()
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    assert stack[1].tolist() == plain[1].tolist()
    assert repr(stack.detach()[1]) == repr(plain.detach()[1])
    assert f"{stack[0, 0, 0]:.3f}" == f"{plain[0, 0, 0]:.3f}"
    for part, expected in ((stack[1].detach(), plain[1].detach()), (stack, plain)):
        again = pickle.loads(pickle.dumps(part))  # noqa: S301  # of our own making
        assert not isinstance(again, Stacked)
        assert torch.equal(again, expected)
    (stack[0] * 2).sum().backward()
    assert torch.equal(stack.grad[0], torch.full_like(plain[0], 2))


def test_another_checkpoint_takes_the_place_of_the_first_in_stacks_on_disk(tmp_path):
    tiny = TINY["mixtral"]
    first, second = tmp_path / "first", tmp_path / "second"
    save(tiny, first)
    real = with_other_values(save(tiny, second))
    real.save_pretrained(second)
    model = load_model(plan(ON_DISK), on_meta(tiny), first)
    with torch.no_grad():
        model.model.layers[0].mlp.experts.down_proj[0].zero_()
    load_model(plan(ON_DISK), model, second)
    assert same_values(model.state_dict(), real.state_dict())
    assert same_outputs(output(model, tiny), output(real, tiny))


def same_values(found, expected):
    return list(found) == list(expected) and all(torch.equal(found[name], expected[name]) for name in found)
