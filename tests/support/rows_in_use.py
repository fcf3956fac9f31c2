"""Mixtures streamed by rows in the circumstances people run them in: `python rows_in_use.py`.

Prints one JSON object: for each circumstance and way to stream what happened, ``equal`` where every output
was that of the plain model. On the pretended card copies happen as late as they may.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import tempfile
import threading
from pathlib import Path

import late_card
import rows_runs
import torch
from compile_plan.compiler.loading import load_model, release_model
from compile_plan.ir import PlanError
from pretend_device import CROSSING
from streamed_runs import at_rest
from torch.utils._python_dispatch import TorchDispatchMode

CHOICES = [rows_runs.TOKENS, rows_runs.TOKENS[:, :1], rows_runs.TOKENS[:, 3:5]]
CARD, HOST = (("cpu", "cuda:0"), ("disk", "cuda:0")), (("disk", "cpu"),)
WAYS = (
    {},
    {"cache": rows_runs.LAYERS * 4 * rows_runs.ROW},
    {"streaming": 4 * rows_runs.ROW},
    {"table": True},
)
assert late_card.COMPUTING


def pair(folder, where, way, model=None):
    """Return the plain model, and one whose experts are stored elsewhere than they run."""
    if model is None:
        with torch.device("meta"):
            model = rows_runs.KINDS["mixtral"]().eval()
        model.set_experts_implementation("eager")
    plan = rows_runs.plan_of(*where, **way)
    return rows_runs.built("mixtral"), load_model(plan, model, folder, devices=rows_runs.NAMES)


def computed(model, ids):
    return model(input_ids=ids).logits.to("cpu", torch.float32)


def same(real, model, atol=1e-5):
    pairs = ((computed(real, ids), computed(model, ids)) for ids in CHOICES for _ in range(2))
    return all(torch.allclose(wanted, found, atol=atol) for wanted, found in pairs)


def autocast(folder, *how):
    real, model = pair(folder, *how)
    with torch.autocast("cpu", torch.bfloat16):
        close = same(real, model, 0.05)
    return close and same(real, model) and at_rest(model)


def inference_mode(folder, *how):
    real, model = pair(folder, *how)
    with torch.inference_mode():
        first = same(real, model)
    return first and same(real, model) and at_rest(model)


def compiled(folder, *how):
    real, model = pair(folder, *how)
    around = torch.compile(model, backend="eager")
    return same(real, around) and at_rest(model)


def adapted(model, experts):
    """Return a model with the same adapters each time."""
    import peft

    names = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"] if experts else None
    settings = {"r": 2, "target_modules": ["q_proj"], "init_lora_weights": False}
    made = peft.get_peft_model(model, peft.LoraConfig(**settings, target_parameters=names)).eval()
    for name, weight in made.named_parameters():
        if "lora_" in name:
            torch.manual_seed(len(name))
            weight.data.copy_(torch.rand(weight.shape) / 10)
    return made


def adapters_added_after(folder, *how):
    real, model = pair(folder, *how)
    first = same(real, model)
    return first and same(adapted(real, experts=False), adapted(model, experts=False), 1e-4)


def adapters_of_experts(folder, *how):
    """They are computed from whole weights: rows would be others' than they are for."""
    real, model = pair(folder, *how)
    first = same(real, model)
    return first and same(adapted(real, experts=True), adapted(model, experts=True), 1e-4)


def adapters_that_were_there(folder, *how):
    real, model = pair(folder, *how, adapted(rows_runs.built("mixtral"), experts=True))
    return same(adapted(real, experts=True), model, 1e-4)


def merged_adapters(folder, *how):
    """What is added to weights in files is kept in memory, and counts in what is cached of them."""
    real, model = pair(folder, *how)
    first = same(real, model)
    whole = [adapted(one, experts=True).merge_and_unload() for one in (real, model)]
    return first and same(*whole, 1e-4)


def into_a_real_model(folder, *how):
    real, model = pair(folder, *how, rows_runs.built("mixtral"))
    return same(real, model) and at_rest(model)


