"""What a tokenizer and ``generate()`` hand a forward beside tokens, and what the latter holds meanwhile.

A mask, with padding in it: several prompts in one call are padded to the longest, one to a multiple of
something or to a fixed length. A mask with padding is a tensor for attention, as large as the square of the
length, which one without is not: so rows of one length take less than is told. One row whose mask would be
large beside the model is a long text, which nobody pads.

``generate()`` also gives positions of every row, so that what is made of them is made for every row. The
model itself says what of this it takes (`prepare_inputs_for_generation`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import torch
from torch import Tensor, nn

from ..running.nesting import Untyped, tensors_in
from .inputs.config_inputs import plain_model

MASK: Final = "attention_mask"
POSITIONS: Final = "position_ids"
_OWN: Final = "_prepare_position_ids_for_generation"
_LIBRARY: Final = "transformers.generation"
_SEEN: Final = "mm_encoder_outputs"
_WHOLE: Final = 8
"""Bytes of a token, a position, a number of a mask."""
_OF_PAIR: Final = 4
"""Bytes of a pair of tokens in a mask: yes or no, what it is made of, the numbers it is turned into."""
_LITTLE: Final = 0.03
"""By how much of its weights a model may be told to take too much; or by so many bytes:"""
_ANYHOW: Final = 4 << 20
_SPECIAL: Final = 4
"""Tokens of a meaning of their own that are held as tensors: first, last, padding, a decoder's first."""


def texts_of_a_prompt(model: nn.Module) -> int:
    """Return how many rows ``generate()`` makes of each prompt: beams, or texts that are returned."""
    own = getattr(plain_model(model), "generation_config", None)
    asked = (getattr(own, name, None) for name in ("num_beams", "num_return_sequences"))
    return max((each for each in asked if isinstance(each, int)), default=1)


def with_prompt(model: nn.Module, given: Mapping[str, Untyped]) -> dict[str, Untyped]:
    """Return what goes along with a prompt where nobody gave it; nothing for what does not write text."""
    plain, prompt = plain_model(model), given.get("input_ids")
    if not isinstance(prompt, Tensor) or prompt.dim() != 2 or not hasattr(plain, _OWN):
        return {}
    mask = _padded(plain, prompt)
    made = {MASK: mask}
    if not _encodes(plain) and _are_plain(plain):
        made[POSITIONS] = (mask.cumsum(-1) - 1).clamp(min=0)
    if bool(mask.all()) and _forgets_ones(plain):
        del made[MASK]
    return _taken(plain, made, given)


def prepared(model: nn.Module, given: Mapping[str, Untyped]) -> dict[str, Untyped]:
    """Return what a model that keeps nothing makes of a whole text: some add a token to be foretold."""
    plain, made = plain_model(model), with_prompt(model, given)
    text = torch.ones(given["input_ids"].shape, dtype=torch.int64)
    try:
        taken = plain.prepare_inputs_for_generation(text, use_cache=False, **made)  # type: ignore[operator]
    except Exception:  # noqa: BLE001  the model's own code may raise anything; then it takes the text alone
        return made
    return _taken(plain, {name: each for name, each in taken.items() if isinstance(each, Tensor)}, {})


def with_mask(model: nn.Module, given: Mapping[str, Untyped]) -> dict[str, Untyped]:
    """Return the mask a tokenizer gives with tokens, where nobody gave one."""
    plain, tokens = plain_model(model), given.get("input_ids")
    if not isinstance(tokens, Tensor) or tokens.dim() != 2:
        return {}
    return _taken(plain, {MASK: _padded(plain, tokens)}, given)


def _taken(model: nn.Module, made: Mapping[str, Tensor], given: Mapping[str, Untyped]) -> dict[str, Untyped]:
    accepted = inspect.signature(model.forward).parameters
    return {name: each for name, each in made.items() if name in accepted and name not in given}


def _padded(model: nn.Module, tokens: Tensor) -> Tensor:
    """Return the mask of rows of which all but the longest are padded; of one row too, unless it is long."""
    rows, length = tokens.shape
    mask = torch.ones(rows, length, dtype=torch.int64)
    weights = sum(each.nbytes for each in model.parameters())
    mask[int(rows > 1 or length**2 * _OF_PAIR > max(_ANYHOW, weights * _LITTLE)) :, 0] = 0
    return mask


def _are_plain(model: nn.Module) -> bool:
    """Say whether positions are those of tokens: who makes others makes them in the forward as well."""
    owner = next(each for each in type(model).__mro__ if _OWN in vars(each))
    return owner.__module__.startswith(_LIBRARY)


def _forgets_ones(model: nn.Module) -> bool:
    """Say whether ``generate()`` gives no mask where nothing is masked; transformers 5.17 still did."""
    code = inspect.unwrap(type(model).generate).__code__  # type: ignore[attr-defined]
    return "_mask_length" in code.co_names and not _encodes(model)  # what it keeps instead


