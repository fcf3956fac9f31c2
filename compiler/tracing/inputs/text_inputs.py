"""Tokens and what goes with them: masks, types, positions on a page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from .guesses import InputsFor, configs_in


def _ordinary_token(request: InputsFor) -> int:
    """Return a token that is not special: padding and image tokens take other paths."""
    special = {
        value
        for config in configs_in(request.config)
        for name, value in vars(config).items()
        if name.endswith(("_token_id", "_token_index")) and isinstance(value, int)
    }
    return next(token for token in range(len(special) + 1) if token not in special)


def _tokens(request: InputsFor) -> Tensor:
    """Return a text: what stands for pictures and sound in it first, then ordinary tokens."""
    inside = [token for token, count in request.tokens for _ in range(-(-count // request.batch))]
    length = max(request.seq, len(inside) + 2 if inside else 0)
    row = torch.full((length,), _ordinary_token(request), dtype=torch.int64)
    row[1 : len(inside) + 1] = torch.tensor(inside, dtype=torch.int64)
    return row.repeat(request.batch, 1)


def _plain_tokens(request: InputsFor) -> Tensor:
    return torch.full((request.batch, request.seq), _ordinary_token(request), dtype=torch.int64)


def _mask(request: InputsFor) -> Tensor:
    return torch.ones_like(_tokens(request))


def _types(request: InputsFor) -> Tensor:
    return torch.zeros_like(_tokens(request))


def _kinds_of_tokens(request: InputsFor) -> Tensor:
    special = torch.tensor([token for token, _ in request.tokens], dtype=torch.int64)
    return torch.isin(_tokens(request), special).long()


def _boxes(request: InputsFor) -> Tensor:
    return torch.zeros(request.batch, request.seq, 4, dtype=torch.int64)


def _codes(request: InputsFor) -> Tensor | None:
    """Return codes of sound, of each book one; None where a config tells of no books."""
    books = request.find("num_codebooks", "num_quantizers", "n_codebooks", default=0) or _channels(request)
    return torch.ones(request.batch, request.seq, books, dtype=torch.int64) if books else None


def _channels(request: InputsFor) -> int:
    """Return the channels of sound: a config with patches or sides of a picture counts colours."""
    kept = (each for each in configs_in(request.config) if not _PICTURE & set(vars(each)))
    found = (getattr(each, "num_channels", None) for each in kept)
    return next((each for each in found if isinstance(each, int)), 0)


def _codes_first(request: InputsFor) -> Tensor | None:
    codes = _codes(request)
    return None if codes is None else codes.transpose(1, 2).contiguous()


def _row_of_codes(request: InputsFor) -> Tensor | None:
    codes = _codes(request)
    return None if codes is None else codes.transpose(1, 2).reshape(-1, request.seq)


_PICTURE: Final = {"image_size", "patch_size"}
_TOKENS: Final = (_tokens, _codes, _codes_first, _row_of_codes)
TEXT: Final[dict[str, tuple[Callable[[InputsFor], Tensor | None], ...]]] = {
    "attention_mask": (_mask,),
    "bbox": (_boxes,),
    "decoder_input_ids": (_plain_tokens, *_TOKENS[1:]),
    "input_ids": _TOKENS,
    "mm_token_type_ids": (_kinds_of_tokens,),
    "token_type_ids": (_types,),
}
"""Makers by the name of the argument: the usual shape first, then others it is known to have."""
