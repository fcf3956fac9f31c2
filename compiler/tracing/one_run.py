"""One run of the copy under the recorder: weights, inputs and state numbered, every call and op recorded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import cast

import torch
import torch.fx.experimental._config
from torch import Tensor, nn

from ...ir import ModuleTree
from ..running.kinds import kinds_of
from ..running.nesting import Untyped, map_tensors, tensors_in
from ..running.sites import Kinds, tensors_beside
from .device_reads import DeviceReads
from .meta_copy import Values
from .record import Recorder
from .results import cache_of, logits_of, unique
from .shadows import MAX_NUMEL
from .trace import HOST, Origin, Trace


@dataclass(frozen=True, slots=True)
class Shadow:
    """The copy that is run."""

    model: nn.Module
    tree: ModuleTree
    values: Values


@dataclass(frozen=True, slots=True)
class Ran:
    """A forward that ran: its trace, the copy it ran on, what it was given and what it returned."""

    trace: Trace
    shadow: Shadow
    kwargs: Mapping[str, Untyped]
    args: tuple[Untyped, ...]
    """As they were given: another run asks for values too, of tokens that stand for pictures."""
    result: object
    """Its tensors are on the meta device."""
    assumed: bool
    """Whether values that depend on weights were assumed where the forward asked for them."""


def run(
    shadow: Shadow,
    recorder: Recorder,
    args: tuple[Untyped, ...],
    kwargs: dict[str, Untyped],
    before: object = None,
    *,
    grad: bool = False,
    call: Callable[..., object] | None = None,
) -> Ran:
    """Run the copy under a recorder; ``before`` is what a former call returned, its state in the arguments.

    With ``grad`` autograd watches too. ``call`` is what to call of the copy instead of the copy.

    Raises whatever the model raises.
    """
    modules = _number_weights(shadow.model, recorder)
    for tensor, value in shadow.values.items():
        recorder.shadows.learn(tensor, value.clone())

    def on_meta(tensor: Tensor) -> Tensor:
        made = tensor.detach().to("meta")
        made = made if made is not tensor else made.view_as(made)
        recorder.shadows.learn(made, _assumed(tensor))
        return made

    given = map_tensors((args, kwargs), on_meta)
    there = list(tensors_in(given))
    recorder.keep(there)
    for tensor in dict.fromkeys(there):
        recorder.add(tensor, Origin.INPUT)
    _number_state(before, recorder)
    kinds = _kinds(shadow.model, recorder.tree)  # before: some models exchange modules while they run
    with _recording(recorder, modules, grad=grad):
        result = (shadow.model if call is None else call)(*given[0], **given[1])
        trace = recorder.finish(cache_of(result), logits_of(result), kinds)
    return Ran(trace, shadow, kwargs, args, result, recorder.shadows.assume)


def _number_state(before: object, recorder: Recorder) -> None:
    """Number what a former call kept; nothing here holds on to it, so that its end is seen."""
    for tensor in unique(cache_of(before)):
        if not recorder.knows(tensor):
            recorder.add(tensor, Origin.STATE)


def _assumed(tensor: Tensor) -> Tensor:
    """Take whole numbers of which only the shape was given to be ones: ordinary tokens, nothing masked."""
    if tensor.device.type != "meta" or tensor.is_floating_point() or tensor.numel() > MAX_NUMEL:
        return tensor
    return torch.ones(tensor.shape, dtype=tensor.dtype)


def _kinds(shadow: nn.Module, tree: ModuleTree) -> Kinds:
    named = shadow.named_modules(remove_duplicate=False)
    return kinds_of((tree.module_index[path], module) for path, module in named)


def _number_weights(shadow: nn.Module, recorder: Recorder) -> dict[nn.Module, int]:
    """Number the weights, and return the first place of each module in the tree."""
    tree = recorder.tree
    modules: dict[nn.Module, int] = {}
    names: dict[int, tuple[Tensor, list[int]]] = {}
    for path, module in shadow.named_modules(remove_duplicate=False):
        index = tree.module_index[path]
        modules.setdefault(module, index)
        own = {**module._parameters, **module._buffers}  # noqa: SLF001
        for number in tree.own_tensors(index):
            tensor = own[tree.tensor_names[number]]
            names.setdefault(id(tensor), (tensor, []))[1].append(number)
    for tensor, numbers in names.values():
        recorder.keep((tensor,))
        recorder.add(tensor, Origin.WEIGHT, tensors=tuple(numbers))
    _number_attributes(modules, set(names), recorder)
    return modules


def _number_attributes(modules: Mapping[nn.Module, int], known: set[int], recorder: Recorder) -> None:
    """Number the tensors that modules hold as plain attributes: the loader puts them where a module runs."""
    for module, index in modules.items():
        for item in vars(module).values():
            if not isinstance(item, Tensor) or id(item) in known or not item.dim() or item.requires_grad:
                continue
            known.add(id(item))
            recorder.keep((item,))
            beside = tuple(tensors_beside(recorder.tree, index))
            recorder.add(item, Origin.CONSTANT, reference=HOST, beside=beside)


@contextmanager
def _recording(recorder: Recorder, modules: Mapping[nn.Module, int], *, grad: bool) -> Iterator[None]:
    def enter(module: nn.Module, args: Untyped, kwargs: Untyped) -> Untyped:
        return recorder.enter(modules[module], args, kwargs)

    def leave(_module: nn.Module, _args: Untyped, _kwargs: Untyped, result: Untyped) -> None:
        recorder.leave(result)

    hooks = []
    for module in modules:
        hooks.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        hooks.append(module.register_forward_hook(leave, with_kwargs=True))
    with ExitStack() as stack:
        for hook in hooks:
            stack.callback(hook.remove)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        options = cast("Untyped", torch.fx.experimental._config)  # noqa: SLF001  its own way to be set
        stack.enter_context(options.patch(meta_nonzero_assume_all_nonzero=True))
        stack.enter_context(torch.set_grad_enabled(grad))
        stack.enter_context(DeviceReads(recorder))
        stack.callback(recorder.remember)  # where the forward fails, too
        stack.enter_context(recorder)
        yield