def _encodes(model: nn.Module) -> bool:
    return bool(getattr(model.config, "is_encoder_decoder", False))


def with_next(
    model: nn.Module, given: Mapping[str, Untyped], state: tuple[str, object], count: int
) -> dict[str, Untyped]:
    """Return what goes along with so many tokens after those of a call that was ``given`` this."""
    plain, mask, positions = plain_model(model), given.get(MASK), given.get(POSITIONS)
    if not hasattr(plain, _OWN):
        return {}
    if _encodes(plain):
        return {} if mask is None else {MASK: mask}
    made = dict[str, Tensor]()
    if isinstance(mask, Tensor) and mask.dim() == 2:
        made[MASK] = torch.cat((mask, mask.new_ones(len(mask), count)), 1)
    if isinstance(positions, Tensor) and positions.dim() == 2:
        made[POSITIONS] = positions[:, -1:] + 1 + torch.arange(count, device=positions.device)
    asked = {state[0]: state[1], "next_sequence_length": count, "use_cache": True, **made}
    try:
        tokens = torch.ones(given["input_ids"].shape[0], count, dtype=torch.int64)
        taken = plain.prepare_inputs_for_generation(tokens, **asked)  # type: ignore[operator]
    except Exception:  # noqa: BLE001  the model's own code may raise anything; then it takes tokens alone
        return {}
    return {name: made[name] for name in made if isinstance(taken.get(name), Tensor)}


def held_beside(model: nn.Module, given: Mapping[str, Untyped]) -> tuple[int, ...]:
    """Return the bytes ``generate()`` and whoever calls it hold while a prompt is read, beside what is given.

    A forward gets a copy of the prompt, and no mask of whoever masks nothing; which rows have ended and
    tokens of a meaning of their own are there.
    """
    rows, length = _sizes(model, given)
    if not rows:
        return ()
    copied = not _encodes(plain_model(model))
    counts = [rows * length] * (copied + (MASK not in given))
    return (*(_WHOLE * each for each in (*counts, rows, *[1] * _SPECIAL)), *_handed_on(model, given))


def held_later(model: nn.Module, given: Mapping[str, Untyped], total: int) -> tuple[int, ...]:
    """Return the bytes held while the last token of a text is written, beside what is given for that.

    All that was given with the prompt stays where it was, and what was seen in pictures; the text and its
    positions are as long by then, and so is the mask that is made from the last one.
    """
    rows, length = _sizes(model, given)
    if not rows:
        return ()
    kept = [each.nbytes for each in given.values() if isinstance(each, Tensor)]
    kept += (*_seen(model, given), *_handed_on(model, given))
    masks = 0 if _encodes(plain_model(model)) else rows * (total + 1 if MASK in given else length)
    grown = [_WHOLE * each for each in (*[rows * (total + 1)] * 2, masks, rows, *[1] * _SPECIAL)]
    return (*kept, *grown)


def _handed_on(model: nn.Module, given: Mapping[str, Untyped]) -> tuple[int, ...]:
    """Return the bytes of sounds that a ``generate()`` of the model's own cuts out of those it is given."""
    if writes_as_all_do(model) or "input_ids" in given:
        return ()
    return tuple(e.nbytes for e in given.values() if isinstance(e, Tensor) and e.is_floating_point())


def writes_as_all_do(model: nn.Module) -> bool:
    """Say whether a model has no ``generate()`` of its own."""
    owner = next((each for each in type(plain_model(model)).__mro__ if "generate" in vars(each)), None)
    return owner is None or owner.__module__.startswith(_LIBRARY)


def _seen(model: nn.Module, given: Mapping[str, Untyped]) -> list[int]:
    """Return the bytes that ``generate()`` keeps of pictures: what an encoder made of them before the prompt.

    Older transformers do not; where that asks for values nothing is known.
    """
    plain: Untyped = plain_model(model)
    if _SEEN not in inspect.signature(plain.forward).parameters:
        return []
    floats = {
        n: e.to("meta") if isinstance(e, Tensor) and e.is_floating_point() else e for n, e in given.items()
    }
    with suppress(Exception), torch.no_grad():
        made = plain._prepare_multimodal_encoder_kwargs_for_generation(floats)[_SEEN]  # noqa: SLF001
        storages = (each.untyped_storage() for each in tensors_in(made))
        return list({each._cdata: each.nbytes() for each in storages}.values())  # noqa: SLF001
    return []


def _sizes(model: nn.Module, given: Mapping[str, Untyped]) -> tuple[int, int]:
    """Return rows and length of a prompt, or of a decoder's; nothing where ``generate()`` is nobody's."""
    prompt = given.get("input_ids", given.get("decoder_input_ids"))
    if not isinstance(prompt, Tensor) or prompt.dim() != 2 or not hasattr(plain_model(model), _OWN):
        return 0, 0
    return prompt.shape[0], prompt.shape[1]
