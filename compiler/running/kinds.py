"""What live modules are, as far as where their weights must be depends on it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from torch import nn

from .sites import Kinds

STACKS: Final = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
"""Often iterated or indexed instead of being called."""
_READ: Final = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""They read the weights of their children, the layer in inference only; so do classes derived from them."""
_CALL: Final = (nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder, nn.TransformerDecoderLayer)
"""The modules of torch itself that only call their children; of others it is not known."""


def kinds_of(modules: Iterable[tuple[int, nn.Module]]) -> Kinds:
    """Return the kinds of modules, given with their numbers."""
    rows = list(modules)
    return Kinds(
        containers=frozenset(number for number, module in rows if not has_forward(module)),
        stacks=frozenset(number for number, module in rows if isinstance(module, STACKS)),
        closed=frozenset(number for number, module in rows if _is_closed(module)),
    )


def whole_classes(model: nn.Module) -> tuple[str, ...]:
    """Return the classes of torch's own modules that read their children's weights: never split."""
    return tuple(sorted({type(module).__name__ for module in model.modules() if isinstance(module, _READ)}))


def has_forward(module: nn.Module) -> bool:
    """Say whether a module can be called at all; lists and dicts of modules cannot."""
    return type(module).forward is not nn.Module.forward


def _is_closed(module: nn.Module) -> bool:
    if isinstance(module, _READ):
        return True
    return type(module).__module__.startswith("torch.nn.") and not isinstance(module, (*STACKS, *_CALL))
