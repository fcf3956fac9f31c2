"""Models that hide, write and ask what a plan must know: the trace finds it or the verifier says so."""

from __future__ import annotations

import collections
from collections import UserDict
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from compile_plan.compiler.loading.moves import moved
from compile_plan.compiler.running.nesting import map_tensors, tensors_in
from compile_plan.compiler.tracing import (
    cut_rules,
    trace_model,
    traced_plan,
    verify_plan,
    verify_trace,
)
from compile_plan.ir import Atomic, Device, Diagnostics, Model, Plan, Split, Unit
from tiny_modules import linear
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

X = torch.zeros(2, 4)
DEVICES = tuple(Device(name, None) for name in ("cuda:0", "cuda:1", "cpu", "disk"))


def plan(*units: tuple[str, str, str]) -> Plan:
    return Plan(model=Model("tiny"), devices=DEVICES, units=tuple(Unit(*unit) for unit in units))


def codes(found) -> list[str]:
    return [diagnostic.code for diagnostic in found.diagnostics]


class Adds(nn.Module):
    """Writes its result into what it is given."""

    def __init__(self):
        super().__init__()
        self.inner = linear()

    def forward(self, total, x):
        total.add_(self.inner(x))


class Accumulates(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.parts, self.head = linear(), nn.ModuleList([Adds(), Adds()]), linear()

    def forward(self, x):
        x = self.embed(x)
        total = torch.zeros_like(x)
        for part in self.parts:
            part(total, x)
        return self.head(total)


def test_what_is_written_in_place_by_a_child_and_read_by_its_caller_is_not_separated():
    trace = trace_model(Accumulates(), X)
    (rule,) = cut_rules(trace)
    assert isinstance(rule, Atomic)
    assert rule.target in {"", "Accumulates"}


def test_a_write_into_a_copy_is_an_error_that_names_the_writer_and_both_devices():
    units = [("embed", "cuda:0"), ("parts.0", "cuda:0"), ("parts.1", "cuda:1"), ("head", "cuda:1")]
    found = verify_plan(plan(*((path, name, name) for path, name in units)), Accumulates(), X)
    (lost,) = found.diagnostics
    assert lost.code == "lost-write"
    assert lost.message == (
        "`aten.add_.Tensor` in `parts.1` writes into a copy on cuda:1, "
        "and the original on cuda:0 is used later"
    )
    assert not found.lawful


def test_a_write_is_not_lost_where_nothing_is_copied():
    units = [("embed", "cuda:0"), ("parts.0", "cuda:0"), ("parts.1", "cuda:0"), ("head", "cuda:1")]
    assert codes(verify_plan(plan(*((path, name, name) for path, name in units)), Accumulates(), X)) == []


def test_a_write_that_nobody_else_reads_may_be_into_a_copy():
    class Activated(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.ReLU(inplace=True), linear()) for _ in range(3))

        def forward(self, x):
            x = x * 2
            for block in self.blocks:
                made = block(x)
                x.flatten()  # looks, but does not read
                x = made
            return x

    assert cut_rules(trace_model(Activated(), X)) == ()


def test_a_caller_that_reads_what_a_child_overwrote_keeps_it_on_one_device():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = linear(), nn.Sequential(nn.ReLU(inplace=True), linear())

        def forward(self, x):
            x = self.first(x)
            y = self.second(x)
            return x.mean(), y

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(Reader() for _ in range(2))

        def forward(self, x):
            for block in self.blocks:
                _, x = block(x)
            return x

    assert cut_rules(trace_model(Net(), X)) == (Atomic("Reader", by_class=True),)


