"""Traces a model: copies its structure to meta, runs one forward under the recorder.

The user's model is never touched. A forward that cannot run without values is not a failure: the
finding names the op and the module, and everything still works from the module tree alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, cast

import torch
import torch.fx.experimental._config
from torch import Tensor, nn

from ...ir import Diagnostic, Diagnostics, ModuleTree, PlanError
from ...ir.purposes import KV_CACHE
from ...ir.rules.tracing import TRACE_FAILED, TRACED_WITHOUT_CACHE, VALUES_ASSUMED
from ..running.kinds import kinds_of
from ..running.nesting import Untyped, map_tensors, tensors_in
from ..running.sites import Kinds, tensors_beside
from ..sources.live import lower_model
from .device_reads import DeviceReads
from .inputs.example_inputs import Arguments, Attempts, Inputs, example_inputs
from .meta_copy import Values, copy_to_meta
from .record import Recorder
from .results import cache_of, logits_of, unique
from .shadows import MAX_NUMEL
from .trace import HOST, Origin, Trace


def trace_model(
    model: nn.Module,
    inputs: Inputs = None,
    *,
    batch: int = 1,
    seq: int | None = None,
    dtype: str | None = None,
) -> Trace:
    """Run one forward of the model on the meta device and return what happened.

    ``inputs`` are tensors (one, or a tuple, or a mapping by name), a text such as
    ``input_ids=int64[1,128]``, or None to make them from the model's transformers config with
    ``batch`` rows of ``seq`` tokens. ``dtype`` is what wider floating-point weights will be loaded as.

    Raises:
        PlanError: there are no inputs, or the forward cannot run on the meta device.

    """
    diagnostics = Diagnostics()
    trace = try_trace(model, inputs, diagnostics, batch=batch, seq=seq, dtype=dtype)
    if trace is None:
        raise PlanError(tuple(diagnostics))
    return trace


def try_trace(
    model: nn.Module,
    inputs: Inputs,
    diagnostics: Diagnostics,
    *,
    batch: int = 1,
    seq: int | None = None,
    dtype: str | None = None,
) -> Trace | None:
    """Trace as `trace_model` does; when that is not possible say why and return None."""
    ran = try_run(model, inputs, diagnostics, batch=batch, seq=seq, dtype=dtype)
    return None if ran is None else ran.trace


@dataclass(frozen=True, slots=True)
class Ran:
    """A forward that ran: its trace, the copy it ran on, what it was given and what it returned."""

    trace: Trace
    shadow: Shadow
    kwargs: Mapping[str, Untyped]
    args: tuple[Untyped, ...]
    result: object
    """Its tensors are on the meta device."""


def try_run(
    model: nn.Module,
    inputs: Inputs,
    diagnostics: Diagnostics,
    *,
    batch: int = 1,
    seq: int | None = None,
    dtype: str | None = None,
    extra: Mapping[str, Untyped] = MappingProxyType({}),
) -> Ran | None:
    """Trace as `try_trace` does, and return what was run; ``extra`` are more keyword arguments."""
    try:
        shadow, values = copy_to_meta(model, dtype)
    except Exception as error:  # noqa: BLE001  copying runs the model's code, which may raise anything
        message = f"`{type(model).__name__}` cannot be copied to the meta device"
        diagnostics.add(Diagnostic(TRACE_FAILED, message, notes=(first_line(error),), help=_HELP))
        return None
    attempts = example_inputs(shadow, inputs, diagnostics, batch=batch, seq=seq)
    tree = lower_model(model)
    failures: list[Diagnostic] = []
    given = next(attempts, None)
    while given is not None:
        try:
            args, kwargs = given[0], {**given[1], **extra}
            ran, assumed = _run_with_values(Shadow(shadow, tree, values), args, kwargs)
        except _NotRunError as failure:
            failures.append(failure.found)
            given = _after(attempts, failure.error)
        else:
            uncached = _without_cache(model) if inputs is None and given[1].get("use_cache") is False else []
            diagnostics.extend((*assumed, *uncached))
            return ran
    diagnostics.extend(failures[:1])
    return None


def _after(attempts: Attempts, error: Exception) -> Arguments | None:
    try:
        return attempts.send(error)
    except StopIteration:
        return None


class _NotRunError(Exception):
    """A forward stopped; carries why, for people and for the next guess."""

    def __init__(self, found: Diagnostic, error: Exception) -> None:
        super().__init__(found.message)
        self.found = found
        self.error = error


@dataclass(frozen=True, slots=True)
class Shadow:
    """The copy that is run."""

    model: nn.Module
    tree: ModuleTree
    values: Values


def _run_with_values(
    shadow: Shadow, args: tuple[Untyped, ...], kwargs: dict[str, Untyped]
) -> tuple[Ran, list[Diagnostic]]:
    """Run the forward; where it asks for values that depend on weights, again with assumed ones."""
    recorder = Recorder(shadow.tree)
    try:
        return run(shadow, recorder, args, kwargs), []
    except Exception as error:
        found = _failure(recorder, error)
        if not recorder.shadows.asked:
            raise _NotRunError(found, error) from error
    try:
        ran = run(shadow, Recorder(shadow.tree, assume=True), args, kwargs)
    except Exception as error:
        raise _NotRunError(found, error) from error
    return ran, [_values_assumed(recorder)]


def _values_assumed(stopped: Recorder) -> Diagnostic:
    module, at = _where(stopped)
    message = f"the forward asks for values that depend on weights: {module}{at}"
    note = "choices are taken in turn, counts are one, questions are answered no"
    return Diagnostic(VALUES_ASSUMED, message, notes=(note,))


def _without_cache(model: nn.Module) -> list[Diagnostic]:
    message = f"the forward of `{type(model).__name__}` runs on the meta device only without its KV cache"
    line = f'reserve 1GiB on cuda:0 for "{KV_CACHE}"'
    help_ = f"if you generate with a cache, reserve its bytes: `{line}`"
    note = "the ledger holds no cache"
    return [Diagnostic(TRACED_WITHOUT_CACHE, message, notes=(note,), help=help_)]


_HELP: Final = "the plan is made from the module tree alone; give other inputs, or none"


def _where(stopped: Recorder) -> tuple[str, str]:
    """Return the module in which a forward stopped, and the operation, as a message names them."""
    path = stopped.tree.paths[stopped.calls[stopped.call][0]] if stopped.stack else ""
    module = f"`{path}`" if path else "the model's own forward"
    return module, f" at `{stopped.attempt}`" if stopped.attempt else ""


def _failure(recorder: Recorder, error: Exception) -> Diagnostic:
    module, at = _where(recorder)
    message = f"the forward does not run on the meta device: {module} stops{at}"
    return Diagnostic(TRACE_FAILED, message, notes=(first_line(error),), help=_HELP)


def first_line(error: Exception) -> str:
    """Return what went wrong in one line."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}"


def run(
    shadow: Shadow,
    recorder: Recorder,
    args: tuple[Untyped, ...],
    kwargs: dict[str, Untyped],
    before: object = None,
    *,
    grad: bool = False,
) -> Ran:
    """Run the copy under a recorder; ``before`` is what a former call returned, its state in the arguments.

    With ``grad`` autograd watches too.

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

    args, kwargs = map_tensors(args, on_meta), map_tensors(kwargs, on_meta)
    given = [*tensors_in(args), *tensors_in(kwargs)]
    recorder.keep(given)
    for tensor in dict.fromkeys(given):
        recorder.add(tensor, Origin.INPUT)
    _number_state(before, recorder)
    kinds = _kinds(shadow.model, recorder.tree)  # before: some models exchange modules while they run
    with _recording(recorder, modules, grad=grad):
        result = shadow.model(*args, **kwargs)
        trace = recorder.finish(cache_of(result), logits_of(result), kinds)
    return Ran(trace, shadow, kwargs, args, result)


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
        stack.enter_context(recorder)
        yield
