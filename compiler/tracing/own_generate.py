"""What a model holds whose ``generate()`` is its own and hands the writing over to a part of it.

Such a model looks at pictures first and holds what it made of them while the part reads a prompt and writes;
the part keeps what it read for the next token, of which the forward of the whole shows nothing. So the
``generate()`` itself is traced: of the prompt to the second token, of a text as long as it gets the last.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn

from ..running.nesting import Untyped
from .generating import MASK, POSITIONS, with_mask, writes_as_all_do
from .inputs.config_inputs import plain_model
from .one_run import Ran, run
from .record import Recorder
from .sampling import USUAL
from .trace import Enter, Trace

_WRITTEN: Final = 2
"""How many tokens are written: the second is chosen while the first one's scores are there."""
_PROMPT: Final = "input_ids"
_LEFT_OUT: Final = frozenset({MASK, POSITIONS, "decoder_input_ids"})
"""What a forward is given, and a ``generate()`` makes by itself or is given otherwise."""


def own_generate(ran: Ran, total: int) -> tuple[tuple[Trace, int], ...]:
    """Return traces of a model's own ``generate()``, and from which step on each tells; none elsewhere."""
    model, text = plain_model(ran.shadow.model), ran.kwargs.get(_PROMPT)
    if not isinstance(text, Tensor) or text.dim() != 2 or writes_as_all_do(model) or not _hands_over(model):
        return ()
    longer = torch.ones(len(text), max(text.shape[1], total - 1), dtype=text.dtype)
    longer[:, : text.shape[1]] = 1 if text.is_meta else text
    with suppress(Exception), _quietly():  # the model's own code may raise anything; its forward stands
        prompt, last = (_traced(ran, each) for each in (text, longer))
        return (prompt, 0), (last, max(n for n, step in enumerate(last.steps) if _is_outermost(last, step)))
    return ()


def _hands_over(model: nn.Module) -> bool:
    """Say whether a part of a model writes by itself."""
    return any(part is not model and hasattr(part, "generate") for part in model.modules())


def _traced(ran: Ran, prompt: Tensor) -> Trace:
    model: Untyped = plain_model(ran.shadow.model)
    given = {name: each for name, each in ran.kwargs.items() if isinstance(each, Tensor)}
    given = {name: each for name, each in given.items() if name not in _LEFT_OUT} | {_PROMPT: prompt}
    write = partial(model.generate, max_new_tokens=_WRITTEN, do_sample=True, **USUAL)
    recorder = Recorder(ran.shadow.tree, assume=True)
    return run(ran.shadow, recorder, (), {**given, **with_mask(model, given)}, call=write).trace


def _is_outermost(trace: Trace, step: object) -> bool:
    return isinstance(step, Enter) and trace.calls[step.call].parent < 0


@contextmanager
def _quietly() -> Iterator[None]:
    """Have the library say nothing of a text that nobody gets to see."""
    log = logging.getLogger("transformers")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
