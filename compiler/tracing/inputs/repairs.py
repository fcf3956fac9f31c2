"""What an error says about the inputs that raised it, as the guesses to try next.

Models name the argument that is missing, the two that exclude each other, how many tokens a picture
needs; a product of the wrong width tells the right one. Nothing here knows a model by name.
"""

from __future__ import annotations

import inspect
import linecache
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from types import TracebackType
from typing import Final

from torch import Tensor

from ...running.nesting import Untyped
from .guesses import Guess, configs_in

_WORD: Final = re.compile(r"[A-Za-z_]\w*")
_EXCLUDING: Final = ("both", "at the same time", "simultaneously", "only one", "exactly one")
_TO_BE_NONE: Final = r"(is expected to|has to|must|should) be\W+None"
_COUNT: Final = re.compile(r"(?i)(image|video|audio|multimodal|placeholder).*?features\D{0,6}(\d+)")
_GIVEN: Final = re.compile(r"(?is)number of (image|video|audio) tokens is.*?given to the model is\D*(\d+)")
_PRODUCT: Final = re.compile(r"reduction dim, but got \[([\d, ]+)\] X \[([\d, ]+)\]")
_NORM: Final = re.compile(r"normalized_shape=\[(\d+)\].*got input of size\D*([\d, ]+)")
_BROADCAST: Final = re.compile(r"dimension of length (\d+) at (-\d).*broadcastable to \[([\d, ]+)\]")
_RANKS: Final = (
    re.compile(r"not enough values to unpack \(expected (\d)"),
    re.compile(r"too many values to unpack \(expected (\d)"),
    re.compile(r"or (\d)D \(batched\)"),
    re.compile(r"(\d)D tensor"),
)
_EXTRA_COLUMNS: Final = 4
_SEVERAL: Final = 2
Parameters = Mapping[str, inspect.Parameter]
Made = Mapping[str, Untyped]


def completed(guess: Guess, error: Exception, parameters: Parameters, config: Untyped) -> list[Guess]:
    """Return the guesses that add or take away what an error asks for, the likeliest first."""
    return [*_counted(guess, str(error), config), *_completed(guess, error, parameters)]


def reshaped(guess: Guess, error: Exception, made: Made) -> list[Guess]:
    """Return the guesses whose shapes are what an error says was expected."""
    return [*_resized(guess, str(error), made), *_of_rank(guess, str(error), made)]


def _completed(guess: Guess, error: Exception, parameters: Parameters) -> Iterator[Guess]:
    """Add what is missing, take away what must not be there."""
    message = str(error)
    words = [word for word in dict.fromkeys(_WORD.findall(message)) if word in parameters]
    missing = [word for word in words if word not in guess]
    given = [word for word in words if word in guess]
    if given and any(word in message.lower() for word in _EXCLUDING):
        optional = [name for name in given if parameters[name].default is not inspect.Parameter.empty]
        yield from (guess.without(name) for name in reversed(optional))
        return
    if unwanted := [word for word in given if re.search(rf"\b{word}\W+{_TO_BE_NONE}", message)]:
        yield guess.without(unwanted[0])
        return
    if missing:
        missing.sort(key=lambda word: not re.search(rf"\b{word}\W* (is|are|must|cannot|should)\b", message))
        either = " or " in message
        yield guess.with_names(*(missing[:1] if either else missing))
        yield from (guess.with_names(name) for name in (missing[1:] if either else ()))
    elif "None" in message:
        yield from (guess.with_names(name) for name in _absent(error, parameters) if name not in guess)


def _absent(error: Exception, parameters: Parameters) -> list[str]:
    """Return the arguments that were None where the code failed, or in a call that led there."""
    step, steps = error.__traceback__, list[TracebackType]()
    while step is not None:
        steps.append(step)
        step = step.tb_next
    for each in reversed(steps):
        words = dict.fromkeys(_WORD.findall(_statement(each)))
        empty = [word for word in words if each.tb_frame.f_locals.get(word, error) is None]
        found = [name for word in empty for name in parameters if name == word or name.endswith(f"_{word}")]
        if found:
            return found
    return []