def written(folder, *how):
    real, model = pair(folder, *how)
    first = same(real, model)
    for one in (real, model):
        with torch.no_grad():
            one.model.layers[0].mlp.experts.down_proj.mul_(2)
    second = same(real, model)
    tables = [("model.layers.1.mlp.experts", "down_proj")]
    tables += [("model.embed_tokens", "weight")] * ("table" in how[1])
    for path, name in tables:
        for one in (real, model):
            given_other_memory(one.get_submodule(path), name)
    third = same(real, model)
    for path, name in tables:
        for one in (real, model):
            registered_anew(one.get_submodule(path), name)
    return first and second and third and same(real, model) and at_rest(model)


def negated(module, name):
    getattr(module, name).neg_()


def negated_in_part(module, name):
    getattr(module, name)[0].neg_()


def given_other_memory(module, name):
    getattr(module, name).data = getattr(module, name) * 2


def registered_anew(module, name):
    setattr(module, name, torch.nn.Parameter(getattr(module, name) * 2, requires_grad=False))


def taken_away(module, name):
    value = getattr(module, name)
    delattr(module, name)
    setattr(module, name, value * 2)


WRITES = (negated, negated_in_part, given_other_memory, registered_anew, taken_away)


def refused(model, name, writes, ids):
    """Say whether a forward that writes to a tensor after it computed ends with an error that names it."""
    path, _, last = name.rpartition(".")
    module = model.get_submodule(path)
    plain = type(module).forward

    def forward(*args, **kwargs):
        output = plain(module, *args, **kwargs)
        writes(module, last)
        return output

    module.forward = forward
    try:
        computed(model, ids)
    except PlanError as error:
        messages = [found.message for found in error.diagnostics if found.code == "written-by-rows"]
        return len(messages) == 1 and f"`{name}`" in messages[0]
    finally:
        del module.forward
    return False


def written_while_rows_are_lent(folder, *how):
    real, model = pair(folder, *how)
    first, names = same(real, model), ["model.layers.1.mlp.experts.down_proj"]
    names += ["model.embed_tokens.weight"] * ("table" in how[1] and how[0] in CARD)
    ids = CHOICES[0 if "streaming" in how[1] else 1]  # many are taken in turns
    cases = [(name, writes) for name in names for writes in WRITES]
    right = [refused(model, *case, ids) and same(real, model) and at_rest(model) for case in cases]
    kept = all(
        torch.equal(wanted, found.cpu())
        for wanted, found in zip(real.state_dict().values(), model.state_dict().values(), strict=True)
    )
    return first and all(right) and kept


def registered_while_all_are_there(folder, *how):
    """What a forward that has whole stacks puts in the place of one is what rows are chosen from no more."""
    real, model = pair(folder, *how)
    first = same(real, model)
    for one in (real, model):
        experts = one.model.layers[0].mlp.experts
        hook = experts.register_forward_pre_hook(lambda module, _: registered_anew(module, "down_proj"))
        try:
            computed(one, CHOICES[0])
        except PlanError:
            return "streaming" in how[1]  # the buffer holds no whole stack
        finally:
            hook.remove()
    return first and same(real, model)


def forked(folder, *how):
    """A child computes the same, though another thread held the locks when it was forked."""
    real, model = pair(folder, *how)
    first, stream = same(real, model), model._compile_plan_execution.stream
    held, over = threading.Event(), threading.Event()

    def hold():
        with stream.lock, stream.turns:
            held.set()
            over.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    child = os.fork()
    if child == 0:
        right = False
        signal.alarm(60)
        try:
            right = same(real, model)
        finally:
            os._exit(0 if right else 1)
    over.set()
    holder.join()
    return os.waitpid(child, 0)[1] == 0 and first and same(real, model)


def two_models_one_inside_the_other(folder, *how):
    (real, model), (_, other) = pair(folder, *how), pair(folder, *how)
    inner = []
    model.model.layers[0].mlp.experts.register_forward_pre_hook(lambda *_: inner.append(same(real, other)))
    return same(real, model) and inner and all(inner)


