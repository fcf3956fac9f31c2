"""Streamed models that somebody changes after loading, on a pretended accelerator: `python changed_runs.py`.

Prints one JSON object: for each change what three forwards gave, wherever layers are stored and whether a
forward came before it: ``equal`` where it was what the plain model with the same change gives, a code where
the change was refused.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from compile_plan.ir import PlanError
from streamed_runs import STORES, WIDTH, X, at_rest, pair
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune


def linear(seed=1):
    torch.manual_seed(seed)
    return nn.Linear(WIDTH, WIDTH)


def values(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(7))


def pruned(model):
    prune.l1_unstructured(model.layers[1].q_proj, "weight", 0.5)
    prune.custom_from_mask(model.layers[3], "scale", values(WIDTH).round())


def pruned_for_good(model):
    prune.l1_unstructured(model.layers[1].q_proj, "weight", 0.5)
    model(X)
    prune.remove(model.layers[1].q_proj, "weight")
    model(X)
    with torch.no_grad():
        model.layers[1].q_proj.weight.mul_(2)


class Triangle(nn.Module):
    def forward(self, weight):
        return weight.triu()


def parametrised(model):
    parametrize.register_parametrization(model.layers[1].q_proj, "weight", Triangle())
    model(X)
    parametrize.register_parametrization(model.layers[2].q_proj, "weight", Triangle())
    parametrize.remove_parametrizations(model.layers[1].q_proj, "weight")


def of_one_norm(model):
    model.eval()  # in training each forward takes a step
    torch.manual_seed(0)
    parametrizations.spectral_norm(model.layers[1].q_proj)
    torch.nn.utils.spectral_norm(model.layers[2].q_proj)


def other_module(model):
    old, model.layers[2].q_proj = model.layers[2].q_proj, linear()
    model(X)
    model.layers[1].q_proj, model.layers[3].q_proj = old, linear(2)


def other_layers(model):
    model.layers[2] = linear()
    model.layers.insert(1, linear(2))
    model(X)
    del model.layers[2]


def other_resident(model):
    model.first = linear()


def other_parameters(model):
    model.first.weight = nn.Parameter(values(WIDTH, WIDTH))
    model.layers[1].scale = nn.Parameter(values(WIDTH))


def other_values_of_the_same_object(model):
    torch.utils.swap_tensors(model.first.weight, nn.Parameter(values(WIDTH, WIDTH)))


def whole_state(model):
    state = {name: value.to("cpu", copy=True) * 1.5 for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def called_with_others(model):
    state = {name: value.to("cpu", copy=True) * 1.5 for name, value in model.state_dict().items()}

    def call(x):
        return torch.func.functional_call(model, state, (x,)) + model(x)

    return call


def copied_part(model):
    model.first = nn.Sequential(model.first, copy.deepcopy(model.first))


def tied_later(model):
    model.first.weight = model.layers[1].q_proj.weight
    model.layers[3].q_proj = model.layers[2].q_proj


def used_by_later_hooks(model):
    model.register_parameter("extra", nn.Parameter(values(WIDTH)))
    model.register_forward_pre_hook(
        lambda module, args: (args[0].to(module.first.weight.device) * module.extra,)
    )
    layer = model.layers[1]
    layer.register_buffer("extra", values(WIDTH))
    layer.register_forward_hook(lambda module, _args, out: out * module.extra @ module.q_proj.weight)


def jit_traced(model):
    return torch.jit.trace(model, X)


def symbolically_traced(model):
    return torch.fx.symbolic_trace(model)


def given_to_accelerate(model):
    import accelerate

    accelerate.cpu_offload(model, execution_device=model.first.weight.device)


CHANGES = (
    pruned, pruned_for_good, parametrised, of_one_norm, other_module, other_layers, other_resident,
    other_parameters, other_values_of_the_same_object, whole_state, called_with_others, copied_part,
    tied_later, used_by_later_hooks, jit_traced, symbolically_traced, given_to_accelerate,
)  # fmt: skip


def outcome(change, store, folder, *, used, split):
    real, model = pair(store, folder, split=split)
    if used:
        model(X)
    expected = (change(real) or real)(X)
    try:
        changed = change(model) or model
        equal = all(torch.allclose(changed(X), expected, atol=1e-5) for _ in range(3))
    except PlanError as error:
        return error.diagnostics[0].code
    return "equal" if equal and at_rest(model) else "different"


def outcomes(change):
    for store in STORES:
        for used in (False, True):
            with tempfile.TemporaryDirectory() as name:
                yield outcome(change, store, Path(name), used=used, split=used)


def main():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    chosen = [change for change in CHANGES if not sys.argv[1:] or change.__name__ in sys.argv[1:]]
    with torch.no_grad():
        found = {change.__name__: sorted(set(outcomes(change))) for change in chosen}
    print(json.dumps(found))  # noqa: T201  the program's result


if __name__ == "__main__":
    main()
