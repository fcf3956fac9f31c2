"""The loader on small torch models: what it checks and what it leaves behind."""

from __future__ import annotations

import gc
import json
from dataclasses import replace

import pytest
import torch
from compile_plan.backends import write_plan
from compile_plan.compiler import compile_model
from compile_plan.compiler.loading import load, load_model, obstacles
from compile_plan.compiler.sources.checkpoint import read_checkpoint
from compile_plan.compiler.sources.live import lower_model
from compile_plan.ir import Device, Diagnostics, Model, Plan, PlanError, Unit
from rounding import same_outputs
from safetensors.torch import save_file
from small_net import (
    IDS,
    ON_CPU,
    ON_DISK,
    Net,
    Rope,
    everything,
    meta,
    random_net,
    refused,
    save_in_two_shards,
    stored,
)
from tiny_checkpoints import DEVICES, plan
from torch import nn


@pytest.fixture(name="real")
def _real():
    return random_net()


@pytest.fixture(name="folder")
def _folder(real, tmp_path):
    return save_in_two_shards(real, tmp_path)


# What is loaded


@pytest.mark.parametrize(
    "units",
    [
        (ON_CPU,),
        (ON_DISK,),
        (ON_CPU, Unit("layers.1", "disk", "cpu")),
        (ON_CPU, Unit("layers.*.up", "disk", "cpu")),
        (Unit("layers", "disk", "cpu"), Unit("layers.2.scale", "cpu", "cpu"), *(
            Unit(path, "cpu", "cpu") for path in ("embed", "rope", "head")
        )),
    ],
)  # fmt: skip
def test_nested_plans_compute_what_the_model_computes(real, folder, units):
    model = load_model(plan(*units), meta(), folder)
    assert same_outputs(model(IDS), real(IDS))
    assert not any(t.is_meta for t in [*model.parameters(), *model.buffers()])
    assert model.head.weight is model.embed.weight


def test_a_plan_with_one_device_leaves_no_hooks_and_the_model_moves_freely(folder):
    model = load_model(plan(ON_CPU), meta(), folder)
    for module in model.modules():
        assert not module._forward_pre_hooks
        assert not module._forward_hooks
    assert "hf_device_map" not in model.__dict__
    assert model.to(torch.float64)(IDS).dtype == torch.float64


def test_tensors_on_disk_are_in_the_file_and_nothing_is_written(real, folder):
    before = {f.name: f.read_bytes() for f in folder.iterdir()}
    model = load_model(plan(ON_DISK), meta(), folder)
    with torch.no_grad():
        model.layers[0].up.weight.add_(1)
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before
    assert not same_outputs(model(IDS), real(IDS))


def test_copied_tensors_do_not_depend_on_the_file(real, folder):
    model = load_model(plan(ON_CPU), meta(), folder, map_memory=False)
    for name in ("a.safetensors", "b.safetensors"):
        (folder / name).write_bytes(bytes((folder / name).stat().st_size))
    assert same_outputs(model(IDS), real(IDS))


def test_mapped_tensors_are_changed_without_changing_the_file(real, folder):
    before = (folder / "a.safetensors").read_bytes()
    model = load_model(plan(ON_CPU), meta(), folder)
    assert same_outputs(model(IDS), real(IDS))
    model.layers[0].up.weight.data.zero_()
    assert (folder / "a.safetensors").read_bytes() == before


def test_buffers_follow_their_module_to_disk(folder):
    model = load_model(plan(ON_CPU, Unit("layers.1", "disk", "cpu")), meta(), folder)
    sites = model._compile_plan_execution.stream.sites
    assert [site.path for site in sites] == ["layers.1"]
    assert any(one.tensor is model.layers[1].scale for one in sites[0].streamed)


def test_parameters_of_a_real_model_stay_the_same_objects(folder):
    model = Net()
    before = list(model.parameters())
    load_model(plan(ON_CPU), model, folder)
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))


def test_a_model_with_values_needs_no_checkpoint(real):
    expected = real(IDS)
    assert load_model(plan(ON_CPU), real) is real
    assert same_outputs(real(IDS), expected)


