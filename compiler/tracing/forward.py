"""Traces a model: copies its structure to meta, runs one forward under the recorder.

The user's model is never touched. A forward that cannot run without values is not a failure: the
finding names the op and the module, and everything still works from the module tree alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from ...ir import Diagnostic, Diagnostics, PlanError
from ...ir.purposes import KV_CACHE
from ...ir.rules.tracing import TRACE_FAILED, TRACED_WITHOUT_CACHE, VALUES_ASSUMED
from ...ir.wording import first_line
from ..running.nesting import Untyped
from ..sources.live import lower_model
from .inputs.example_inputs import Arguments, Attempts, Inputs, example_inputs
from .meta_copy import copy_to_meta
from .one_run import Ran, Shadow, run
from .record import Recorder
from .trace import Trace

if TYPE_CHECKING:
    from torch import nn


Beside: TypeAlias = "Callable[[nn.Module, Mapping[str, Untyped]], Mapping[str, Untyped]]"
"""Makes arguments that go along with others."""


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


def try_run(
    model: nn.Module,
    inputs: Inputs,
    diagnostics: Diagnostics,
    *,
    batch: int = 1,
    seq: int | None = None,
    dtype: str | None = None,
    extra: Mapping[str, Untyped] = MappingProxyType({}),
    beside: Beside | None = None,
) -> Ran | None:
    """Trace as `try_trace` does, and return what was run.

    ``extra`` goes along where inputs say nothing; so does what ``beside`` makes of each guess, if that runs.
    """
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
            args, kwargs = given[0], {**extra, **given[1]}
            ran, assumed = _run_beside(Shadow(shadow, tree, values), args, kwargs, beside)
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


def _run_beside(
    shadow: Shadow, args: tuple[Untyped, ...], kwargs: dict[str, Untyped], beside: Beside | None
) -> tuple[Ran, list[Diagnostic]]:
    """Run the forward with what goes along with these arguments, or without where it takes none of that."""
    more = {} if beside is None else beside(shadow.model, kwargs)
    if more:
        with suppress(_NotRunError):
            return _run_with_values(shadow, args, {**kwargs, **more})
    return _run_with_values(shadow, args, kwargs)


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
