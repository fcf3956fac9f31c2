"""A few tokens written by a loaded model, timed, beside what its plan predicts for them."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from ...ir import Diagnostic, Plan, PlanError, Workload
from ...ir.rules.sources import MISSING_INPUT
from ...ir.rules.usage import CANNOT_TRY
from ...ir.wording import first_line
from ..loading import RuntimeReport, runtime_report

if TYPE_CHECKING:
    from torch import nn

_TOKENS: Final = 16
"""Tokens that are written: enough for a median, few enough to wait for."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What came out, in how many seconds."""

    text: str
    """What the model wrote after the prompt."""
    read: int
    """Tokens of the prompt."""
    written: int
    prompt: float
    """Seconds until the first token was there."""
    token: float
    """Seconds of each further one, the median; 0 if there was none."""
    predicted_prompt: float | None = None
    predicted_token: float | None = None
    runtime: RuntimeReport | None = None
    """What was streamed while it wrote."""


def tokenizer_of(folder: Path) -> Any:  # noqa: ANN401  # any class of transformers
    """Return a folder's tokenizer; raises `PlanError` where there is none that can be used."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        found = Diagnostic(
            MISSING_INPUT,
            f"there is no tokenizer in `{folder}` to read the prompt with",
            notes=(first_line(error, 200),),
            help="save it beside the weights: `tokenizer.save_pretrained(FOLDER)`",
        )
        raise PlanError([found]) from error


def try_model(model: nn.Module, tokenizer: Any, prompt: str, plan: Plan) -> Trial:  # noqa: ANN401
    """Let a model go on from a prompt, greedily; what came before, such as reading files, is not timed.

    Raises:
        PlanError: the model writes no text, or cannot go on from this prompt.

    """
    generator: Any = model
    if not getattr(generator, "can_generate", bool)():
        message = f"`{type(model).__name__}` writes no text"
        help_ = "load the class that does: it is named in the `architectures` of its config.json"
        raise PlanError([Diagnostic(CANNOT_TRY, message, help=help_)])
    inputs = tokenizer(prompt, return_tensors="pt")
    if not inputs["input_ids"].numel():
        raise PlanError([Diagnostic(CANNOT_TRY, "the prompt has no tokens", help="give it some words")])
    _check_words(generator, inputs["input_ids"])
    options = {"do_sample": False, "num_beams": 1, "pad_token_id": _padding(generator, tokenizer)}
    try:
        generator.generate(**inputs, max_new_tokens=2, **options)
        runtime_report(model)  # what is counted from here on is the trial's
        clock = _Clock()
        found = generator.generate(**inputs, max_new_tokens=_TOKENS, streamer=clock, **options)
    except PlanError:
        raise
    except (
        Exception
    ) as error:  # the model's own code may raise anything, for a prompt it has no positions for
        raise _no_more(generator, inputs["input_ids"], error) from error
    read = inputs["input_ids"].shape[1] if len(clock.steps) else 0
    new = found[0] if generator.config.is_encoder_decoder else found[0, read:]
    gaps = [later - earlier for earlier, later in zip(clock.steps, clock.steps[1:], strict=False)]
    trial = Trial(
        tokenizer.decode(new, skip_special_tokens=True),
        read,
        len(clock.steps),
        clock.steps[0] - clock.start if clock.steps else 0.0,
        median(gaps) if gaps else 0.0,
        runtime=runtime_report(model),
    )
    return _foretold(trial, plan)


def _check_words(model: Any, tokens: Any) -> None:  # noqa: ANN401
    """Refuse tokens the model has no row for: on a card that ends the process."""
    table = model.get_input_embeddings()
    rows = getattr(table, "num_embeddings", None)
    largest = int(tokens.max())
    if isinstance(rows, int) and largest >= rows:
        message = f"the tokenizer gives token {largest}, and the model has {rows} of them"
        help_ = "use the tokenizer that was saved with the model"
        raise PlanError([Diagnostic(CANNOT_TRY, message, help=help_)])


def _no_more(model: Any, tokens: Any, error: Exception) -> PlanError:  # noqa: ANN401
    """Return the error for a model that failed while it wrote."""
    read, most = tokens.shape[1], getattr(model.config, "max_position_embeddings", None)
    message = f"`{type(model).__name__}` does not go on from a prompt of {read} tokens"
    long = isinstance(most, int) and read + _TOKENS > most
    help_ = f"give a shorter prompt: it has {most} positions" if long else "try the model by itself"
    return PlanError([Diagnostic(CANNOT_TRY, message, notes=(first_line(error, 200),), help=help_)])


def _padding(model: Any, tokenizer: Any) -> int:  # noqa: ANN401
    """Return a token to pad with; nothing is padded, but transformers asks."""
    known = (model.generation_config.pad_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((token for token in known if isinstance(token, int)), 0)


class _Clock:
    """What transformers tells of every token when it is there."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.steps: list[float] = []
        self._prompt = True

    def put(self, _tokens: object) -> None:
        """Note the time; the first to come is the prompt."""
        if self._prompt:
            self._prompt = False
        else:
            self.steps.append(time.perf_counter())

    def end(self) -> None:
        """Do nothing: the last token came before."""


def _foretold(trial: Trial, plan: Plan) -> Trial:
    """Add what the cost model says of this very call under the plan's placement."""
    from ..search.telling import foretold

    if plan.tree is None or not trial.read:
        return trial
    told = foretold(plan, plan.tree, Workload("generate", 1, trial.read, max(1, trial.written)))
    if told is not None:
        return replace(trial, predicted_prompt=told[0].prompt, predicted_token=told[0].token or None)
    known = None if plan.outcome is None else plan.outcome.predicted  # a token is like any other
    return trial if known is None else replace(trial, predicted_token=known.token or None)