def test_views_of_one_storage_are_views_again(tmp_path):
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.arange(6.0).view(2, 3))
            self.b = nn.Parameter(self.a.data.t())

    save_file({"a": torch.arange(6.0).view(2, 3) + 5}, tmp_path / "model.safetensors")
    with torch.device("meta"):
        model = Views()
    load_model(plan(ON_CPU), model, tmp_path)
    assert torch.equal(model.b, model.a.t())
    with torch.no_grad():
        model.a[0, 1] = 100
    assert model.b[1, 0] == 100


def test_bytes_at_an_odd_address_are_served_from_disk(real, tmp_path):
    tensors = stored(real)
    header, data = {}, b""
    for name, value in tensors.items():
        raw = value.detach().numpy().tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(value.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    text += b" " * ((3 - len(text)) % 8)
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    model = load_model(plan(ON_DISK), meta(), tmp_path)
    assert same_outputs(model(IDS), real(IDS))


def test_progress_reaches_the_total(folder):
    seen = []
    load_model(
        plan(ON_CPU),
        meta(),
        folder,
        map_memory=False,
        progress=lambda done, total: seen.append((done, total)),
    )
    total = sum(v.nbytes for v in stored(Net()).values())
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)


# What is in no checkpoint


class Forgetful(nn.Module):
    """Keeps nothing of its arguments, so its constructor cannot be run again."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer("angles", torch.arange(width) / width, persistent=False)

    def forward(self, x):
        return x * self.angles.cos().to(x.dtype)


class Lucky(Rope):
    def __init__(self, width):
        super().__init__(width)
        self.angles = torch.rand(width)


class Lazy(Rope):
    def __init__(self, width):
        super().__init__(width)
        self.angles = torch.empty(width)


@pytest.mark.parametrize("rope", [Forgetful, Lucky, Lazy])
def test_a_buffer_nothing_can_make_again_is_named(folder, rope):
    found = refused(plan(ON_CPU), meta(rope=rope), folder)
    assert list(found) == ["unfilled-tensor"]
    assert "`rope.angles`" in found["unfilled-tensor"].message


class Writing(Net):
    """Writes the buffers of what is inside it, as transformers' models do."""

    def _init_weights(self, module):
        if isinstance(module, Net):
            module.rope.angles.copy_(torch.arange(8) / 8)


class Around(nn.Module):
    """A model around another, with an initialisation that knows nothing of it."""

    def __init__(self):
        super().__init__()
        self.net = Writing(rope=Forgetful)

    def _init_weights(self, _module):
        return

    def forward(self, ids):
        return self.net(ids)


@pytest.mark.parametrize("build", [lambda: Writing(rope=Forgetful), Around])
def test_a_buffer_is_made_again_by_the_model_it_is_in(real, folder, build):
    with torch.device("meta"):
        model = build()
    assert same_outputs(load_model(plan(ON_CPU), model, folder)(IDS), real(IDS))


def test_materialize_makes_what_nothing_else_can(real, folder):
    asked = []

    def materialize(path, tensor):
        asked.append((path, tuple(tensor.shape)))
        return torch.arange(8) / 8

    model = load_model(plan(ON_CPU), meta(rope=Forgetful), folder, materialize=materialize)
    assert asked == [("rope.angles", (8,))]
    assert same_outputs(model(IDS), real(IDS))


def test_making_buffers_again_leaves_the_random_state_alone(folder):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load_model(plan(ON_CPU), meta(), folder)
    assert torch.equal(torch.rand(3), expected)


def test_names_on_only_one_side_are_all_reported_before_reading(real, tmp_path, monkeypatch):
    tensors = stored(real) | {"zzz": torch.zeros(2)}
    del tensors["layers.1.up.weight"], tensors["layers.1.scale"]
    save_file(tensors, tmp_path / "model.safetensors")
    monkeypatch.setattr(load, "read_all", None)
    found = refused(plan(ON_CPU), meta(), tmp_path)
    assert set(found) == {"tensor-not-in-checkpoint", "tensor-not-in-model"}
    assert "`layers.1.up.weight`" in found["tensor-not-in-checkpoint"].message
    assert "`layers.1.scale`" in found["tensor-not-in-checkpoint"].message
    assert "`zzz`" in found["tensor-not-in-model"].message


