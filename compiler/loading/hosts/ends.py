"""Where a call of the whole model begins and ends: results go to every host, and generation is one call.

What the caller gets is real on every host. Before, the hosts compare what they were called with: other
inputs would be other shapes, and a wrong answer or a wait without end.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias

import torch
from torch import nn

from ....ir import Diagnostic, PlanError
from ....ir.rules.hosts import DIFFERENT_CALLS, FIXED_CACHE
from ...running.nesting import map_tensors, tensors_in
from .held import Held, Road

Args: TypeAlias = tuple[Any, ...]
Kwargs: TypeAlias = dict[str, Any]


_FIXED: Final = frozenset({"static", "offloaded_static", "sliding_window", "hybrid", "hybrid_chunked"})
"""Names of transformers for caches of a fixed size."""


class Ends:
    """The outermost call of a model whose units are on several hosts."""

    def __init__(self, road: Road, running: list[int]) -> None:
        self._road, self._running = road, running
        self._depth = 0
        self.generating = False
        """Whether calls belong to a generation, whose arguments were compared."""
        self.deferred = False
        """Whether results stay where they are made: others of a schedule come first."""

    def enter(self, _module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        """Begin a call."""
        self._depth += 1
        if self._depth == 1:
            self._running.clear()  # a call that failed may have left some
            if not self.generating:
                _refuse_fixed_caches(_module, kwargs)
                same_everywhere(self._road, _digest((args, kwargs)))

    def leave(self, _module: nn.Module, _args: Args, output: Any) -> Any:  # noqa: ANN401
        """End a call: what it returns is brought to every host."""
        self._depth -= 1
        if self._depth or self.deferred or output is None:
            return output
        found = self._everywhere(output)
        if not self.generating:
            self._road.wire.settle()  # the process may end after this
        return found

    def around(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Return a forward whose errors the other hosts hear of, who wait for what it computes."""

        @functools.wraps(forward)
        def told(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            try:
                with self._road.wire.giving_up():
                    return forward(*args, **kwargs)
            except Exception:
                raise
            except BaseException:
                self._depth -= 1  # torch calls no hook after an interrupt
                raise

        return told

    def in_turn(self, call: Callable[[Any], Any], batches: Sequence[Any]) -> list[Any]:
        """Return what the calls return, begun one after another before any result is brought.

        Every host goes on to the next batch when it has sent what it made of one, so all of them are at
        work: the first on a later batch than the last.
        """
        same_everywhere(self._road, _digest(list(batches)))
        self.generating = self.deferred = True
        with self._road.wire.giving_up():
            try:
                made = [call(batch) for batch in batches]
            finally:
                self.generating = self.deferred = False
            found = [self._everywhere(output) for output in made]
        self._road.wire.settle()
        return found

    def _everywhere(self, output: Any) -> Any:  # noqa: ANN401
        """Bring what a call returns to every host.

        What hooks of others took inside a unit is a plain tensor on its host and a shape on the others, who
        cannot know; so they tell each other wherever something is returned that is not known to be held.
        """
        leaves = list(tensors_in(output))
        if not all(isinstance(leaf, Held) for leaf in leaves):
            leaves = self._known(leaves)
        left = iter(leaves)

        def bring(_: torch.Tensor) -> torch.Tensor:
            leaf = next(left)
            return leaf.everywhere() if isinstance(leaf, Held) else leaf

        return map_tensors(output, bring)

    def _known(self, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return the tensors, those that some hosts lack with the knowledge of who has them."""
        lacking = {n for n, leaf in enumerate(leaves) if not isinstance(leaf, Held) and leaf.is_meta}
        told: list[set[int]] = self._road.wire.exchange(lacking)
        found = list(leaves)
        for number in set[int]().union(*told):
            having = frozenset(host for host, lacks in enumerate(told) if number not in lacks)
            if having:
                found[number] = Held.of(leaves[number], having, min(having), self._road)
        return found


def same_everywhere(road: Road, digest: str) -> None:
    """Refuse a call that other hosts make with other arguments."""
    told = road.wire.exchange(digest)
    other = next((number for number, each in enumerate(told) if each != told[0]), None)
    if other is not None:
        hosts = road.wire.hosts
        message = f"`{hosts[0]}` and `{hosts[other]}` call the model with other inputs"
        help_ = "give every host the same inputs, and seed what is random before making them"
        raise PlanError([Diagnostic(DIFFERENT_CALLS, message, help=help_)])


def _digest(value: object) -> str:
    """Return what is the same for the same arguments: whole numbers by value, others by shape."""
    made = hashlib.sha256()
    for tensor in tensors_in(value):
        made.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        if not tensor.is_floating_point() and not tensor.is_complex() and not tensor.is_meta:
            made.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return made.hexdigest()


class With:
    """What a model on several hosts has beside hooks: its device is here, and generation starts alike."""

    def __init__(self, model: nn.Module, ends: Ends, road: Road) -> None:
        self._model, self._class = model, type(model)
        self._generate = getattr(model, "generate", None)
        self.ends, self._road = ends, road
        if isinstance(getattr(type(model), "device", None), property):
            here = road.device
            model.__class__ = type(  # as torch's own sharding does
                self._class.__name__,
                (self._class,),
                {"device": property(lambda _: here), "__module__": self._class.__module__},
            )
        if callable(self._generate):
            model.__dict__["generate"] = self._generating

    def remove(self) -> None:
        """Let the model be as it was."""
        self._model.__dict__.pop("generate", None)
        if type(self._model) is not self._class:
            self._model.__class__ = self._class

    def _generating(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # what the model's takes
        if self.ends.generating:
            return self._generate(*args, **kwargs)  # type: ignore[misc]
        _refuse_fixed_caches(self._model, kwargs)
        same_everywhere(self._road, _digest((args, kwargs)) + _settings(kwargs))
        _draw_alike(self._road)
        self.ends.generating = True
        try:
            with self._road.wire.giving_up():
                made = self._generate(*args, **kwargs)  # type: ignore[misc]
        finally:
            self.ends.generating = False
        self._road.wire.settle()
        return made


def _refuse_fixed_caches(model: nn.Module, kwargs: Kwargs) -> None:
    """Refuse caches of a fixed size: they count what they hold in tensors, which only one host would have."""
    settings = (kwargs.get("generation_config"), getattr(model, "generation_config", None))
    named = [
        kwargs.get("cache_implementation"),
        *(getattr(s, "cache_implementation", None) for s in settings),
    ]
    word = next((name for name in named if name), None)
    given = kwargs.get("cache", kwargs.get("past_key_values"))  # its name since, and before transformers 5.24
    layers = getattr(given, "layers", None) or ()
    if word in _FIXED or any(hasattr(layer, "cumulative_length") and _counts(layer) for layer in layers):
        message = f"a cache of fixed size (`{word or 'static'}`) cannot be shared by several hosts"
        help_ = "leave `cache_implementation` out: the cache then grows with what is written"
        raise PlanError([Diagnostic(FIXED_CACHE, message, help=help_)])


def _counts(layer: object) -> bool:
    return isinstance(getattr(layer, "cumulative_length", None), torch.Tensor)


def _settings(kwargs: Kwargs) -> str:
    simple = (bool, int, float, str, type(None))
    return repr(sorted((name, value) for name, value in kwargs.items() if isinstance(value, simple)))


def _draw_alike(road: Road) -> None:
    """Let every host draw the same random numbers: those the first one would draw."""
    generators = list(_generators(road.device))
    states: list[list[bytes]] = road.wire.exchange(
        [made.get_state().numpy().tobytes() for made in generators] if road.me == 0 else []
    )
    for made, state in zip(generators, states[0], strict=False):
        if made.get_state().numel() == len(state):
            made.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))


def _generators(device: torch.device) -> Iterator[torch.Generator]:
    yield torch.default_generator
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        yield torch.cuda.default_generators[index]
