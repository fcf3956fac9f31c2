"""The moments of a workload: a prompt is read, then tokens are written one after another.

Reading a prompt has the largest activations, writing has the longest cache; both are traced, each in
the sizes it happens in. While tokens are written the cache of each layer is made anew, so for a
moment it is there twice: the trace of one token sees that.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor, nn

from ...ir import Diagnostic, Diagnostics
from ...ir.rules.tracing import TRACE_FAILED
from ...ir.wording import first_line
from ..running.nesting import Untyped
from .forward import try_run
from .inputs.config_inputs import plain_model
from .inputs.example_inputs import Inputs
from .one_run import Ran, run
from .record import Recorder
from .results import cache_of, logits_of, state_of, unique
from .trace import Trace
from .training import USUAL, kept_by_module
from .training_step import StepPeaks, step_peaks

_TOKENS: Final = ("decoder_input_ids", "input_ids")
"""What is written, the nearer to the output first."""
_LAST_ONLY: Final = ("logits_to_keep", "num_logits_to_keep")
"""Arguments by which generation asks for the scores of the last position alone."""


@dataclass(frozen=True, slots=True)
class Moments:
    """What a workload does to memory."""

    main: Trace
    """The whole forward: its dataflow is that of the model."""
    later: tuple[Trace, ...] = ()
    """One token written when the cache is at its longest; empty where nothing is written."""
    cache_nbytes: tuple[int, ...] | None = None
    """Bytes of each value of ``main.cache`` at its longest; None: as the forward left it."""
    widens: bool = True
    """Whether somebody widens the scores to float32 after the forward: a sampler, a loss outside of it."""
    positions: int = 1
    """Positions read for each one whose scores were asked for."""
    training: Training | None = None
    crowded: tuple[Trace, ...] = ()
    """The forward once more where its choices were assumed: every row chooses the same experts."""

    @property
    def traces(self) -> tuple[Trace, ...]:
        """Every moment."""
        return (self.main, *self.crowded, *self.later)


@dataclass(frozen=True, slots=True)
class Training:
    """A step of training: what ran, and what each module keeps for the backward pass."""

    ran: Ran
    kept: Mapping[int, int]
    trainable: frozenset[str]
    optimizer: str
    peaks: StepPeaks | None = None
    """What a whole step has alive at once on one device; None where it does not run on the meta device."""


@dataclass(frozen=True, slots=True)
class Use:
    """What a model is used for, as far as a trace follows it."""

    kind: str = "generate"
    """One of `ir.WORKLOADS`."""
    total: int | None = None
    """Tokens in the cache when the last one is written; None leaves it at what one forward fills."""
    written: int | None = None
    """Instead of ``total``: how many tokens are written after what the forward was given."""
    last: bool = True
    """Whether generation asks for the scores of the last position alone, where the model lets it."""
    optimizer: str = USUAL


def try_moments(
    model: nn.Module,
    inputs: Inputs,
    diagnostics: Diagnostics,
    *,
    batch: int = 1,
    seq: int | None = None,
    dtype: str | None = None,
    generate: bool = False,
    total: int | None = None,
    use: Use | None = None,
) -> Moments | None:
    """Trace what a workload does; None, with a finding, where the forward cannot be traced.

    Without ``use`` the model generates: ``generate`` is whether only the last position's scores are asked
    for, ``total`` as in `Use`.

    Generation asks for the scores of the last position alone where the model can be asked for them; a loss
    is computed by the model where it takes labels.
    """
    use = Use(total=total, last=generate) if use is None else use
    asks = use.kind == "generate" and use.last
    last = {name: 1 for name in _LAST_ONLY if asks and name in _accepted(model)}
    ran = try_run(model, inputs, diagnostics, batch=batch, seq=seq, dtype=dtype, extra=last)
    if ran is None:
        return None
    match use.kind:
        case "generate":
            name = _written(ran) if last else None
            found = _of(ran) if use.total is use.written is None else _with_writing(ran, use)
            return found if name is None else replace(found, positions=ran.kwargs[name].shape[1])
        case "forward":
            return _of(ran, widens=False)
        case "loss":
            return _with_loss(ran, model)
        case _:
            return _trained(ran, model, use.optimizer, diagnostics)


def _of(ran: Ran, *, widens: bool = True) -> Moments:
    """Return the moment of one forward; where it chose among experts also with all rows choosing the same."""
    if not ran.assumed:
        return Moments(ran.trace, widens=widens)
    recorder, crowded = Recorder(ran.shadow.tree, assume=True, crowded=True), tuple[Trace, ...]()
    with suppress(Exception):  # the model's own code may raise anything; the first moment stands
        crowded = (run(ran.shadow, recorder, ran.args, dict(ran.kwargs)).trace,)
    return Moments(ran.trace, widens=widens, crowded=crowded)


def _with_loss(ran: Ran, model: nn.Module) -> Moments:
    """Trace the forward with labels; a model that takes none leaves the loss to somebody else."""
    labels = _labels(ran, model)
    if not labels:
        return _of(ran)
    try:
        with_loss = run(ran.shadow, _recorder(ran), ran.args, {**ran.kwargs, **labels})
    except Exception:  # noqa: BLE001  the model's own code may raise anything; then its scores stand
        return _of(ran)
    return _of(with_loss, widens=False)


def _labels(ran: Ran, model: nn.Module) -> dict[str, Untyped]:
    """Return labels for the scores of a forward: one for each but the last axis."""
    scores = logits_of(ran.result)
    if "labels" not in _accepted(model) or not scores:
        return {}
    return {"labels": torch.ones(scores[0].shape[:-1], dtype=torch.int64, device="meta")}


def _trained(ran: Ran, model: nn.Module, optimizer: str, diagnostics: Diagnostics) -> Moments:
    moments = _with_loss(ran, model)
    trainable = frozenset(name for name, each in model.named_parameters() if each.requires_grad)
    called = {**ran.kwargs, **({} if moments.widens else _labels(ran, model))}
    uncached = {"use_cache": False} if "use_cache" in _accepted(model) else {}
    try:
        kept = kept_by_module(ran, {**called, **uncached}, trainable)
    except Exception as error:  # noqa: BLE001  the model's own code, or autograd on the meta device
        message = "the forward does not run with autograd on the meta device: the backward pass is missing"
        help_ = 'give its bytes yourself: `reserve 1GiB on cuda:0 for "kept activations"`'
        diagnostics.add(Diagnostic(TRACE_FAILED, message, notes=(first_line(error),), help=help_))
        return replace(moments, training=Training(ran, Counter[int](), trainable, optimizer))
    try:
        peaks = step_peaks(ran, called, trainable, optimizer)
    except Exception:  # noqa: BLE001  an optimizer that needs more than gradients: the bounds of pieces stand
        peaks = None
    return replace(moments, training=Training(ran, kept, trainable, optimizer, peaks))


def _accepted(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(plain_model(model).forward).parameters


def _with_writing(ran: Ran, use: Use) -> Moments:
    """Fill the cache to its full length without watching, then watch one token being written.

    A model that does not go on from its own state as transformers' do has no such moment.
    """
    kept, name = len(ran.trace.cache), _written(ran)
    if name is None or not kept:
        return _of(ran)
    total = ran.kwargs[name].shape[1] + (use.written or 0) if use.total is None else use.total
    told = _lengthened(ran, name, total)  # before a run that goes on changes what is kept
    try:
        sizes, later = _last_token(ran, name, total)
    except Exception:  # noqa: BLE001  the model's own code may raise anything; the prompt's moment stands
        return replace(_of(ran), cache_nbytes=told)
    sizes = sizes if len(sizes) == kept else told
    if later:  # the whole of the prompt was there before
        sizes = tuple(map(max, sizes, ran.trace.cache_nbytes))
    return replace(_of(ran), later=later, cache_nbytes=sizes)


def _lengthened(ran: Ran, name: str, total: int) -> tuple[int, ...]:
    """Return the bytes of the cache where no run tells them: what is as long as the prompt grows with it.

    Caches hold rows x heads x tokens x numbers; tokens of the model's own may stand before the prompt's.
    """
    length, found = ran.kwargs[name].shape[1], []
    for tensor in unique(cache_of(ran.result)):
        held = tensor.shape[-2] if tensor.dim() > 2 else 0
        more = total - length if held >= length else 0
        found.append(tensor.nbytes * (held + more) // held if more else tensor.nbytes)
    return tuple(found)


def _last_token(ran: Ran, name: str, total: int) -> tuple[tuple[int, ...], tuple[Trace, ...]]:
    """Return the bytes of the cache when it is ``total`` tokens long, and the trace of the last of them."""
    length = ran.kwargs[name].shape[1]
    if total <= length:  # a shorter cache was asked for than the prompt fills
        shorter = {each: _tokens(ran, each, total) for each in _TOKENS if each in ran.kwargs}
        return _kept(_again(ran, {**ran.kwargs, **shorter})), ()
    before = ran if total - length == 1 else _again(ran, _next(ran, name, total - length - 1))
    last = _again(before, _next(before, name, 1))
    return _kept(last), (last.trace,)


def _again(ran: Ran, kwargs: dict[str, Untyped]) -> Ran:
    return run(ran.shadow, _recorder(ran), (), kwargs, before=ran.result)


def _recorder(ran: Ran) -> Recorder:
    """Return a recorder for another run of the model, which assumes what the first had to assume."""
    return Recorder(ran.shadow.tree, assume=ran.assumed)


def _kept(ran: Ran) -> tuple[int, ...]:
    """Return the bytes that what is kept holds on to: a window is cut from it with the last token joined."""
    found = unique(cache_of(ran.result))
    storages = [tensor.untyped_storage() for tensor in found]
    keys = [storage._cdata for storage in storages]  # noqa: SLF001  # torch has no other name for it
    rows = zip(found, storages, keys, strict=True)
    return tuple(storage.nbytes() if keys.count(key) == 1 else tensor.nbytes for tensor, storage, key in rows)


def _tokens(ran: Ran, name: str, count: int) -> Tensor:
    given = ran.kwargs[name]
    return torch.ones(given.shape[0], count, dtype=given.dtype, device="meta")


def _written(ran: Ran) -> str | None:
    """Return the name of the tokens a model was given as rows of a text; None if there are none."""
    given = [(name, ran.kwargs.get(name)) for name in _TOKENS]
    return next((name for name, item in given if isinstance(item, Tensor) and item.dim() == 2), None)


def _next(ran: Ran, name: str, count: int) -> dict[str, Untyped]:
    """Return the arguments of a call that goes on by so many tokens from what the last one kept."""
    found = state_of(ran.result)
    if found is None:
        msg = "nothing is kept for the next call"
        raise LookupError(msg)
    same = {key: ran.kwargs[key] for key in (*_LAST_ONLY, "encoder_outputs") if key in ran.kwargs}
    encoded = ran.result.get("encoder_last_hidden_state") if isinstance(ran.result, Mapping) else None
    encoder = {} if encoded is None else {"encoder_outputs": (encoded,)}
    return {**same, **encoder, name: _tokens(ran, name, count), found[0]: found[1]}
