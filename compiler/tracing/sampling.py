"""What choosing a token holds: the processors ``generate()`` makes are run on scores without values.

The scores of the last position are copied in float32, processors make others of them, these become
probabilities; all three are there until the next token has its own. Counted is a sampler, which has more
than whoever takes the best token: temperature, top-k and top-p as everyone sets them, and whatever else the
model's ``generation_config`` asks for. A processor that wants values makes scores anew, as all of them do.
"""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import Tensor, nn

from ...ir import CPU
from ..running.nesting import Untyped
from .alive_now import EachAlive
from .generating import MASK
from .inputs.config_inputs import plain_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Processor = Callable[[Tensor, Tensor], Tensor]

USUAL: Final = {"temperature": 0.7, "top_k": 50, "top_p": 0.9}
"""What sampling sets where a model says nothing; no size depends on the numbers."""
_NOTHING: Final = (None, 0, 1)
"""Numbers that ask for nothing."""


class Sampled(NamedTuple):
    """Bytes of each thing that is there when most is, beside what a forward left and what is written."""

    first: tuple[int, ...] = ()
    """While the first token is chosen."""
    later: tuple[int, ...] = ()
    """While the last one is, and what is left of the one before."""
    kept: tuple[int, ...] = ()
    """While a forward runs that reads a token."""


def sampled(model: nn.Module, rows: int, words: int, lengths: tuple[int, int], *, on_host: bool) -> Sampled:
    """Return what choosing takes for rows of scores, of texts of these lengths: a prompt, the whole.

    On a card the sort of top-p has more inside than what comes out of it.
    """
    made, alive = _processors(model, rows, lengths), EachAlive(on_host=on_host)
    peaks = list[tuple[int, ...]]()
    texts = [torch.empty(rows, length, dtype=torch.int64, device="meta") for length in lengths]
    widened = scores = chances = torch.empty(0, device="meta")  # each round's last until the next has its own
    with torch.no_grad(), alive:
        for text in texts:
            alive.begin()
            widened = torch.empty(rows, words, device="meta")
            scores = _processed(made, text, widened)
            chances = nn.functional.softmax(scores, dim=-1)
            peaks.append(alive.highest)
        kept = tuple(alive.sizes.values())
    del widened, scores, chances
    return Sampled(peaks[0], peaks[1], kept)


def _processed(made: Iterable[Processor], text: Tensor, scores: Tensor) -> Tensor:
    for each in made:
        try:
            scores = each(text, scores)
        except Exception:  # noqa: BLE001  it may ask for values, or for weights
            scores = scores.clone()
    return scores


def _processors(model: nn.Module, rows: int, lengths: tuple[int, int]) -> Iterable[Processor]:
    """Return what ``generate()`` makes for a sampler; the usual ones where a model's own cannot be had."""
    plain: Untyped = plain_model(model)
    own: Untyped = getattr(plain, "generation_config", None)
    for made in (lambda: copy.deepcopy(own), type(own)):
        with suppress(Exception):  # settings may be anybody's
            settings = made()
            settings.update(do_sample=True, num_beams=1, max_length=lengths[1])
            settings.update(**{n: v for n, v in USUAL.items() if getattr(settings, n, None) in _NOTHING})
            ends = settings.eos_token_id
            settings._eos_token_tensor = None if ends is None else torch.tensor(ends).flatten()  # noqa: SLF001
            mask = torch.ones(rows, lengths[0], dtype=torch.int64)
            return plain._get_logits_processor(settings, lengths[0], device=CPU, model_kwargs={MASK: mask})  # type: ignore[no-any-return]  # noqa: SLF001
    return ()
