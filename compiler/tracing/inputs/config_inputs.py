"""Inputs made from a transformers config: what the forward asks for, in the sizes the config gives.

A signature does not tell everything: a picture needs its tokens in the text, features may have time
first. So the first guess is tried, and what its error says goes into the next one (`repairs`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from typing import Final, TypeAlias

import torch
from torch import Tensor, nn

from ...running.nesting import Untyped
from .described_inputs import described, says_shape
from .guesses import Guess, InputsFor, configs_in
from .media_inputs import AS_BLOCKS, AS_PATCHES, PICTURES_AND_SOUND
from .repairs import completed, reshaped
from .text_inputs import TEXT

DEFAULT_SEQ: Final = 128
Guesses: TypeAlias = Generator[dict[str, Untyped], Exception, None]
"""Keyword arguments to try; what each of them raised is sent back."""

_ATTEMPTS: Final = 25
"""Guesses made from one start before the next start is taken."""
_ALL_ATTEMPTS: Final = 60
"""Guesses after which only the starts themselves are tried."""
_MAKERS: Final = {**TEXT, **PICTURES_AND_SOUND}
_MEDIA: Final = ("pixel_values", "input_features", "input_values")
_PARTS: Final = ("attention_mask", "input_ids", "pixel_values", "input_features", "token_type_ids")
_WRAPPED: Final = ("_orig_mod", "base_model", "model", "module")


def inputs_from_config(model: nn.Module, *, batch: int, seq: int | None) -> Guesses:
    """Yield keyword arguments for the model's forward, the ones that reach most of it first."""
    plain = plain_model(model)
    config = getattr(plain, "config", None)
    if config is None or not hasattr(config, "model_type"):
        return
    request = InputsFor(config, batch, _length(config, seq), _dtype(plain))
    tried: set[tuple[object, ...]] = set()
    for start in _starts(plain):
        yield from _from_start(plain, start, request, tried)
    dummy = getattr(plain, "dummy_inputs", None)
    if isinstance(dummy, dict) and set(dummy) <= set(_parameters(plain)):
        yield dummy


def _from_start(
    model: nn.Module, start: Guess, request: InputsFor, tried: set[tuple[object, ...]]
) -> Guesses:
    """Yield a guess, then what its errors lead to: what they ask for first, other shapes after that."""
    queue, later, budget = [start], list[Guess](), _ATTEMPTS
    while (queue or later) and budget:
        guess = queue.pop(0) if queue else later.pop(0)
        if len(tried) >= _ALL_ATTEMPTS and guess is not start:
            return
        made = _made(model, guess, request)
        if made is None or (form := _form(guess, made)) in tried:
            continue
        tried.add(form)
        budget -= 1
        error = yield made
        asked = completed(guess, error, _parameters(model), request.config)
        queue[:0] = asked
        (later if asked else queue).extend((*_variants(model, guess), *reshaped(guess, error, made)))


def plain_model(model: nn.Module) -> nn.Module:
    """Return the innermost module around which torch.compile, PEFT or data parallelism put a wrapper."""
    while not _asks_for_names(model):
        inner = [getattr(model, name, None) for name in _WRAPPED]
        found = next((item for item in inner if isinstance(item, nn.Module) and item is not model), None)
        if found is None:
            break
        model = found
    return model


def _asks_for_names(model: nn.Module) -> bool:
    parameters = inspect.signature(type(model).forward).parameters.values()
    return sum(parameter.kind in _NAMED for parameter in parameters) > 1


def _parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(model.forward).parameters


def _dtype(model: nn.Module) -> torch.dtype:
    """Return the dtype pictures and sound are given in: the model's own."""
    kinds = (tensor.dtype for tensor in model.parameters() if tensor.is_floating_point())
    return next((kind for kind in kinds if kind.itemsize > 1), torch.float32)


