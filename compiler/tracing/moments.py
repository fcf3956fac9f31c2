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
from functools import partial
from typing import Final

import torch
from torch import nn

from ...ir import Diagnostic, Diagnostics
from ...ir.rules.tracing import BEAMS_ARE_ROWS, TRACE_FAILED
from ...ir.wording import first_line
from ..running.nesting import Untyped
from .forward import try_run
from .generating import held_beside, held_later, texts_of_a_prompt, with_mask, with_prompt
from .inputs.config_inputs import plain_model
from .inputs.example_inputs import Inputs
from .one_run import Ran, run
from .own_generate import own_generate
from .record import Recorder
from .results import logits_of
from .sampling import Sampled, sampled
from .trace import Trace
from .training import USUAL, kept_by_module
from .training_step import StepPeaks, step_peaks
from .writing import LAST_ONLY, as_before, begun, last_token, length_of, lengthened, read_again, written_name

WIDE: Final = 4
"""Bytes of a score in float32: losses and samplers widen scores before they use them."""


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
    sampled: Mapping[bool, Sampled] | None = None
    """What choosing a token holds, where ``generate()`` asks; by whether that is on the CPU."""
    held: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    """Bytes of what ``generate()`` and its caller hold beside: in the prompt's moments, in later ones."""
    whole: Trace | None = None
    """Where an encoder reads the prompt ``main`` has one decoder token; this has as many as were read."""
    training: Training | None = None
    own: tuple[tuple[Trace, int], ...] = ()
    """A model's own ``generate()``, all it holds included, and from which step on each of these tells."""
    crowded: tuple[Trace, ...] = ()
    """The forward once more where its choices were assumed: every row chooses the same experts."""

    @property
    def traces(self) -> tuple[Trace, ...]:
        """Every moment."""
        return (self.main, *self.crowded, *self.later)

    def is_later(self, trace: Trace) -> bool:
        """Say whether a moment goes on from another one's scores."""
        return any(trace is each for each in self.later)

    def held_in(self, trace: Trace) -> tuple[int, ...]:
        """Return the bytes held beside what a moment is given."""
        return self.held[self.is_later(trace)]

    def left_in(self, trace: Trace) -> tuple[int, ...]:
        """Return the bytes that are left of choosing the token a moment reads."""
        return self.sampled[True].kept if self.sampled is not None and self.is_later(trace) else ()

    def made_after(self, trace: Trace, *, on_host: bool) -> tuple[int, ...]:
        """Return the bytes that are there when most is made of a moment's scores."""
        if self.sampled is not None:
            chosen = self.sampled[on_host]
            return chosen.later if self.is_later(trace) else chosen.first
        scores = [trace.values[each] for each in trace.logits if self.widens]
        return tuple(each.own_nbytes // each.width * WIDE for each in scores if each.width < WIDE)


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
    """How many tokens are written after what the forward was given: instead of ``total``, or beside it for
    models whose decoder begins with one token, whatever an encoder reads."""
    last: bool = True
    """Whether generation asks for the scores of the last position alone, where the model lets it, for a
    cache, and begins the text of a decoder with one token."""
    optimizer: str = USUAL

    def total_of(self, length: int, *, starts: bool) -> int:
        """Return the tokens of a text at its end; a decoder that ``starts`` has what is written alone.

        Pictures and sounds may make a text longer than the prompt that was asked for.
        """
        written = length + (self.written or 0)
        if self.total is None or (starts and self.written is not None):
            return written
        return self.total if self.written is None else max(self.total, written)


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

    Generation asks for the scores of the last position alone where it can; a model that takes labels computes
    its loss.
    """
    use = Use(total=total, last=generate) if use is None else use
    asks = use.kind == "generate" and use.last
    last = {name: 1 for name in LAST_ONLY if asks and name in _accepted(model)}
    cached = {"use_cache": True} if asks and _leaves_cache_to_caller(model) else {}
    ran, beside = None, with_prompt if asks else None
    if use.kind != "generate" and inputs is None:  # nobody calls it without
        beside = with_mask
    run_with = partial(try_run, model, inputs, batch=batch, seq=seq, dtype=dtype, beside=beside)
    if cached:  # it may not run with one at all
        ran = run_with(Diagnostics(), extra={**last, **cached})
    ran = run_with(diagnostics, extra=last) if ran is None else ran
    if ran is None:
        return None
    match use.kind:
        case "generate":
            if asks and batch % (beams := texts_of_a_prompt(model)):
                diagnostics.add(_beams(batch, beams))
            found = _generated(ran, use, made=inputs is None)
            return replace(found, positions=length_of(ran)) if last and length_of(ran) else found
        case "forward":
            return _of(ran, widens=False)
        case "loss":
            return _with_loss(ran, model)
        case _:
            return _trained(ran, model, use.optimizer, diagnostics)


def _beams(rows: int, beams: int) -> Diagnostic:
    message = (
        f"the model's `generation_config` makes {beams} rows of each prompt, and {rows} are counted in all"
    )
    help_ = f"say `--rows {rows * beams}`: prompts times beams"
    return Diagnostic(BEAMS_ARE_ROWS, message, help=help_)


def _leaves_cache_to_caller(model: nn.Module) -> bool:
    """Say whether a model keeps something for the next token only if asked to, as generation does."""
    config = getattr(plain_model(model), "config", None)
    return "use_cache" in _accepted(model) and getattr(config, "use_cache", None) is not True


def _generated(ran: Ran, use: Use, *, made: bool) -> Moments:
    """Return the moments of writing; ``made`` says that the inputs are nobody's wish."""
    first = begun(ran) if use.last and made else ran
    starts = first is not ran
    found = _of(first) if use.total is use.written is None else _with_writing(first, use, starts=starts)
    if not use.last:
        return found
    whole, own = ran.trace if starts else None, own_generate(ran, use.total_of(length_of(ran), starts=starts))
    return replace(_asked(found, first, use, starts=starts), whole=whole, own=own)


def _asked(found: Moments, ran: Ran, use: Use, *, starts: bool) -> Moments:
    """Return moments with what ``generate()`` and its caller hold beside, and make of the scores."""
    model, length = ran.shadow.model, length_of(ran)
    total = max(length, use.total_of(length, starts=starts))
    held = held_beside(model, ran.kwargs), held_later(model, ran.kwargs, total)
    scores = next((each.shape for each in logits_of(ran.result) if each.dim() == 3), None)
    if scores is None:
        return replace(found, held=held)
    chosen = {
        on_host: sampled(model, scores[0], scores[-1], (length, total), on_host=on_host)
        for on_host in (False, True)
    }
    return replace(found, held=held, sampled=chosen)


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
        with_loss = run(ran.shadow, as_before(ran), ran.args, {**ran.kwargs, **labels})
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


def _with_writing(ran: Ran, use: Use, *, starts: bool) -> Moments:
    """Fill the cache to its full length without watching, then watch one token being written.

    A model that does not go on from its own state as transformers' do has no such moment; one that keeps
    none reads the whole text again. A decoder that ``starts`` with one token has that and what is written.
    """
    kept, name = len(ran.trace.cache), written_name(ran)
    if name is None:
        return _of(ran)
    length = ran.kwargs[name].shape[1]
    total = use.total_of(length, starts=starts)
    if not kept:
        again = read_again(ran, name, total) if total > length and use.last else ()
        return replace(_of(ran), later=again)
    told = lengthened(ran, name, total)  # before a run that goes on changes what is kept
    try:
        sizes, later = last_token(ran, name, total)
    except Exception:  # noqa: BLE001  the model's own code may raise anything; the prompt's moment stands
        return replace(_of(ran), cache_nbytes=told)
    sizes = sizes if len(sizes) == kept else told
    if later:  # the whole of the prompt was there before
        sizes = tuple(map(max, sizes, ran.trace.cache_nbytes))
    return replace(_of(ran), later=later, cache_nbytes=sizes)
