"""Modules of other makers: Lightning's, exported programs, sharded ones, and what is no module at all."""

from __future__ import annotations

import pytest
import torch
from compile_plan.compiler import compile_model, load_model
from compile_plan.compiler.loading.seats import live_modules, live_tensors
from compile_plan.grammar import parse
from compile_plan.ir import PlanError
from rounding import same_outputs
from safetensors.torch import save_file
from torch import nn

X = torch.ones(1, 16)
CARD = {0: "1500B", "cpu": "1MiB"}
HOST = {"cpu": "1MiB"}


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))


class Lightning(nn.Module):
    """A LightningModule as we meet it: it has hparams, and its `trainer` raises before one is attached."""

    def __init__(self, width=16):
        super().__init__()
        self.hparams = {"width": width}
        self._trainer = None
        self.net = layers()
        self.loss = nn.MSELoss()

    @property
    def trainer(self):
        if self._trainer is None:
            raise RuntimeError("Lightning is not attached to a `Trainer`.")
        return self._trainer

    @property
    def device(self):
        return next(self.parameters()).device

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _index):
        return self.loss(self(batch), torch.zeros(1, 16))


def lightning():
    try:
        from lightning import LightningModule
    except ImportError:
        return Lightning()

    class Real(LightningModule):
        def __init__(self, width=16):
            super().__init__()
            self.save_hyperparameters({"width": width})
            self.net = layers()

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, _index):
            return self(batch).square().mean()

    return Real()


def test_a_lightning_module_is_planned_loaded_and_trained(tmp_path):
    real, model = lightning(), lightning()
    plan = compile_model(model, max_memory=CARD, example_inputs=(X,))
    assert {unit.path: unit.store for unit in plan.units} == {"net.0": "cuda:0", "net.2": "cpu"}
    save_file(real.state_dict(), tmp_path / "a.safetensors")
    lines = parse('device cpu\ndevice disk\nplace "" on disk run on cpu\n')
    on_disk = load_model(lines, lightning(), tmp_path / "a.safetensors")
    assert same_outputs(on_disk.eval()(X), real(X))
    load_model(compile_model(model, max_memory=HOST), model, tmp_path / "a.safetensors")
    before = model.net[0].weight.clone()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.training_step(X, 0).backward()
    optimizer.step()
    assert not torch.equal(model.net[0].weight, before)
    assert dict(model.hparams) == {"width": 16}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("opened", ["module", "unflatten"])
def test_the_module_of_an_exported_program_is_planned_and_loaded(opened):
    real = layers()
    program = torch.export.export(real, (X,))
    (found,) = refused(program)
    assert found.help
    model = program.module() if opened == "module" else torch.export.unflatten(program)
    plan = compile_model(model, max_memory=CARD)
    assert {unit.path: unit.store for unit in plan.units} == {"0": "cuda:0", "2": "cpu"}
    assert same_outputs(load_model(compile_model(model, max_memory=HOST), model)(X), real(X))


def refused(given):
    for call in (
        lambda: compile_model(given, max_memory=HOST),
        lambda: load_model(parse('device cpu\nplace "" on cpu\n'), given),
    ):
        with pytest.raises(PlanError) as caught:
            call()
        assert {found.code for found in caught.value.diagnostics} == {"not-a-model"}
    return caught.value.diagnostics


@pytest.mark.filterwarnings("ignore")
def test_what_is_no_module_is_refused_by_name():
    traced = torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))
    scripted = torch.jit.script(nn.Linear(2, 2))
    names = {
        nn.Linear: "Linear",
        None: "NoneType",
        3: "int",
        traced: "TracedModule",
        scripted: "ScriptModule",
    }
    for given, name in names.items():
        (found,) = refused(given)
        assert name in found.message
        assert found.help


@pytest.mark.filterwarnings("ignore")
def test_sharded_modules_are_refused_by_name_before_they_are_read():
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import distribute_tensor

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        sharded, single = layers(), layers()
        fully_shard(sharded, mesh=mesh)
        single[0].weight = nn.Parameter(distribute_tensor(single[0].weight.detach(), mesh))
        for given in (sharded, single):
            (found,) = refused(given)
            assert "`0.weight` is sharded" in found.message
    finally:
        dist.destroy_process_group()


def test_modules_and_tensors_are_those_torch_yields():
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3, bias=False)))
    model.add_module("again", model[1])
    model.add_module("nothing", None)
    model[0].register_buffer("scale", torch.ones(1))
    assert list(live_modules(model).items()) == list(model.named_modules(remove_duplicate=False))
    tensors = dict(model.named_parameters(remove_duplicate=False))
    tensors |= dict(model.named_buffers(remove_duplicate=False))
    found = live_tensors(model)
    assert list(found) == list(tensors)
    assert all(found[path] is tensor for path, tensor in tensors.items())