def _starts(model: nn.Module) -> Iterator[Guess]:
    parameters = _parameters(model)
    wanted = _wanted(model, parameters)
    media = [name for name in _MEDIA if name in parameters and name not in wanted]
    known = [name for name in _MAKERS if name in parameters]
    for names in ([*wanted, *media], wanted, [*wanted, *media[:1]], known):
        if names:
            yield _start(names, parameters)
    if wanted and getattr(model.config, "use_cache", False):
        yield replace(_start(wanted, parameters), uncached=True)


def _start(names: list[str], parameters: Mapping[str, inspect.Parameter]) -> Guess:
    """Return the guess with these names; a picture whose grid of patches is asked for is given as patches."""
    guess = Guess(tuple((name, 0) for name in names))
    if "pixel_values" in guess and "image_grid_thw" in parameters:
        with_grid = guess if "image_grid_thw" in guess else guess.with_names("image_grid_thw")
        return with_grid.with_variant("pixel_values", AS_PATCHES)
    return guess


def _made(model: nn.Module, guess: Guess, request: InputsFor) -> dict[str, Untyped] | None:
    """Return the arguments of a guess; None when one of them cannot be made."""
    counted = request.with_tokens(guess)
    made: dict[str, Untyped] = {}
    for name, variant in guess.names:
        makers = _makers(model, name)
        item = makers[variant](counted) if makers else described(model.forward, name, counted)
        if item is None:
            return None
        made[name] = _resized(item, guess, name) if isinstance(item, Tensor) else item
    if guess.uncached:
        made["use_cache"] = False
    return made


def _form(guess: Guess, made: Mapping[str, Untyped]) -> tuple[object, ...]:
    """Return what tells two guesses apart."""
    return (guess.tokens, *((name, getattr(item, "shape", item)) for name, item in sorted(made.items())))


def _resized(tensor: Tensor, guess: Guess, name: str) -> Tensor:
    shape = dict(guess.shapes).get(name)
    return tensor if shape is None else torch.empty(shape, dtype=tensor.dtype, device="meta")


def _makers(model: nn.Module, name: str) -> tuple[Callable[[InputsFor], Tensor | None], ...]:
    """Return the makers of an argument by its name, or by a part of it where nothing is said of its shape."""
    if name in _MAKERS:
        return _MAKERS[name]
    known = [part for part in _PARTS if name.startswith(f"{part}_") or name.endswith(f"_{part}")]
    return _MAKERS[max(known, key=len)] if known and not says_shape(model.forward, name) else ()


def _variants(model: nn.Module, guess: Guess) -> Iterator[Guess]:
    """Yield the same arguments with one of them in another of the shapes it is known to have."""
    media_first = sorted(guess.names, key=lambda item: item[0] in TEXT)
    for name, variant in media_first:
        if variant == 0:
            yield from (guess.with_variant(name, other) for other in range(1, len(_makers(model, name))))
        elif variant == AS_PATCHES and "image_grid_thw" in guess:  # so it was from the start
            yield guess.with_variant(name, AS_BLOCKS)


def _length(config: Untyped, seq: int | None) -> int:
    if seq is not None:
        return seq
    limits = [getattr(item, "max_position_embeddings", None) for item in configs_in(config)]
    return min([DEFAULT_SEQ, *(limit for limit in limits if isinstance(limit, int) and limit > 0)])


def _wanted(model: nn.Module, parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    """Return the arguments to pass: the main input, those without a default, and decoder tokens."""
    main = getattr(model, "main_input_name", "input_ids")
    names = [main] if isinstance(main, str) else list(main)
    wanted = [name for name in names if name in parameters]
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and parameter.kind in _NAMED:
            wanted.append(name)
    if getattr(model.config, "is_encoder_decoder", False) and "decoder_input_ids" in parameters:
        wanted.append("decoder_input_ids")
    if "pixel_values" in wanted and "input_ids" in parameters:
        wanted.append("input_ids")
    return list(dict.fromkeys(wanted))


_NAMED: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
