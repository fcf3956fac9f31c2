"""Example inputs for a trace: what the user gave, or what the model's config asks for.

Only shapes and dtypes matter; everything ends up on the meta device.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, TypeAlias

import torch
from torch import Tensor, nn

from ...ir import Diagnostic, Diagnostics
from ...ir.rules.tracing import BAD_EXAMPLE_INPUT, NO_EXAMPLE_INPUTS
from .config_inputs import inputs_from_config
from .nesting import Untyped

Inputs: TypeAlias = Tensor | tuple[Untyped, ...] | list[Untyped] | Mapping[str, Untyped] | str | None
Arguments: TypeAlias = tuple[tuple[Untyped, ...], dict[str, Untyped]]

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
) -> list[Arguments]:
    """Return the arguments to try on the model's call in order, or say why there are none."""
    if inputs is not None:
        given = _given(inputs, diagnostics)
        return [] if given is None else [given]
    made = inputs_from_config(model, batch=batch, seq=seq)
    if guesses := [((), kwargs) for kwargs in made]:
        return list(guesses)
    message = f"there are no example inputs for `{type(model).__name__}`, so its forward was not traced"
    diagnostics.add(Diagnostic(NO_EXAMPLE_INPUTS, message, help=f'give them: --inputs "{_EXAMPLE}"'))
    return []


def _given(inputs: Tensor | tuple[Untyped, ...] | list[Untyped] | Mapping[str, Untyped] | str,
           diagnostics: Diagnostics) -> Arguments | None:  # fmt: skip
    if isinstance(inputs, str):
        return parse_inputs(inputs, diagnostics)
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return tuple(inputs), {}


def parse_inputs(text: str, diagnostics: Diagnostics) -> Arguments | None:
    """Read ``input_ids=int64[1,128], float32[1,3,224,224]``: named and positional inputs."""
    args: list[Tensor] = []
    kwargs: dict[str, Tensor] = {}
    good = True
    for part in re.split(r"[;,](?![^\[]*\])", text):
        found = _parse_input(part)
        if found is None or found[0] in kwargs:
            message = f"`{part.strip()}` is not an example input"
            note = "an input is a dtype and a shape, with its name in front if it has one"
            diagnostics.add(Diagnostic(BAD_EXAMPLE_INPUT, message, notes=(note,), help=f"write `{_EXAMPLE}`"))
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