def test_a_buffer_that_is_handed_over_and_written_keeps_its_owner_and_the_writer_together():
    class Store(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = linear()

        def forward(self, x, memory):
            memory[:] = self.inner(x)
            return x

    class Remembering(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("memory", torch.zeros(2, 4))
            self.write, self.head = Store(), linear()

        def forward(self, x):
            return self.head(self.write(x, self.memory))

    units = [("memory", "cuda:1"), ("write", "cuda:0"), ("head", "cuda:1")]
    found = verify_plan(plan(*((path, name, name) for path, name in units)), Remembering(), X)
    assert codes(found) == ["lost-write"]
    assert cut_rules(trace_model(Remembering(), X))


class Hidden:
    """Holds a tensor where no loader looks."""

    def __init__(self, x):
        self.x = x


class Step(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = linear()

    def forward(self, state):
        state.x = torch.relu(self.inner(state.x))
        return state


class Hiding(nn.Module):
    def __init__(self):
        super().__init__()
        self.steps = nn.ModuleList(Step() for _ in range(2))

    def forward(self, x):
        state = Hidden(x)
        for step in self.steps:
            state = step(state)
        return state.x


def test_modules_that_are_handed_tensors_unseen_are_opened():
    learned = traced_plan(Plan(model=Model("hiding")), Hiding(), X, Diagnostics())[0]
    assert learned.constraints == (Split("steps.0"), Split("steps.1"))
    units = [("steps.0.inner", "cuda:0", "cuda:0"), ("steps.1.inner", "cuda:1", "cuda:1")]
    assert verify_plan(plan(*units), Hiding(), X).lawful


def test_the_help_names_the_unit_that_was_handed_a_tensor_unseen():
    units = [("steps.0", "cuda:0", "cuda:0"), ("steps.1", "cuda:1", "cuda:1")]
    (found,) = verify_plan(plan(*units), Hiding(), X).diagnostics
    assert found.help == (
        "place `steps.1` where `steps.0` is, or `split steps.1`: the loader does not see what it gets"
    )


class Frozen(nn.Module):
    """Keeps a tensor as a plain attribute, which the loader puts where the module runs."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.table = linear(), linear(), torch.ones(4)

    def forward(self, x):
        return self.second(self.first(x)) + self.table


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_plain_attribute_goes_where_its_module_runs_if_that_is_one_device(device):
    with torch.device(device):
        model = Frozen()
    for store, run in (("cuda:0", "cuda:0"), ("cpu", "cuda:0"), ("cpu", "cpu")):
        assert verify_plan(plan(("", store, run)), model, X).lawful
    apart = plan(("first", "cuda:0", "cuda:0"), ("second", "cuda:1", "cuda:1"))
    (found,) = verify_plan(apart, model, X).diagnostics
    assert found.code == "devices-meet"
    assert "register_buffer" in (found.help or "")
    assert cut_rules(trace_model(model, X)) == (Atomic(""),)


class Asking(nn.Module):
    """Asks its first weight for the device, as many models do."""

    def __init__(self):
        super().__init__()
        self.first, self.second = linear(), linear()

    def forward(self, x):
        device = next(self.parameters()).device
        x = self.first(x) + torch.ones(4, device=device) + torch.tensor([1.0, 2.0, 3.0, 4.0], device=device)
        return self.second(x)


@pytest.mark.parametrize("store", ["cpu", "disk"])
def test_a_streamed_weight_at_rest_says_where_it_rests(store):
    units = [("first", store, "cuda:0"), ("second", "cuda:0", "cuda:0")]
    (first, *_) = verify_plan(plan(*units), Asking(), X).diagnostics
    assert first.code == "devices-meet"
    assert first.help == "do not stream `first.weight`: it is asked for its device while it is at rest"


@pytest.mark.parametrize("unit", [("first", "cuda:0", "cuda:0"), ("first", "cpu", "cpu")])
def test_a_weight_that_is_not_streamed_says_where_it_runs(unit):
    _, store, run = unit
    assert verify_plan(plan(unit, ("second", store, run)), Asking(), X).lawful


def test_a_streamed_weight_says_where_it_runs_while_its_module_runs():
    class Inside(nn.Linear):
        def forward(self, input):  # noqa: A002  as its base has it
            return super().forward(input) + torch.ones(4, device=self.weight.device)

    model = nn.Sequential(Inside(4, 4), linear())
    assert verify_plan(plan(("0", "cpu", "cuda:0"), ("1", "cuda:0", "cuda:0")), model, X).lawful


@dataclass
class Bag:
    x: torch.Tensor | None
    more: object = None


@dataclass(frozen=True)
class FrozenBag:
    x: torch.Tensor


class Pair(NamedTuple):
    left: torch.Tensor
    right: object


class Moving(UserDict):
    """Moves itself, as the batches of tokenizers do."""

    def to(self, device):
        self.data = {key: item.to(device) for key, item in self.data.items()}
        return self


class Items(list):
    pass


def _nestings():
    def one():
        return torch.ones(2)

    yield one()
    yield [one(), (one(), 3)]
    yield Pair(one(), [one()])
    yield {"a": one(), "b": {"c": [one()]}}
    yield collections.OrderedDict(a=one())
    yield collections.defaultdict(list, a=[one()])
    yield BaseModelOutput(last_hidden_state=one())
    yield Bag(one(), [one()])
    yield FrozenBag(one())
    yield [Bag(one(), Pair(one(), None))]
    yield Moving(a=one())
    yield Items([one()])
    yield torch.max(torch.ones(2, 2), 0)
    yield UserDict(a=one())
    yield Hidden(one())
    yield {"a": 1, "b": Bag(None)}
    yield Bag


@pytest.mark.parametrize("number", range(len(list(_nestings()))))
def test_the_trace_sees_the_tensors_that_the_loader_moves(number):
    value, other = list(_nestings())[number], list(_nestings())[number]
    seen = len(list(tensors_in(value)))
    by_trace = map_tensors(value, lambda tensor: tensor.to("meta"))
    by_loader = moved(other, torch.device("meta"))
    assert type(by_trace) is type(by_loader)
    assert (by_trace is value) == (by_loader is other)
    for result in (by_trace, by_loader):
        assert [tensor.is_meta for tensor in tensors_in(result)] == [True] * seen


def test_a_dataclass_is_seen_into_and_state_comes_back_in_it():
    class Carries(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = linear()

        def forward(self, bag):
            bag.more = self.inner(bag.x)
            return Bag(bag.more)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.head = Carries(), Carries(), linear()

        def forward(self, x):
            bag = Bag(x)
            made = self.second(self.first(bag))
            assert bag.more is not None
            return self.head(made.x)

    trace = trace_model(Net(), X)
    assert cut_rules(trace) == ()
    units = [("first", "cuda:0"), ("second", "cuda:1"), ("head", "cuda:0")]
    found = verify_trace(plan(*((path, name, name) for path, name in units)), trace)
    assert found.lawful
    assert [copy.path for copy in found.copies] == ["second", "head"]