def _statement(step: TracebackType) -> str:
    """Return the lines of source that were running."""
    code = step.tb_frame.f_code
    first, last, *_ = next(islice(code.co_positions(), step.tb_lasti // 2, None), (None, None))
    if first is None or last is None:
        return ""
    return "".join(linecache.getline(code.co_filename, line) for line in range(first, last + 1))


def _counted(guess: Guess, message: str, config: Untyped) -> Iterator[Guess]:
    """Give the text as many tokens as there are features of a picture or a sound."""
    if found := _GIVEN.search(message):  # one would be stretched as in old texts, several are features
        yield from (
            guess.with_tokens(token, _SEVERAL * int(found[2]))
            for token in _standing_for(config, (found[1].lower(),))
        )
        return
    found = _COUNT.search(message)
    if found is None:
        return
    kind, count = found[1].lower(), int(found[2])
    kinds = (kind,) if kind in {"image", "video", "audio"} else ("image", "audio", "video")
    # some count the numbers of all features: a text must not get thousands of tokens for one
    rows = [count // width for width in _widths_of_text(config) if count % width == 0]
    for token in _standing_for(config, kinds):
        yield from (guess.with_tokens(token, number) for number in (*rows, count))


def _widths_of_text(config: Untyped) -> list[int]:
    found = [getattr(item, "hidden_size", None) for item in reversed(configs_in(config))]
    return list(dict.fromkeys(width for width in found if isinstance(width, int) and width > 1))


def _standing_for(config: Untyped, kinds: tuple[str, ...]) -> Iterator[int]:
    for kind in kinds:
        for name in (f"{kind}_token_id", f"{kind}_token_index", f"{kind}_token"):
            for item in configs_in(config):
                if isinstance(token := getattr(item, name, None), int):
                    yield token


def _resized(guess: Guess, message: str, made: Made) -> Iterator[Guess]:
    """Give an argument of the wrong width the right one."""
    got, wanted = _widths(message)
    if got == wanted:
        return
    for name, item in made.items():
        if not isinstance(item, Tensor) or not (item.is_floating_point() or item.dim() > 2):
            continue
        for axis in range(item.dim() - 1, 0, -1):
            if (size := _scaled(item.shape[axis], got, wanted)) is not None:
                yield guess.with_shape(name, (*item.shape[:axis], size, *item.shape[axis + 1 :]))


def _scaled(size: int, got: int, wanted: int) -> int | None:
    """Return the size that makes a layer's width right: it may hold several rows, or a few columns more."""
    if size > 1 and got % size == 0 and wanted * size % got == 0:
        return wanted * size // got
    if 0 < size - got <= _EXTRA_COLUMNS:
        return wanted + size - got
    return None


def _widths(message: str) -> tuple[int, int]:
    """Return the width a layer got and the one it wanted; equal where the message says neither."""
    if found := _PRODUCT.search(message):
        return _numbers(found[1])[-1], _numbers(found[2])[0]
    if found := _NORM.search(message):
        return _numbers(found[2])[-1], int(found[1])
    if (found := _BROADCAST.search(message)) and len(shape := _numbers(found[3])) >= -int(found[2]):
        return shape[int(found[2])], int(found[1])
    return 1, 1


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part.strip()]


def _of_rank(guess: Guess, message: str, made: Made) -> Iterator[Guess]:
    """Give an argument one axis more or less, as the code that takes it apart expects."""
    ranks = {int(found[1]) for pattern in _RANKS if (found := pattern.search(message))}
    for name, item in made.items():
        if not isinstance(item, Tensor) or not item.is_floating_point():
            continue
        if item.dim() + 1 in ranks:
            yield guess.with_shape(name, (item.shape[0], 1, *item.shape[1:]))
        elif item.dim() - 1 in ranks and item.dim() > 2:
            yield guess.with_shape(name, (item.shape[0], *item.shape[2:]))
