"""``--try``: the model loaded by its plan, a few tokens of it, and measured beside predicted seconds."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...backends.predictions import timed_text
from ...ir import Diagnostic, Plan, PlanError, human_size
from ...ir.rules.loading import ABSENT_DEVICE
from ...ir.rules.usage import CANNOT_TRY
from ...ir.visible import visible
from ..driver.pretrained import load_whole, planned_dtype, told
from ..driver.trial import Trial, tokenizer_of, try_model
from .terminal import Line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .values import Request


@dataclass(frozen=True, slots=True)
class Tried:
    """A trial, and the load before it."""

    seconds: float
    """Loading."""
    where: str
    """What went where."""
    trial: Trial

    def data(self) -> dict[str, Any]:
        """Return it as what JSON can hold; times are seconds."""
        told = self.trial.runtime
        trial = asdict(replace(self.trial, runtime=None))
        return {"loading": self.seconds, **trial, "runtime": None if told is None else told.data()}

    def lines(self) -> Iterator[Line]:
        """Yield it as lines for people."""
        trial = self.trial
        yield []
        yield [("", self.where.strip())]
        yield [("", f"loaded in {timed_text(self.seconds)}; it goes on from the prompt:")]
        yield [("", visible(trial.text.strip()) or "(nothing)")]
        pairs = (
            ("a token", trial.token, trial.predicted_token),
            (f"a prompt of {trial.read}", trial.prompt, trial.predicted_prompt),
        )
        parts = [_measured(what, seconds, predicted) for what, seconds, predicted in pairs if seconds]
        yield [("", f"measured: {', '.join(parts) or 'nothing was written'}")]
        yield from ([("", line)] for line in _streamed(trial))


def _streamed(trial: Trial) -> Iterator[str]:
    """Yield what came to each device while it wrote, and what kept that from its rate."""
    for device in () if trial.runtime is None else trial.runtime.devices:
        each = human_size(device.nbytes // max(1, trial.written))
        yield f"streamed to {device.device}: {each} a token; it waited {timed_text(device.stalled)} in all"
    for finding in () if trial.runtime is None else trial.runtime.findings:
        yield f"{finding.severity}: {finding.message}"


def _measured(what: str, measured: float, predicted: float | None) -> str:
    beside = "" if predicted is None else f" (predicted {timed_text(predicted)})"
    return f"{timed_text(measured)} {what}{beside}"


def _from_here(found: Diagnostic) -> Diagnostic:
    """Return a finding with help that a command can follow."""
    if found.rule is not ABSENT_DEVICE:
        return found
    return replace(
        found, help="a plan is tried on the machine it is for: leave `--memory` out to try it here"
    )


def try_plan(plan: Plan, request: Request) -> Tried:
    """Load the input by a plan and let it write.

    Raises:
        PlanError: the input has no weights, its folder no tokenizer, or the plan cannot be loaded here.

    """
    folder = Path(request.input or "")
    if not (folder / "config.json").is_file():
        message = f"`{visible(str(folder))}` cannot be tried: it is no folder with a model in it"
        help_ = "give the folder with config.json, weights and tokenizer; `--override` takes a plan for it"
        raise PlanError([Diagnostic(CANNOT_TRY, message, help=help_)])
    tokenizer = tokenizer_of(folder)
    start = time.perf_counter()
    try:
        model, _ = load_whole(
            folder,
            lambda _: plan,
            dtype=request.options.dtype or planned_dtype(plan),
            trust_remote_code=bool(request.options.trust_remote_code),
            progress=False if request.quiet or request.json else None,
        )
    except PlanError as error:
        raise PlanError([_from_here(found) for found in error.diagnostics]) from None
    seconds = time.perf_counter() - start
    return Tried(seconds, told(plan, model), try_model(model, tokenizer, request.trial or "", plan))
