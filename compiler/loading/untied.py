"""Weights a model ties and its checkpoint holds apart: they are untied, as transformers does it.

The configuration of a class may insist on a tie that a checkpoint does not have. What is stored under
two names with different values is two tensors, whatever the configuration says.
"""

from __future__ import annotations

from torch import nn

from ...ir import Diagnostic, ModuleTree
from ...ir.rules.loading import UNTIED_TENSORS
from ...ir.wording import in_words
from ..sources.checkpoint_index import CheckpointIndex
from ..sources.stored_ties import by_names_of, stored_apart


class Untied:
    """The ties of a model that were undone; `undo` ties them again."""

    def __init__(self) -> None:
        self._before: list[tuple[nn.Module, str, nn.Parameter]] = []
        self.names: list[str] = []

    def untie(self, model: nn.Module, path: str) -> None:
        """Give a name a parameter of its own, with the values the shared one has."""
        owner, _, name = path.rpartition(".")
        module = model.get_submodule(owner)
        shared = module.get_parameter(name)
        self._before.append((module, name, shared))
        self.names.append(path)
        setattr(module, name, nn.Parameter(shared.detach().clone(), requires_grad=shared.requires_grad))

    def undo(self) -> None:
        """Put the shared parameters back."""
        for module, name, shared in reversed(self._before):
            setattr(module, name, shared)

    def settle(self, model: nn.Module) -> None:
        """Let the model's own list of ties, by which it saves and ties again, say what is true now."""
        listed = getattr(model, "all_tied_weights_keys", None)
        if isinstance(listed, dict):
            for path in self.names:
                listed.pop(path, None)

    def findings(self) -> list[Diagnostic]:
        """Say what was untied."""
        if not self.names:
            return []
        names = in_words(self.names, 4)
        message = f"the model ties {names}, the checkpoint has other values for it: it is a tensor of its own"
        help_ = "write `tie_word_embeddings: false` in config.json if the class heeds it"
        return [Diagnostic(UNTIED_TENSORS, message, help=help_)]


def untie_different(model: nn.Module, tree: ModuleTree, index: CheckpointIndex) -> Untied:
    """Untie what a transformers model ties and the checkpoint stores with different values.

    ``tree`` is the model's.
    """
    untied = Untied()
    if callable(getattr(model, "tie_weights", None)):
        for path in stored_apart(tree, by_names_of(model, tree, index)):
            untied.untie(model, path)
    return untied
