"""Streamed models in the circumstances people run them in, on a pretended accelerator.

`python streamed_runs.py` prints one JSON object: for each circumstance and store what happened, ``equal``
where every output was that of the plain model on the CPU.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from itertools import groupby
from pathlib import Path

import pretend_device
import torch
from compile_plan.compiler.loading import load_model, release_model, stored_files
from compile_plan.compiler.loading.streaming import carrier, lanes
from compile_plan.ir import Account, Device, Model, Phase, Plan, Unit
from safetensors.torch import save_file
from torch import nn

CARD = torch.device("npu:0")
NAMES = {"cuda:0": CARD, "cuda:1": torch.device("npu:1")}
DEVICES = (Device("cuda:0", None), Device("cuda:1", None), Device("cpu", None), Device("disk", None))
STORES = ("cpu", "disk")
WIDTH, LAYERS = 16, 5
X = torch.linspace(-1, 1, 3 * WIDTH).view(3, WIDTH)
assert pretend_device.COUNT


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.scale = nn.Parameter(torch.rand(WIDTH))

    def forward(self, x):
        return x + torch.relu(self.q_proj(self.norm(x))) * self.scale


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.before = None

    def forward(self, x):
        x = self.first(x)
        for number, layer in enumerate(self.layers):
            if number == LAYERS // 2 and self.before is not None:
                self.before()
            x = layer(x)
        return x


def pair(store, folder, *, streaming=0, split=False, whole=False, phases=()):
    """Return the plain model, and one whose layers are stored elsewhere than they run."""
    torch.manual_seed(0)
    real = Stack()
    save_file(real.state_dict(), folder / "model.safetensors")
    with torch.device("meta"):
        model = Stack()
    units = [Unit("first", "cuda:0", "cuda:0")]
    names = [f"layers.{i}" for i in range(LAYERS)]
    parts = ("q_proj", "norm", "scale") if split else ("",)
    units += [Unit(f"{name}.{part}".rstrip("."), store, "cuda:0") for name in names for part in parts]
    units = [Unit("", store, "cuda:0")] if whole else units
    ledger = (Account("cuda:0", streaming=streaming),) if streaming else ()
    plan = Plan(Model("stack"), DEVICES, units=tuple(units), ledger=ledger, constraints=phases)
    load_model(plan, model, folder / "model.safetensors", devices=NAMES)
    return real, model


def same(real, model, x=X):
    return torch.allclose(model(x), real(x), atol=1e-6)


def at_rest(model):
    stream = model._compile_plan_execution.stream
    used = [one for site in stream.sites for one in site.streamed if one.used is not None or one.users]
    return not used and stream.supply.held.total() == 0


def plain(store, folder):
    real, model = pair(store, folder)
    return all(same(real, model) for _ in range(3)) and at_rest(model)


def small_buffer(store, folder):
    real, model = pair(store, folder, streaming=1)
    return all(same(real, model) for _ in range(3)) and at_rest(model)


def large_buffer(store, folder):
    real, model = pair(store, folder, streaming=1 << 20)
    return all(same(real, model) for _ in range(3)) and at_rest(model)


def one_of_several(store, folder):
    """Between the passes of a part of a pipeline nothing of it waits on the card: others are in use."""
    real, model = pair(store, folder, streaming=1 << 20)
    assert same(real, model)
    waits = [bool(model._compile_plan_execution.stream.supply.ready)]
    (folder / "part").mkdir()
    real, model = pair(store, folder / "part", streaming=1 << 20, phases=(Phase(("",)),))
    for _ in range(2):
        assert same(real, model)
        waits.append(bool(model._compile_plan_execution.stream.supply.ready))
    return waits == [True, False, False] and at_rest(model)


def two_cards(store, folder):
    """Each card has a buffer of its own: while one computes what it was sent, both are sent what is next."""
    torch.manual_seed(0)
    real = Stack()
    save_file(real.state_dict(), folder / "model.safetensors")
    layer = sum(p.nbytes for p in real.layers[0].parameters())
    runs = [f"cuda:{number // 2 % 2}" for number in range(LAYERS)]
    units = [Unit("first", "cuda:0", "cuda:0")]
    units += [Unit(f"layers.{number}", store, run) for number, run in enumerate(runs)]
    ledger = tuple(Account(run, streaming=layer) for run in ("cuda:0", "cuda:1"))
    with torch.device("meta"):
        model = Stack()
    plan = Plan(Model("stack"), DEVICES, units=tuple(units), ledger=ledger)
    load_model(plan, model, folder / "model.safetensors", devices=NAMES)
    right = [same(real, model)]
    stream, ahead = model._compile_plan_execution.stream, []
    bring = stream.supply.bring
    stream.supply.bring = lambda number: (ahead.append((number, sorted(stream.supply.ready))), bring(number))[
        1
    ]
    right.append(same(real, model))
    assert ahead == [(0, [0, 2]), (1, [1, 2]), (2, [2, 4]), (3, [3, 4]), (4, [4])], ahead
    return all(right) and at_rest(model)


def piece_by_piece(store, folder):
    """While the card copies the beginning of a tensor from disk, the disk brings its end."""
    order, steps = [], {"bring": stored_files.Mapped.bring, "copy": torch.Tensor.copy_}
    here = threading.get_ident()  # those of other models may still be at work

    def noted(name, call):
        def step(*args, **kwargs):
            order.extend([name] if threading.get_ident() == here else [])
            return call(*args, **kwargs)

        return step

    stored_files.Mapped.bring = noted("bring", steps["bring"])
    torch.Tensor.copy_ = noted("copy", steps["copy"])
    stretch, stored_files._STRETCH = stored_files._STRETCH, 4 * WIDTH
    try:
        real, model = pair(store, folder)
        stream, right = model._compile_plan_execution.stream, [same(real, model) for _ in range(2)]
        stream.supply.drop(rest=True)
        order.clear()
        stream.supply.bring(0).give_back(used=False)
    finally:
        stored_files.Mapped.bring, torch.Tensor.copy_ = steps["bring"], steps["copy"]
        stored_files._STRETCH = stretch
    pieces = WIDTH + 4  # rows of the matrix; the vectors beside it are no longer than one
    wanted = ["bring", "copy"] * pieces if store == "disk" else ["copy"]
    return all(right) and [name for name, _ in groupby(order)] == wanted and at_rest(model)


def parts_of_layers(store, folder):
    real, model = pair(store, folder, split=True)
    return all(same(real, model) for _ in range(3)) and at_rest(model)


def parts_called_alone(store, folder):
    """A part of a unit is called past the model, as soft prompts call the table of tokens."""
    real, model = pair(store, folder, whole=True)
    right = [torch.allclose(model.layers[1](X).to("cpu"), real.layers[1](X), atol=1e-6) for _ in range(2)]
    return all(right) and same(real, model) and at_rest(model)


def inference_mode(store, folder):
    real, model = pair(store, folder)
    with torch.inference_mode():
        first = all(same(real, model) for _ in range(2))
    return first and same(real, model)


def compiled(store, folder):
    """Compiled around the stream, whose steps it does not look into."""
    real, model = pair(store, folder)
    around = torch.compile(model, backend="eager")
    return all(same(real, around) for _ in range(3)) and at_rest(model)


def compiled_one_after_another(store, folder):
    """What one model's forwards were compiled to is not another's, of which none has run before."""
    right = []
    for name in ("first", "second"):
        (folder / name).mkdir()
        real, model = pair(store, folder / name)
        around = torch.compile(model, backend="eager")
        right += [same(real, one) for one in (around, model, around)]
    return all(right) and at_rest(model)


def autocast(store, folder):
    """What is computed in half precision finds the weights as they are, and leaves them so."""
    real, model = pair(store, folder)
    with torch.autocast("cpu", torch.bfloat16):
        close = torch.allclose(model(X), real(X), atol=0.05)
    return close and same(real, model) and at_rest(model)


class Adapter(nn.Module):
    """A layer with something small beside it, as PEFT wraps one."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.down, self.up = nn.Linear(WIDTH, 2, bias=False), nn.Linear(2, WIDTH, bias=False)

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))


