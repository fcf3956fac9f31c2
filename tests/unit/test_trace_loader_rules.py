"""The verifier and the loader follow the same rules: the same boundaries, the same streamed sites."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from compile_plan.compiler.loading.asked import Dtypes
from compile_plan.compiler.loading.execution import Runtime
from compile_plan.compiler.loading.moves import entries, has_forward, returns, start_device
from compile_plan.compiler.loading.seats import seats_of
from compile_plan.compiler.loading.streaming.live_sites import streaming_sites
from compile_plan.compiler.loading.streaming.streamed import Streamed
from compile_plan.compiler.loading.wrappers import unwrapped
from compile_plan.compiler.sources.live import lower_model
from compile_plan.compiler.tracing import trace_model
from compile_plan.compiler.tracing.labels import first_name, places_of_plan
from compile_plan.compiler.tracing.streaming_sites import streaming_of
from random_cuts import random_plan
from small_models import small_model
from torch import nn

NAMES = ["bert", "gpt2", "llama", "mixtral", "t5", "vit", "whisper", "resnet"]


def runtime_of(plan, model) -> tuple[Runtime, list[nn.Module]]:
    tree = lower_model(model)
    plain = unwrapped(tree)
    bound = replace(plan, tree=tree)
    seats = seats_of(bound, plain, model, Dtypes())
    names = sorted({unit.run for unit in plan.units} | {unit.store for unit in plan.units})
    devices = {name: torch.device(name) for name in names}
    modules = dict(model.named_modules(remove_duplicate=False))
    return Runtime(bound, plain, seats, devices, {}, {}, {}), [modules[path] for path in tree.paths]


@pytest.mark.parametrize("name", NAMES)
def test_arguments_move_where_the_loader_moves_them(name):
    model = small_model(name)
    trace = trace_model(model, seq=8)
    for seed in range(3):
        plan = random_plan(trace, 2 + seed, seed, offload=seed == 2)
        runtime, live = runtime_of(plan, model)
        places = places_of_plan(trace, plan)
        called = {
            module: target
            for module, target in enumerate(places.targets)
            if target is not None and has_forward(live[module])
        }
        assert called == dict(entries(plan, runtime.plain.tree, live))
        returned = {
            module: home
            for module, home in places.homes.items()
            if home != places.targets[module] and has_forward(live[module])
        }
        assert returned == dict(returns(plan, runtime.plain.tree, live))
        assert places.start == start_device(plan, runtime.plain.tree)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("whole", [True, False])
def test_streamed_weights_come_at_the_loaders_sites(name, whole):
    model = small_model(name)
    trace = trace_model(model, seq=8)
    plan = random_plan(trace, 2, 2, offload=True)
    if whole:
        streamed = [replace(unit, store="cpu", run="cuda:0") for unit in plan.units]
        plan = replace(plan, units=tuple(streamed))
    runtime, live = runtime_of(plan, model)
    tree = runtime.plain.tree
    brought: dict[int, Streamed] = {}
    numbers: dict[int, int] = {}
    for seat in runtime.seats:
        for slot in seat.slots if seat.store != seat.run else ():
            one = Streamed(slot.tensor, slot.tensor, torch.device(seat.run), slot.dtype, None, [])
            for path in slot.paths:
                brought[tree.tensor_index[path]] = one
                numbers.setdefault(id(one), tree.tensor_index[path])
    sites = streaming_sites(runtime.plan, tree, live, brought) if brought else {}
    expected = {
        first_name(tree, module): {numbers[id(one)] for one in site.streamed}
        for module, site in sites.items()
    }
    assert streaming_of(trace, plan).sites == expected
