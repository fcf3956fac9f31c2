"""Example inputs for a trace: what the user gave, or what the model's config asks for.

Only shapes and dtypes matter; everything ends up on the meta device.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from typing import Final, TypeAlias

import torch
from torch import Tensor, nn

from ....ir import Diagnostic, Diagnostics
from ....ir.rules.tracing import BAD_EXAMPLE_INPUT, NO_EXAMPLE_INPUTS
from ...running.nesting import Untyped
from .config_inputs import inputs_from_config
from .input_words import how_to_give

Given: TypeAlias = Tensor | tuple[Untyped, ...] | list[Untyped] | Mapping[str, Untyped] | str
Inputs: TypeAlias = Given | None
Arguments: TypeAlias = tuple[tuple[Untyped, ...], dict[str, Untyped]]
Attempts: TypeAlias = Generator[Arguments, Exception, None]

_INPUT: Final = re.compile(r"\s*(?:(\w+)\s*=\s*)?([a-z]\w*)\s*\[([\d,\s]*)\]\s*")
_EXAMPLE: Final = "input_ids=int64[1,128]"
MAX_NUMEL: Final = 2**48


def example_inputs(
    model: nn.Module,
    inputs: Inputs,
    diagnostics: Diagnostics,
    *,
    batch: int = 1,
    seq: int | None = None,
) -> Attempts:
    """Yield the arguments to try on the model's call, or say why there are none.

    Those made from a config are guesses; what each of them raised is sent back for the next.
    """
    if inputs is not None:
        given = _given(inputs, diagnostics)
        if given is not None:
            yield given
        return
    made = inputs_from_config(model, batch=batch, seq=seq)
    guess = next(made, None)
    if guess is None:
        message = f"there are no example inputs for `{type(model).__name__}`, so its forward was not traced"
        diagnostics.add(Diagnostic(NO_EXAMPLE_INPUTS, message, help=f"give them: {how_to_give(model)}"))
    while guess is not None:
        error = yield (), guess
        try:
            guess = made.send(error)
        except StopIteration:
            return


def _given(inputs: Given, diagnostics: Diagnostics) -> Arguments | None:
    if isinstance(inputs, str):
        return parse_inputs(inputs, diagnostics)
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, tuple | list):
        return tuple(inputs), {}
    message = f"a `{type(inputs).__name__}` is no example input"
    help_ = f"give a tensor, a tuple, a mapping by name, or a text such as `{_EXAMPLE}`"
    diagnostics.add(Diagnostic(BAD_EXAMPLE_INPUT, message, help=help_))
    return None


def parse_inputs(text: str, diagnostics: Diagnostics) -> Arguments | None:
    """Read ``input_ids=int64[1,128], float32[1,3,224,224]``: named and positional inputs."""
    args: list[Tensor] = []
    kwargs: dict[str, Tensor] = {}
    good = True
    for part in re.split(r"[;,](?![^\[]*\])", text):
        found = _parse_input(part)
        if found is None:
            message = f"`{part.strip()}` is not an example input"
            note = "an input is a dtype and a shape, with its name in front if it has one"
            diagnostics.add(Diagnostic(BAD_EXAMPLE_INPUT, message, notes=(note,), help=f"write `{_EXAMPLE}`"))
            good = False
        elif found[0] in kwargs:
            message = f"the input `{found[0]}` is given twice"
            diagnostics.add(Diagnostic(BAD_EXAMPLE_INPUT, message, help="keep one of them"))
            good = False
        elif found[0]:
            kwargs[found[0]] = found[1]
        else:
            args.append(found[1])
    return (tuple(args), kwargs) if good else None


def _parse_input(text: str) -> tuple[str, Tensor] | None:
    match = _INPUT.fullmatch(text)
    if match is None:
        return None
    dtype = getattr(torch, match[2], None)
    sizes = [item.strip() for item in match[3].split(",")] if match[3].strip() else []
    if not isinstance(dtype, torch.dtype) or not all(size.isdigit() for size in sizes):
        return None
    shape = [int(size) for size in sizes]
    numel = 1
    for size in shape:
        numel *= size
        if numel > MAX_NUMEL:
            return None
    return match[1] or "", torch.empty(shape, dtype=dtype, device="meta")
