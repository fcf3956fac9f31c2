"""A step of training on the meta device: forward, loss, backward and the optimizer's step, and what is alive.

Everything runs on one device. What a call returned is held while it goes backward, as the usual loop does.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor, nn

from ..machine.allocator import ROUND, Event
from ..running.nesting import Untyped, tensors_in
from ..running.optimizers import optimizer_names
from .alive_now import AliveNow
from .one_run import Ran, run
from .record import Recorder
from .results import logits_of

if TYPE_CHECKING:
    from collections.abc import Iterator

RATE: Final = 1e-3
"""A learning rate: every optimizer takes one, and no size depends on it."""


class StepPeaks(NamedTuple):
    """The most bytes a step has alive beside the weights: on an accelerator, on the CPU."""

    card: int
    host: int
    events: tuple[Event, ...] = ()
    """What is asked of an accelerator's allocator, in order: two steps, as the first makes the state."""


def step_peaks(
    ran: Ran, kwargs: Mapping[str, Untyped], trainable: frozenset[str], optimizer: str
) -> StepPeaks:
    """Return what a step takes once the optimizer has its state. Raises whatever the model raises."""
    with in_training(ran.shadow.model, trainable) as trained:
        card, events = _peak(ran, kwargs, trained, optimizer, on_host=False)
        host, _ = _peak(ran, kwargs, trained, optimizer, on_host=True)
        return StepPeaks(card, host, events)


@contextmanager
def in_training(model: nn.Module, trainable: frozenset[str]) -> Iterator[list[nn.Parameter]]:
    """Have a model train these parameters, which are yielded, each once."""
    named = dict(model.named_parameters())
    modes = {module: module.training for module in model.modules()}
    trained = [each for name, each in named.items() if name in trainable and each.is_floating_point()]
    try:
        model.train()
        for each in trained:
            each.requires_grad_()
        yield trained
    finally:
        for each in named.values():
            each.requires_grad_(False)  # noqa: FBT003  torch names it otherwise in its stubs
            each.grad = None
        for module, mode in modes.items():
            module.training = mode


def optimizer_of(name: str, parameters: list[nn.Parameter], *, on_host: bool) -> torch.optim.Optimizer:
    """Return the optimizer as it is by default: on accelerators it takes all parameters at once."""
    kind = getattr(torch.optim, optimizer_names()[name.lower()])
    at_once = {"foreach": not on_host} if "foreach" in inspect.signature(kind).parameters else {}
    made: torch.optim.Optimizer = kind(parameters, lr=RATE, **at_once)
    return made


def _peak(
    ran: Ran, kwargs: Mapping[str, Untyped], trained: list[nn.Parameter], name: str, *, on_host: bool
) -> tuple[int, tuple[Event, ...]]:
    """Return the most that is alive once there is a state, and all that is made and let go from the start."""
    optimizer, numbers = optimizer_of(name, trained, on_host=on_host), 0
    alive = AliveNow(1 if on_host else ROUND, on_host=on_host)
    alive.leave_out((*ran.shadow.model.parameters(), *ran.shadow.model.buffers()))
    with alive:
        if on_host:  # what is made and let go is not asked for: the state is all that a first step leaves
            for each in trained:
                each.grad = torch.empty_like(each)
            optimizer.step()
            optimizer.zero_grad()
        for _ in range(1 if on_host else 2):
            recorder = Recorder(ran.shadow.tree, assume=ran.assumed, on_host=on_host)
            returned = run(ran.shadow, recorder, ran.args, dict(kwargs), grad=True).result
            numbers = sum(value.nbytes for value in recorder.values if value.is_made_of_numbers)
            del recorder
            _loss(returned).backward()  # type: ignore[no-untyped-call]  # torch declares nothing there
            del returned
            optimizer.step()
            optimizer.zero_grad()
    states = tensors_in([list(state.values()) for state in optimizer.state.values()])
    counters = sum(each.nbytes for each in states if not each.is_meta)
    return alive.peak + numbers + (counters if on_host else 0), tuple(alive.events)


def _loss(returned: object) -> Tensor:
    """Return the loss of a call; of one that computes none the usual one over its scores."""
    loss = returned.get("loss") if isinstance(returned, Mapping) else None
    if isinstance(loss, Tensor):
        return loss
    scores = logits_of(returned) or [each for each in tensors_in(returned) if each.is_floating_point()]
    wide = scores[0].float().flatten(0, -2)
    targets = torch.ones(wide.shape[0], dtype=torch.int64, device=wide.device)
    return nn.functional.cross_entropy(wide, targets)