def adapters_added_after(store, folder):
    real, model = pair(store, folder)
    first = same(real, model)
    for number in (1, 3):
        torch.manual_seed(number)
        real.layers[number].q_proj = Adapter(real.layers[number].q_proj)
        torch.manual_seed(number)
        model.layers[number].q_proj = Adapter(model.layers[number].q_proj)
    return first and all(same(real, model) for _ in range(2)) and at_rest(model)


def changed_while_in_use(store, folder):
    """What is lent while somebody finds something new is not looked for on the card from then on."""
    real, model = pair(store, folder)
    stream, away = model._compile_plan_execution.stream, []

    def change(*_):
        model.layers[0].register_buffer("more", torch.rand(WIDTH))
        stream.newcomers()
        away.extend(map(id, stream.newcomers.__self__._away))

    handle = model.layers[2].norm.register_forward_pre_hook(change)
    right = [same(real, model)]
    handle.remove()
    return all([*right, same(real, model)]) and away == list(map(id, model.first.parameters()))


def two_models(store, folder):
    (folder / "second").mkdir()
    (real, model), (other_real, other) = pair(store, folder), pair("cpu", folder / "second", split=True)
    return all(same(real, model) and same(other_real, other) for _ in range(3))


def one_inside_the_other(store, folder):
    (folder / "second").mkdir()
    (real, model), (other_real, other) = pair(store, folder), pair("cpu", folder / "second")
    inner: list[bool] = []
    model.before = lambda: inner.append(same(other_real, other))
    return all(same(real, model) for _ in range(2)) and all(inner)