def threads(folder, *how):
    real, model = pair(folder, *how)
    expected = [[computed(real, ids + number) for ids in CHOICES] for number in range(4)]
    found = []

    def work(number):
        with torch.no_grad():
            for ids, wanted in zip(CHOICES * 2, expected[number] * 2, strict=True):
                found.append(torch.allclose(computed(model, ids + number), wanted, atol=1e-5))

    running = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return len(found) == 4 * 6 and all(found) and at_rest(model)


def interrupts(folder, *how):
    real, model = pair(folder, *how)
    second = model.model.layers[1]
    for module in (second.mlp.experts, second.mlp.experts.act_fn, second.mlp.gate, model.lm_head):
        for ids in CHOICES:
            handle = module.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            try:
                model(input_ids=ids)
            except KeyboardInterrupt:
                handle.remove()
            else:
                return False
    right, supply = same(real, model), model._compile_plan_execution.stream.supply
    taken = [len(carrier.arena._taken) for carrier in supply._carriers.values()]
    return right and at_rest(model) and all(count == len(supply.ready) for count in taken)


class Waits(TorchDispatchMode):
    """Counts the copies between devices that whoever asks for them waits for, while it is told to."""

    def __init__(self):
        super().__init__()
        self.count, self.told = 0, False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        del types
        made = func(*args, **(kwargs or {}))
        if self.told and func in CROSSING:
            devices = {one.device for one in (made, *args) if isinstance(one, torch.Tensor)}
            waits = not ((kwargs or {}).get("non_blocking") or args[2:])
            self.count += len(devices) > 1 and waits
        return made

    def around(self, module):
        """Be told while hooks of a module run that are there already."""

        def tell(told):
            def hook(*_):
                self.told = told

            return hook

        for first in (True, False):
            module.register_forward_pre_hook(tell(first), prepend=first)
            module.register_forward_hook(tell(first), prepend=first)


def waited_for_once(folder, *how):
    """To be told what it chose a call waits for its device, and for nothing else."""
    real, model = pair(folder, *how)
    first, waits = same(real, model), Waits()
    rows = model._compile_plan_execution.rows
    for each in rows:
        waits.around(each.site.module)
    with waits:
        for ids in CHOICES:
            computed(model, ids)
    return first and same(real, model) and waits.count == len(CHOICES) * len(rows)


def written_text(folder, *how):
    real, model = pair(folder, *how)
    settings = {"do_sample": False, "max_new_tokens": 5, "min_new_tokens": 5, "pad_token_id": 0}
    texts = [one.generate(rows_runs.TOKENS, **settings).tolist() for one in (real, model)]
    release_model(model)
    return texts[0] == texts[1]


ANYWHERE = (
    autocast, into_a_real_model, written, written_while_rows_are_lent, registered_while_all_are_there,
    two_models_one_inside_the_other, threads, interrupts, written_text,
)  # fmt: skip
ON_THE_CARD = (waited_for_once,)
ON_THE_HOST = (inference_mode, compiled, forked)
"""What the pretended device itself cannot do with a whole model."""
WITH_PEFT = (adapters_added_after, adapters_of_experts, adapters_that_were_there, merged_adapters)


def main():
    torch.set_num_threads(1)
    host = ON_THE_HOST + (WITH_PEFT if importlib.util.find_spec("peft") else ())
    found = {}
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        rows_runs.built("mixtral").save_pretrained(name, save_original_format=True)
        card = ON_THE_CARD + (WITH_PEFT[-1:] if importlib.util.find_spec("peft") else ())
        for cases, places in ((ANYWHERE, CARD + HOST), (host, HOST), (card, CARD)):
            for case, where, way in ((c, p, w) for c in cases for p in places for w in WAYS):
                right = case(Path(name), where, way)
                key = " ".join((case.__name__, *where, *way))
                found[key] = "equal" if right else "different"
    print(json.dumps(found))  # noqa: T201  the program's result


if __name__ == "__main__":
    main()
