"""transformers' rules for the names of published checkpoints: those of one model, not of all it knows.

At the first question it makes the rules of every class, a thousand regular expressions: longer than a
gigabyte takes to a card. Here its own code runs with classes that note what they are to make, and what the
model needs is made. Where that cannot be done, it makes all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import cache, partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from torch import nn

Rule: TypeAlias = Any  # transformers' WeightRenaming or WeightConverter
_TABLE: Final = "_build_checkpoint_conversion_mapping"
_TABLE_MADE: Final = "_checkpoint_conversion_mapping_cache"
_OF_A_CLASS: Final = "get_checkpoint_conversion_mapping"


class _Noted:
    """A rule that was asked for; made when something is asked of it, else by who needs it."""

    def __init__(self, kind: type, *given: object, **named: object) -> None:
        self._kind, self._given, self._named = kind, given, named

    def made(self) -> Rule:
        """Return the rule; each time another, as rules remember what they matched."""
        return self._kind(*deepcopy(self._given), **deepcopy(self._named))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever a rule has
        return getattr(self.made(), name)


@cache
def _noted() -> Mapping[str, Sequence[Rule | _Noted]]:
    """Return the rules of every class and type of model, noted."""
    from transformers import conversion_mapping
    from transformers.core_model_loading import WeightTransform

    kinds = {name: kind for name, kind in vars(conversion_mapping).items() if isinstance(kind, type)}
    rules = {name: partial(_Noted, kind) for name, kind in kinds.items() if issubclass(kind, WeightTransform)}
    table: Mapping[str, Sequence[Rule | _Noted]] = _with(vars(conversion_mapping)[_TABLE], rules)()
    return table


def rules_of_class(name: str) -> list[Rule] | None:
    """Return the rules transformers has for a class, or a type of model; None where it has none."""
    found = _noted().get(name)
    return None if found is None else [_own(rule) for rule in found]


def _own(rule: Rule | _Noted) -> Rule:
    return rule.made() if isinstance(rule, _Noted) else deepcopy(rule)


def rules_of_model(model: nn.Module) -> list[Rule]:
    """Return the rules for a model and the models inside it.

    Raises:
        ImportError: this transformers has none.

    """
    from transformers import conversion_mapping
    from transformers.conversion_mapping import get_model_conversion_mapping

    found: list[Rule]
    if getattr(conversion_mapping, _TABLE_MADE, None) is None:  # else all are made, some perhaps by its user
        try:
            found = _with(get_model_conversion_mapping, {_OF_A_CLASS: rules_of_class})(model)
        except Exception:  # noqa: BLE001, S110  # another release's code may do anything with what is noted
            pass
        else:
            return found
    found = get_model_conversion_mapping(model)  # type: ignore[arg-type]
    return found


def _with(function: Any, names: Mapping[str, object]) -> Callable[..., Any]:  # noqa: ANN401
    """Return a function that finds other things under some names of its module, which stays as it is."""
    world = {**function.__globals__, **names}
    other = FunctionType(
        function.__code__, world, function.__name__, function.__defaults__, function.__closure__
    )
    other.__kwdefaults__ = function.__kwdefaults__
    return other
