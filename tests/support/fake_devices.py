"""An oracle for placements: the real forward on torch's fake tensors, which know devices and check them.

It shares nothing with the tracer: torch itself raises where tensors of two devices would meet. Run as a
program, because it gives the process a pretended kind of device: `python fake_devices.py llama t5 ...`
prints one JSON object with what happened for each model.
"""

from __future__ import annotations

import json
import sys

from compile_plan.compiler.tracing import example_inputs, trace_model, verify_trace
from compile_plan.compiler.tracing.labels import places_of_plan
from compile_plan.ir import Diagnostics, Plan, homes_of, unit_of_tensors
from random_cuts import bad_plan, random_plan
from small_models import small_model
from torch import Tensor, empty, nn, no_grad, tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

SEEDS = 4
MET = ("same device", "two different devices")
"""What torch says where devices meet; it has a class of its own from 2.13 on."""


def pretended(device: str) -> str:
    """Translate a device into the kind torch lets us pretend to have."""
    return device.replace("cuda", "npu")


def moved(item, device):
    """Move nested tensors as a loader does on entering a unit."""
    if isinstance(item, Tensor):
        return item.to(device)
    if isinstance(item, list | tuple):
        return type(item)(moved(part, device) for part in item)
    if isinstance(item, dict):
        return {key: moved(part, device) for key, part in item.items()}
    return item


class Constants(TorchFunctionMode):
    """Makes constants without values: torch before 2.13 would keep them on the pretended device itself."""

    def __torch_function__(self, function, _types, args=(), kwargs=None):
        device = (kwargs or {}).get("device")
        if function is not tensor or device is None:
            return function(*args, **(kwargs or {}))
        made = function(*args, **{**kwargs, "device": "cpu"})
        return empty(made.shape, dtype=made.dtype, device=device)


def run_on_fake_devices(model: nn.Module, plan: Plan, inputs: dict[str, Tensor], start: str) -> None:
    """Run the forward with every weight on its planned device; raises where devices meet."""
    tree, modules = plan.tree, dict(model.named_modules(remove_duplicate=False))
    owner = unit_of_tensors(tree, plan.units)
    homes = {plan.units[u].path: plan.units[home].run for u, home in homes_of(tree, plan.units).items()}
    with no_grad(), FakeTensorMode(allow_non_fake_inputs=True), Constants():
        for index, module in enumerate(tree.owners):
            home, name = modules[tree.paths[module]], tree.tensor_names[index]
            group = home._parameters if name in home._parameters else home._buffers
            old = group[name]
            made = empty(old.shape, dtype=old.dtype, device=pretended(plan.units[owner[index]].run))
            parameter = group is home._parameters
            group[name] = nn.Parameter(made, requires_grad=False) if parameter else made
        for unit in plan.units:
            if unit.path in modules:
                home = homes.get(unit.path)
                _enter_on(modules[unit.path], pretended(unit.run), home and pretended(home))
        model(**{name: empty(t.shape, dtype=t.dtype, device=pretended(start)) for name, t in inputs.items()})


def _enter_on(module: nn.Module, device: str, home: str | None) -> None:
    module.register_forward_pre_hook(
        lambda _module, args, kwargs: (moved(args, device), moved(kwargs, device)), with_kwargs=True
    )
    if home is not None and not isinstance(module, nn.Sequential):
        module.register_forward_hook(lambda _module, _args, output: moved(output, home))
    if isinstance(module, nn.ModuleList | nn.ModuleDict | nn.Sequential):
        for child in module.children():
            _enter_on(child, device, home)


def outcome(name: str, plan: Plan, trace, inputs) -> str:
    start = places_of_plan(trace, plan).start
    said = "runs" if verify_trace(plan, trace).lawful else "meets"
    try:
        run_on_fake_devices(small_model(name, use_cache=False), plan, inputs, start)
    except RuntimeError as error:
        met = any(words in str(error) for words in MET)
        return f"{said}/{'meets' if met else str(error)[:80]}"
    return f"{said}/runs"


def main() -> None:
    _setup_privateuseone_for_python_backend("npu")
    found = {}
    for name in sys.argv[1:]:
        model = small_model(name, use_cache=False)
        inputs = next(example_inputs(model, None, Diagnostics(), seq=16))[1]
        trace = trace_model(model, inputs)
        good = [outcome(name, random_plan(trace, 2 + seed % 3, seed), trace, inputs) for seed in range(SEEDS)]
        bad = [outcome(name, bad_plan(trace, seed), trace, inputs) for seed in range(SEEDS)]
        found[name] = {"along the cuts": good, "across them": bad}
    print(json.dumps(found))  # noqa: T201  the program's result


if __name__ == "__main__":
    main()
