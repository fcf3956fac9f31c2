"""A guess at the arguments of a forward, and what it is made for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import torch

from ...running.nesting import Untyped

_INSIDE: Final = (
    "vision_config", "audio_config", "speech_config", "text_config", "encoder", "decoder", "backbone_config",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Guess:
    """Which arguments to pass, and in which of the shapes they are known to have."""

    names: tuple[tuple[str, int], ...]
    """Each argument, with the number of its shape."""
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Arguments whose shape an error corrected."""
    tokens: tuple[tuple[int, int], ...] = ()
    """Tokens that stand for a picture or a sound, and how many of them a text needs in all."""
    uncached: bool = False

    def __contains__(self, name: str) -> bool:
        return any(name == own for own, _ in self.names)

    def with_names(self, *names: str) -> Guess:
        """Return the guess with more arguments."""
        return replace(self, names=(*self.names, *((name, 0) for name in names)))

    def without(self, name: str) -> Guess:
        """Return the guess with an argument less."""
        return replace(self, names=tuple(item for item in self.names if item[0] != name))

    def with_variant(self, name: str, variant: int) -> Guess:
        """Return the guess with an argument in another of its shapes."""
        names = tuple((own, variant if own == name else number) for own, number in self.names)
        return replace(self, names=names, shapes=tuple(item for item in self.shapes if item[0] != name))

    def with_shape(self, name: str, shape: tuple[int, ...]) -> Guess:
        """Return the guess with an argument of this shape."""
        others = tuple(item for item in self.shapes if item[0] != name)
        return replace(self, shapes=(*others, (name, shape)))

    def with_tokens(self, token: int, count: int) -> Guess:
        """Return the guess with so many of a token in the text."""
        others = tuple(item for item in self.tokens if item[0] != token)
        return replace(self, tokens=(*others, (token, count)))


@dataclass(frozen=True, slots=True)
class InputsFor:
    """What the inputs are made for."""

    config: Untyped
    batch: int
    seq: int
    dtype: torch.dtype = torch.float32
    tokens: tuple[tuple[int, int], ...] = field(default=())
    """As in `Guess`."""

    def with_tokens(self, guess: Guess) -> InputsFor:
        """Return the request with the tokens a guess asks for."""
        return replace(self, tokens=guess.tokens)

    def find(self, *names: str, default: int) -> int:
        """Return the first integer of these names in the config or the configs inside it."""
        found = self.numbers(*names)
        return found[0] if found else default

    def numbers(self, *names: str) -> tuple[int, ...]:
        """Return the first integers, one or a row of them, of these names; empty where there are none."""
        for config in configs_in(self.config):
            for name in names:
                value = getattr(config, name, None)
                row: list[Untyped] = list(value) if isinstance(value, list | tuple) else [value]
                if row and all(type(item) is int and item > 0 for item in row):
                    return tuple(row)
        return ()

    def empty(self, *shape: int) -> torch.Tensor:
        """Return numbers of which only the shape matters."""
        return torch.empty(shape, dtype=self.dtype, device="meta")


def configs_in(config: Untyped) -> list[Untyped]:
    """Return a config and those inside it, the ones for pictures, sound and text first."""
    found = [config]
    for outer in found:
        named = [getattr(outer, name, None) for name in _INSIDE]
        others = [item for name, item in vars(outer).items() if name not in _INSIDE]
        inner = [item for item in (*named, *others) if hasattr(item, "model_type")]
        found += [item for item in inner if not any(item is known for known in found)]
    return found
