"""What a step of training keeps beside the weights: activations, gradients, the optimizer's state.

What is kept for the backward pass is what autograd saves in a forward on the meta device, each storage once.
The optimizer's state is what one step of that optimizer makes for parameters of these shapes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from ...ir import Demand
from ...ir.purposes import GRADIENTS, KEPT, OPTIMIZER
from ..running.nesting import Untyped
from .one_run import Ran, run
from .record import Recorder
from .training_step import in_training, optimizer_of
from .work import equal_together, visitable_part

if TYPE_CHECKING:
    from .cuts import Cuts

USUAL: Final = "adamw"
"""The optimizer where nobody names one."""


class Kept:
    """Collects what autograd saves while it is active: bytes by the module that was running."""

    def __init__(self, recorder: Recorder, weights: Iterable[Tensor]) -> None:
        self.nbytes: Counter[int] = Counter()
        self._recorder = recorder
        self._seen = {_storage(tensor) for tensor in weights}
        self._held: list[Tensor] = []  # a storage that is gone could come again under the same number

    def pack(self, tensor: Tensor) -> Tensor:
        """Count a tensor's storage where it is new."""
        key = _storage(tensor)
        if key not in self._seen:
            self._seen.add(key)
            self._held.append(tensor)
            call = self._recorder.call
            module = self._recorder.calls[call][0] if call >= 0 else 0
            self.nbytes[module] += tensor.untyped_storage().nbytes()
        return tensor


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001


def kept_by_module(ran: Ran, kwargs: Mapping[str, Untyped], trainable: frozenset[str]) -> Counter[int]:
    """Return the bytes each module keeps for the backward pass.

    Raises whatever the model raises.
    """
    weights = (*ran.shadow.model.parameters(), *ran.shadow.model.buffers())
    recorder = Recorder(ran.shadow.tree, assume=ran.assumed)
    kept = Kept(recorder, weights)
    with (
        in_training(ran.shadow.model, trainable),
        torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor),
    ):
        run(ran.shadow, recorder, ran.args, dict(kwargs), grad=True)
    return kept.nbytes


@dataclass(frozen=True, slots=True)
class Lasting:
    """What pieces keep through a step, and what a piece has beside that while it goes backward itself."""

    demands: tuple[Demand, ...]
    beside: Mapping[str, int]

    def of(self, *purposes: str) -> int:
        """Return the bytes of all pieces for these purposes."""
        return sum(each.nbytes for each in self.demands if each.purpose in purposes)


def training_demands(
    ran: Ran, kept: Mapping[int, int], trainable: frozenset[str], optimizer: str, cuts: Cuts
) -> Lasting:
    """Return what each piece keeps: the state of the optimizer, gradients, activations beyond those.

    Going backward what a piece kept becomes its gradients: of both it needs the larger, while it runs itself
    the smaller beside it. When the optimizer takes its step the activations are gone; it works on copies of
    its own, of as many bytes as the parameters where it takes them together, of twice the largest where one
    after the other. What lasts is told by the parts of a piece that may be visited, as their work is: it is
    where they are, wherever the rest of the piece is.
    """
    tree, tops = ran.trace.tree, cuts.tops()

    def part(module: int) -> str:
        top = tops[module]
        return tree.paths[module if top < 0 else visitable_part(tree, module, top)]

    activations, gradients, states, largest = (Counter[str]() for _ in range(4))
    for module, nbytes in kept.items():
        activations[part(module)] += nbytes
    state_of = _states(optimizer)
    for path, parameter in ran.shadow.model.named_parameters():  # each once, under its first name
        if path in trainable and parameter.is_floating_point():
            where = part(tree.owners[tree.tensor_index[path]])
            gradients[where] += parameter.nbytes
            largest[where] = max(largest[where], parameter.nbytes)
            states[where] += state_of(parameter)
    beside = Counter[str]()
    for where, nbytes in activations.items():
        top = tops[tree.module_index[where]]
        beside[where if top < 0 else tree.paths[top]] += min(nbytes, gradients[where])
    beyond = {
        where: max(activations[where] - gradients[where], gradients[where], 2 * largest[where])
        for where in {**activations, **gradients}
    }
    lines = ((KEPT, beyond), (GRADIENTS, gradients), (OPTIMIZER, states))
    found = (Demand(n, path, purpose) for purpose, each in lines for path, n in equal_together(each) if n)
    return Lasting(tuple(found), beside)


def _states(optimizer: str) -> Callable[[Tensor], int]:
    known: dict[tuple[torch.Size, torch.dtype], int] = {}

    def nbytes(parameter: Tensor) -> int:
        key = parameter.shape, parameter.dtype
        if key not in known:
            known[key] = _state_nbytes(optimizer, parameter)
        return known[key]

    return nbytes


def _state_nbytes(optimizer: str, parameter: Tensor) -> int:
    """Return what one step keeps of one parameter on its device; counters of steps stay on the host."""
    copied = nn.Parameter(torch.empty_like(parameter, device="meta"))
    copied.grad = torch.empty_like(copied)
    made = optimizer_of(optimizer, [copied], on_host=True)
    made.step()
    return sum(
        each.nbytes
        for state in made.state.values()
        for each in state.values()
        if isinstance(each, Tensor) and each.dim()
    )