class LateLane(lanes.DirectLane):
    """Copies as late as a card may: when computing is about to wait for it."""

    def __init__(self):
        self.waiting = []

    def copy(self, pairs, after):
        del after
        self.waiting.append(list(pairs))
        return len(self.waiting)

    def join(self, mark):
        for copies in self.waiting[:mark] if mark is not None else ():
            super().copy(copies, ())
            copies.clear()


def late_copies(store, folder):
    """Nothing is computed with before the copy of it was waited for."""
    usual, carrier.lane_to = carrier.lane_to, lambda _device: LateLane()
    try:
        real, model = pair(store, folder)
        return all(same(real, model) for _ in range(3)) and at_rest(model)
    finally:
        carrier.lane_to = usual


class Packed(nn.Module):
    """A weight in eight bits, with its scale."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(WIDTH, WIDTH).to(torch.float8_e4m3fn), requires_grad=False)
        self.scale = nn.Parameter(torch.rand(()))

    def forward(self, x):
        return x @ (self.weight.to(torch.float32) * self.scale)


def eight_bits(store, folder):
    torch.manual_seed(0)
    real = nn.Sequential(Packed(), Packed())
    save_file(real.state_dict(), folder / "model.safetensors")
    with torch.device("meta"):
        model = nn.Sequential(Packed(), Packed())
    units = (Unit("0", store, "cuda:0"), Unit("1", store, "cuda:0"))
    plan = Plan(Model("packed"), DEVICES, units=units)
    load_model(plan, model, folder / "model.safetensors", devices=NAMES)
    return all(same(real, model) for _ in range(2))


def changed_weights(store, folder):
    """What is written between forwards counts in the next one, also what was brought ahead."""
    real, model = pair(store, folder)
    first = same(real, model)
    for one in (real, model):
        with torch.no_grad():
            one.layers[0].q_proj.weight.mul_(2)
    second = same(real, model)
    for one in (real, model):
        for parameter in one.layers.parameters():
            parameter.data = parameter.data * 2
    third = all(same(real, model) for _ in range(2))
    state = {name: value * 2 for name, value in real.state_dict().items()}
    for one in (real, model):
        one.layers.load_state_dict(
            {
                name.removeprefix("layers."): value.clone()
                for name, value in state.items()
                if "layers" in name
            },
            assign=True,
        )
    return first and second and third and all(same(real, model) for _ in range(2)) and at_rest(model)


def merge(*models):
    """Add to weights as adapters do when they are merged."""
    for one in models:
        for layer in one.layers:
            layer.q_proj.weight.data += torch.eye(WIDTH)


def merged_weights(store, folder):
    """What adapters add to weights through ``.data`` changes no version of them."""
    real, model = pair(store, folder)
    first = same(real, model)
    merge(real, model)
    return first and same(real, model)


def merged_after_an_interrupt(store, folder):
    """What was on its way when a forward broke off is not what is used after that."""
    real, model = pair(store, folder)
    first = same(real, model)

    def interrupt():
        time.sleep(0.02)  # what follows is under way by then
        raise KeyboardInterrupt

    model.before = interrupt
    try:
        model(X)
    except KeyboardInterrupt:
        model.before = None
    merge(real, model)
    return first and same(real, model)


def interrupts(store, folder):
    """Whatever ends a forward, in a hook or between two, the next one is right and starts at rest."""
    real, model = pair(store, folder)

    def interrupt():
        raise KeyboardInterrupt

    for at in range(4):
        model.before = interrupt
        if at % 2:  # inside a layer: torch runs no hook after it
            model.before, handle = (
                None,
                model.layers[2].norm.register_forward_pre_hook(lambda *_: interrupt()),
            )
        try:
            model(X)
        except KeyboardInterrupt:
            model.before = None
            if at % 2:
                handle.remove()
        else:
            return False
    return same(real, model) and at_rest(model)


def interrupts_without_the_models_hooks(store, folder):
    """Some wrappers call `forward` itself, past the hooks of the model."""
    real, model = pair(store, folder)
    model.forward(X.to(CARD))
    handle = model.layers[2].norm.register_forward_pre_hook(
        lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    try:
        model.forward(X.to(CARD))
    except KeyboardInterrupt:
        handle.remove()
    result = model.forward(X.to(CARD)).to("cpu")
    return torch.allclose(result, real(X), atol=1e-6) and at_rest(model)


def threads(store, folder):
    real, model = pair(store, folder)
    inputs = [X + number for number in range(4)]
    expected = [real(x) for x in inputs]
    found: list[bool] = []

    def work(number):
        found.extend(torch.allclose(model(inputs[number]), expected[number], atol=1e-5) for _ in range(5))

    running = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return len(found) == 20 and all(found) and at_rest(model)


def forked(store, folder):
    """A child that is forked after a forward computes the same."""
    real, model = pair(store, folder)
    if not same(real, model):
        return False
    child = os.fork()
    if child == 0:
        right = False
        try:
            right = all(same(real, model) for _ in range(2))
        finally:
            os._exit(0 if right else 1)
    return os.waitpid(child, 0)[1] == 0 and same(real, model)


def released(store, folder):
    real, model = pair(store, folder)
    first = same(real, model)
    release_model(model)
    model.first.to("cpu")
    return first and same(real, model)


CASES = (
    plain, small_buffer, large_buffer, parts_of_layers, inference_mode, compiled, autocast,
    compiled_one_after_another, parts_called_alone, changed_while_in_use,
    adapters_added_after, two_models,
    one_inside_the_other, late_copies, eight_bits, changed_weights, merged_weights,
    merged_after_an_interrupt, interrupts,
    interrupts_without_the_models_hooks, one_of_several, two_cards, piece_by_piece, threads, forked, released,
)  # fmt: skip


def outcome(case, store):
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        return "equal" if case(store, Path(name)) else "different"


def main():
    torch.set_num_threads(1)
    chosen = [case for case in CASES if not sys.argv[1:] or case.__name__ in sys.argv[1:]]
    found = {case.__name__: {store: outcome(case, store) for store in STORES} for case in chosen}
    print(json.dumps(found))  # noqa: T201  the program's result


if __name__ == "__main__":
    main()
