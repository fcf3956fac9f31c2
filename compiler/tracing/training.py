"""What a step of training keeps beside the weights: activations, gradients, the optimizer's state.

What is kept for the backward pass is what autograd saves in a forward on the meta device, each storage once.
The optimizer's state is what one step of that optimizer makes for parameters of these shapes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from ...ir import Demand
from ...ir.purposes import GRADIENTS, KEPT, OPTIMIZER
from ..running.nesting import Untyped
from ..running.optimizers import optimizer_names
from .one_run import Ran, run
from .record import Recorder

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
    parameters = dict(ran.shadow.model.named_parameters())
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in trainable and parameter.is_floating_point())
    recorder = Recorder(ran.shadow.tree, assume=ran.assumed)
    kept = Kept(recorder, (*parameters.values(), *ran.shadow.model.buffers()))
    try:
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
            run(ran.shadow, recorder, ran.args, dict(kwargs), grad=True)
    finally:
        for parameter in parameters.values():
            parameter.requires_grad_(False)  # noqa: FBT003  torch names it otherwise in its stubs
    return kept.nbytes


def training_demands(
    ran: Ran, kept: Mapping[int, int], trainable: frozenset[str], optimizer: str, cuts: Cuts
) -> Iterator[Demand]:
    """Yield what each piece keeps: activations, gradients, the state of the optimizer.

    When the optimizer takes its step the activations are gone; it works on copies of its own, of as many
    bytes as the parameters where it takes them together, of twice the largest where one after the other.
    """
    tree, tops = ran.trace.tree, cuts.tops()

    def piece(module: int) -> str:
        return tree.paths[tops[module] if tops[module] >= 0 else module]

    activations, gradients, states, largest = (Counter[str]() for _ in range(4))
    for module, nbytes in kept.items():
        activations[piece(module)] += nbytes
    state_of = _states(optimizer)
    for path, parameter in ran.shadow.model.named_parameters():  # each once, under its first name
        if path in trainable and parameter.is_floating_point():
            where = piece(tree.owners[tree.tensor_index[path]])
            gradients[where] += parameter.nbytes
            largest[where] = max(largest[where], parameter.nbytes)
            states[where] += state_of(parameter)
    for where, nbytes in gradients.items():
        activations[where] = max(activations[where], nbytes, 2 * largest[where])
    for purpose, found in ((KEPT, activations), (GRADIENTS, gradients), (OPTIMIZER, states)):
        yield from (Demand(nbytes, path, purpose) for path, nbytes in found.items() if nbytes)


def _states(optimizer: str) -> Callable[[Tensor], int]:
    kind = getattr(torch.optim, optimizer_names()[optimizer.lower()])
    known: dict[tuple[torch.Size, torch.dtype], int] = {}

    def nbytes(parameter: Tensor) -> int:
        key = parameter.shape, parameter.dtype
        if key not in known:
            known[key] = _state_nbytes(kind, parameter)
        return known[key]

    return nbytes


def _state_nbytes(kind: Untyped, parameter: Tensor) -> int:
    """Return what one step keeps of one parameter on its device; counters of steps stay on the host."""
    copied = nn.Parameter(torch.empty_like(parameter, device="meta"))
    copied.grad = torch.empty_like(copied)
    made = kind([copied], lr=1e-3)
    made.step()
    return sum(
        each.nbytes
        for state in made.state.values()
        for each in state.values()
        if isinstance(each, Tensor) and each.dim()
    )
