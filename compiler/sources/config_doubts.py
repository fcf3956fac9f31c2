"""What of a model the estimate of its forward does not understand: it is said, as a number alone looks sure.

`activation_demands` counts the parts it knows by name. A class nobody compared, layers of convolutions, and
parts with configurations of their own that are neither text nor picture may take anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from ...ir import Diagnostic, ModuleTree
from ...ir.rules.sources import UNKNOWN_ACTIVATIONS
from ...ir.wording import in_words
from .cache_sites import DECAYS
from .config_activations import ATTENDS, RECURS
from .config_numbers import Config, text_config
from .forward_sizes import heard_config
from .known_classes import architecture, is_compared

_SEEN, _HEARD = "vision_config", "audio_config"
_OF_LAYERS: Final = frozenset({"attn_config", "ffn_config"})
"""Configurations inside another that are no model's."""
_PICTURE: Final = 4
"""Dimensions of a matrix that is moved over a picture."""
_HELP: Final = "plan the model itself, which is traced, or say how much with `--reserve cuda:0=2GiB`"


def doubtful_activations(name: str, config: Config, tree: ModuleTree) -> Diagnostic | None:
    """Return what is said of an estimate that may be off; None where all of the model is understood."""
    notes = tuple(_doubts(config, tree))
    message = f"what a forward of `{name}` takes beside weights is not known, the plan holds an estimate"
    return Diagnostic(UNKNOWN_ACTIVATIONS, message, notes=notes, help=_HELP) if notes else None


def _doubts(config: Config, tree: ModuleTree) -> Iterator[str]:
    if not is_compared(config):
        yield f"nothing is known of the forward of `{architecture(config) or tree.classes[0]}`"
    layers = tuple(_layers(tree))
    if not any(_does_what_is_known(tree, layer) for layer in layers):
        yield "no layer holds an attention or a recurrence of a known name"
    odd = [tree.paths[layer] for layer in layers if _is_of_pictures(tree, layer)]
    if odd:
        yield f"{in_words(odd, 2)} hold convolutions, which are not counted"
    parts = [key for key, part in config.items() if _is_odd_part(key, part, config)]
    if parts:
        yield f"{in_words(parts, 3)} in `config.json` is of a part whose work is not counted"


def _layers(tree: ModuleTree) -> Iterator[int]:
    """Yield the members of numbered lists; lists inside them are part of them."""
    numbered = (module for module, name in enumerate(tree.names) if name.isdecimal())
    end = 0
    for module in numbered:
        if module >= end and len(tree.tensors(module)):
            end = tree.ends[module]
            yield module


def _does_what_is_known(tree: ModuleTree, layer: int) -> bool:
    modules = range(layer, tree.ends[layer])
    names = {tree.names[module] for module in modules}
    tensors = {tree.tensor_names[tensor] for tensor in tree.tensors(layer)}
    return not (ATTENDS | RECURS).isdisjoint(names | tensors) or not DECAYS.isdisjoint(tensors)


def _is_of_pictures(tree: ModuleTree, layer: int) -> bool:
    weights = (t for t in tree.tensors(layer) if tree.tensor_names[t] == "weight")
    return any(len(tree.shapes[weight]) >= _PICTURE for weight in weights)


def _is_odd_part(key: str, part: object, config: Config) -> bool:
    """Say whether a configuration inside is of what neither writes nor sees, nor hears a fixed time."""
    if not isinstance(part, Mapping) or not part.get("model_type") or key in {_SEEN, *_OF_LAYERS}:
        return False
    writes = text_config(part) is text_config(config) or "vocab_size" in part
    return not writes and (key != _HEARD or heard_config(config) is None)