def test_without_strict_own_values_are_kept_and_reported(real, tmp_path):
    tensors = stored(real) | {"zzz": torch.zeros(2)}
    del tensors["layers.1.up.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    model, found = Net(), Diagnostics()
    kept = model.layers[1].up.weight.detach().clone()
    load_model(plan(ON_CPU), model, tmp_path, strict=False, diagnostics=found)
    assert {d.code for d in found} == {"kept-tensor", "ignored-tensor"}
    assert torch.equal(model.layers[1].up.weight, kept)
    assert torch.equal(model.layers[0].up.weight, real.layers[0].up.weight)


def test_without_strict_a_parameter_without_a_value_is_still_refused(real, tmp_path):
    tensors = stored(real)
    del tensors["layers.1.up.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    assert set(refused(plan(ON_CPU), meta(), tmp_path, strict=False)) == {"unfilled-tensor"}


def test_one_prefix_of_the_stored_names_is_seen_through(real, tmp_path):
    save_file({f"net.{k}": v for k, v in stored(real).items()}, tmp_path / "model.safetensors")
    assert same_outputs(load_model(plan(ON_CPU), meta(), tmp_path)(IDS), real(IDS))


# Whether everything agrees


def compiled(model):
    tree = lower_model(model)
    return Plan(Model("net", tree.digest), DEVICES, units=(ON_CPU,), tree=tree)


def test_a_plan_for_a_smaller_model_is_refused_with_the_difference(folder):
    found = refused(compiled(meta()), meta(layers=4), folder)
    assert found["another-model"].notes == ("added: `layers.3` (5 tensors)",)


def test_a_plan_for_other_shapes_is_refused_with_the_difference(folder):
    notes = refused(compiled(meta()), meta(width=4), folder)["another-model"].notes
    assert notes[0] == "reshaped: `embed.weight` [16, 8] -> [16, 4]"
    assert len(notes) == 7
    assert notes[-1].startswith("reshaped: ")


def test_a_changed_prefix_is_one_line(folder):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Net()

    with torch.device("meta"):
        model = Outer()
    notes = refused(compiled(meta()), model, folder)["another-model"].notes
    assert notes == ("renamed: `*` is now `inner.*` (16 tensors)",)


def test_a_plan_without_its_table_says_so(folder):
    bare = Plan(Model("net", "0" * 16), DEVICES, units=(ON_CPU,))
    assert "--with-modules" in refused(bare, meta(), folder)["another-model"].help


def test_the_plan_of_a_precision_applies_when_loading_converts_to_it(folder):
    half = compiled(meta().to(torch.bfloat16))
    assert refused(half, meta(), folder)["another-model"].notes[0].startswith("retyped: bfloat16 -> float32")
    model = load_model(half, meta(), folder, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.rope.angles.dtype == torch.float32


def test_a_compiled_model_is_loaded_as_the_model_inside(real, folder):
    model = meta()
    load_model(compiled(meta()), torch.compile(model, backend="eager"), folder)
    assert same_outputs(model(IDS), real(IDS))


def test_adapters_around_layers_follow_them(real, folder):
    class Lora(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base_layer = base
            self.lora_A = nn.ModuleDict({"default": nn.Linear(8, 2, bias=False, device="cpu")})

        def forward(self, x):
            return self.base_layer(x) + 0 * self.lora_A["default"](x).sum()

    class Peft(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.base_model = nn.ModuleDict({"model": model})

    model = meta()
    model.layers[1].up = Lora(model.layers[1].up)
    tree = lower_model(meta())
    units = (ON_CPU, Unit("layers.1", "disk", "cpu"))
    given = Plan(Model("net", tree.digest), DEVICES, units=units, tree=tree)
    load_model(given, Peft(model), folder)
    assert same_outputs(model(IDS), real(IDS))
    assert not any(t.is_meta for t in [*model.parameters(), *model.buffers()])


def test_a_unit_the_model_does_not_have_is_named(folder):
    found = refused(plan(ON_CPU, Unit("layerz.0", "cpu", "cpu")), meta(), folder)
    assert "`layerz.0`" in found["unknown-path"].message


def test_a_plan_that_forgets_a_module_is_refused(folder):
    assert "tensor-without-place" in refused(plan(Unit("layers", "cpu", "cpu")), meta(), folder)


def test_a_device_that_is_not_there_is_refused(folder):
    found = refused(plan(Unit("", "cuda:0", "cuda:0")), meta(), folder)
    assert "`cuda:0`" in found["absent-device"].message


def test_a_device_that_is_given_for_one_has_to_be_there(folder):
    found = refused(plan(Unit("", "cpu", "cpu")), meta(), folder, devices={"cpu": "xla:7"})
    assert "`xla:7`, which `devices` gives for `cpu`" in found["absent-device"].message


def test_another_device_can_stand_for_one(real, folder):
    given = plan(Unit("", "cpu", "cuda:0"))
    model = load_model(given, meta(), folder, devices={"cuda:0": "cpu"})
    assert same_outputs(model(IDS), real(IDS))


def test_a_plan_of_several_machines_is_refused(folder):
    there = Device("node1/cpu", None)
    given = Plan(Model("net"), (there,), units=(Unit("", there.name, there.name),))
    assert "other-host" in refused(given, meta(), folder)


def test_too_little_memory_is_noticed_before_reading(folder, monkeypatch):
    monkeypatch.setattr(obstacles, "free_memory", lambda _: 1000)
    monkeypatch.setattr(load, "read_all", None)
    found = refused(plan(ON_CPU), meta(), folder)
    assert "1000B free" in found["no-memory"].message


def test_what_nobody_has_any_more_makes_room_before_memory_is_said_to_be_short(real, folder, monkeypatch):
    collected = []
    monkeypatch.setattr(gc, "collect", lambda: collected.append(True))
    monkeypatch.setattr(obstacles, "free_memory", lambda _: 1 << 30 if collected else 1000)
    assert same_outputs(load_model(plan(ON_CPU), meta(), folder)(IDS), real(IDS))


@pytest.mark.parametrize("works", [True, False])
def test_the_collector_waits_while_a_model_is_loaded_and_goes_on_as_before(works, folder):
    seen = []
    was = gc.isenabled()
    (gc.enable if works else gc.disable)()
    try:
        load_model(plan(ON_CPU), meta(), folder, progress=lambda *_: seen.append(gc.isenabled()))
        seen.append(gc.isenabled())
        refused(plan(Unit("", "cuda:7", "cuda:7")), meta(), folder)
        seen.append(gc.isenabled())
    finally:
        (gc.enable if was else gc.disable)()
    assert set(seen[:-2]) == {False}
    assert seen[-2:] == [works, works]


def test_tensors_on_disk_need_no_memory(real, folder, monkeypatch):
    monkeypatch.setattr(obstacles, "free_memory", lambda _: 100)
    model = load_model(plan(ON_DISK), meta(), folder)
    assert same_outputs(model(IDS), real(IDS))


def test_disk_without_files_is_refused(real):
    with pytest.raises(PlanError) as caught:
        load_model(plan(ON_DISK), real)
    assert [d.code for d in caught.value.diagnostics] == ["disk-without-checkpoint"]


def test_other_shapes_and_kinds_are_refused(real, tmp_path):
    tensors = stored(real)
    tensors["layers.0.scale"] = torch.zeros(4)
    tensors["layers.1.scale"] = torch.zeros(8, dtype=torch.int32)
    save_file(tensors, tmp_path / "model.safetensors")
    found = refused(plan(ON_CPU), meta(), tmp_path)
    assert set(found) == {"wrong-shape", "wrong-dtype"}
    assert "`layers.0.scale` is [8], stored is [4]" in everything(found["wrong-shape"])
    assert "`layers.1.scale` is float32, stored is int32" in everything(found["wrong-dtype"])


# Plans from the compiler


@pytest.mark.parametrize("suffix", ["plan", "msgpack", "json"])
def test_a_compiled_plan_is_loaded_from_every_form(real, folder, suffix):
    budgets = {0: "1200B", "cpu": "1300B", "disk": "1MiB"}
    given = compile_model(meta(), max_memory=budgets, offload="stream")
    assert {unit.store for unit in given.units} == {"cuda:0", "cpu", "disk"}
    write_plan(given, folder / f"net.{suffix}")
    model = load_model(folder / f"net.{suffix}", meta(), folder, devices={"cuda:0": "cpu"})
    assert same_outputs(model(IDS), real(IDS))


def test_a_plan_made_from_the_checkpoint_alone_applies_to_the_model(real, folder):
    found = Diagnostics()
    read, _ = read_checkpoint(folder, found)
    given = replace(read, devices=DEVICES, units=(ON_CPU,), constraints=())
    given = replace(given, model=Model("net", read.tree.digest))
    assert given.model.digest != lower_model(meta()).digest
    assert same_outputs(load_model(given, meta(), folder)(IDS), real(IDS))
    assert "another-model" in refused(given, meta(layers=4), folder)
