"""Random module trees as accelerate's users build them, and rarer things torch allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn

NAMES = ("a", "ab", "a_b", "b", "layers", "0", "1", "10", "weight", "h")
CLASSES: dict[str, type[nn.Module]] = {
    name: type(name, (nn.Module,), {}) for name in ("Plain", "Block", "Inner")
}
DTYPES = (torch.float32, torch.float16, torch.bool, torch.int64)


@dataclass(frozen=True)
class Request:
    """A model and the arguments of one call."""

    model: nn.Module
    max_memory: dict[int | str, int]
    options: dict[str, Any]

    @property
    def arguments(self) -> dict[str, Any]:
        return {"max_memory": dict(self.max_memory), **self.options}


@st.composite
def modules(draw: st.DrawFn, depth: int = 3) -> nn.Module:
    """Draw a module tree on the meta device, without ties."""
    module = CLASSES[draw(st.sampled_from(sorted(CLASSES)))]()
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=5 if depth == 3 else 3))
    for name in names:
        kind = draw(st.sampled_from(("child", "child", "child", "parameter", "buffer")))
        if kind == "child" and depth:
            module.add_module(name, draw(modules(depth=depth - 1)))
        elif kind == "buffer":
            tensor = torch.empty(draw(st.integers(1, 12)), dtype=draw(st.sampled_from(DTYPES)), device="meta")
            module.register_buffer(name, tensor, persistent=draw(st.booleans()))
        else:
            size = draw(st.integers(1, 16))
            module.register_parameter(name, nn.Parameter(torch.empty(size, device="meta")))
    return module


def tie(draw: st.DrawFn, model: nn.Module) -> None:
    """Make some parameters of a model one object, and sometimes one module appear twice."""
    owners = [(m, n) for m in model.modules() for n, p in m._parameters.items() if p is not None]
    if len(owners) > 1:
        for _ in range(draw(st.integers(0, 3))):
            members = draw(st.lists(st.sampled_from(owners), min_size=2, max_size=3))
            shared = members[0][0]._parameters[members[0][1]]
            for module, name in members[1:]:
                module._parameters[name] = shared
    everything = [m for m in model.modules() if m is not model]
    if everything and draw(st.integers(0, 4)) == 0:
        shared_module = draw(st.sampled_from(everything))
        holders = [m for m in model.modules() if m not in set(shared_module.modules())]
        draw(st.sampled_from(holders)).add_module("twin", shared_module)


@st.composite
def requests(draw: st.DrawFn, *, tied: bool = True) -> Request:
    """Draw a model with budgets from tiny to generous, and options."""
    model = draw(modules())
    if tied:
        tie(draw, model)
    total = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    sizes = st.integers(0, max(1, total + total // 2))
    max_memory: dict[int | str, int] = {gpu: draw(sizes) for gpu in range(draw(st.integers(0, 3)))}
    if draw(st.booleans()) or not max_memory:
        max_memory["cpu"] = draw(sizes)
    if draw(st.integers(0, 4)) == 0:
        max_memory["disk"] = 0
    named = st.sampled_from((None, "Block", ["Block"], {"Block", "Inner"}, []))
    tensors = [name for name, _ in model.named_parameters()]
    special = None
    if tensors and draw(st.integers(0, 3)) == 0:
        special = {draw(st.sampled_from(tensors)): draw(st.sampled_from(DTYPES))}
    options = {
        "no_split_module_classes": draw(named),
        "dtype": draw(st.sampled_from((None, None, torch.float16, "float16", torch.float32))),
        "special_dtypes": special,
        "clean_result": draw(st.booleans()),
        "offload_buffers": draw(st.booleans()),
        "fallback_allocation": draw(st.booleans()),
    }
    return Request(model, max_memory, options)
