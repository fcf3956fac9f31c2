"""``--verify``: the forward replayed under the plan, and what there is to say about it.

The replay is of the very call the plan was made for: the inputs, the batch and the sequence length asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from ...ir import Diagnostic, Plan, PlanError, host_of, human_size
from ...ir.rules.tracing import TRACE_FAILED
from ...ir.rules.usage import CANNOT_VERIFY
from ...ir.visible import pasted, visible
from ..driver.options import AUTOMATIC
from .terminal import Line

if TYPE_CHECKING:
    from torch import nn

    from ..driver.options import Options
    from ..tracing import Verification
    from ..tracing.inputs.example_inputs import Inputs

_EXAMPLE: Final = '--inputs "input_ids=int64[1,128]"'


def replayed(plan: Plan, model: nn.Module, inputs: Inputs, options: Options) -> Verification:
    """Trace the model's forward and replay it under the plan; raises `PlanError` where it cannot run."""
    from ..tracing import trace_model, verify_trace

    made = None if isinstance(inputs, str) and inputs == AUTOMATIC else inputs
    try:
        trace = trace_model(model, made, batch=options.batch or 1, seq=options.seq)
    except PlanError as error:
        if any(diagnostic.severity == "error" for diagnostic in error.diagnostics):
            raise
        raise PlanError([_cannot(found) for found in error.diagnostics]) from error
    return verify_trace(plan, trace)


def no_forward(name: str) -> PlanError:
    """Return the error for an input that holds no model that could be run."""
    message = f"`{name}` has no forward to replay"
    help_ = f"give the model: `compile-plan model.py --override {pasted(name)} --verify`"
    return PlanError([Diagnostic(CANNOT_VERIFY, message, help=help_)])


def _cannot(found: Diagnostic) -> Diagnostic:
    """Turn what is a warning while planning into the reason why there is no answer."""
    other = f"give other inputs: {_EXAMPLE}"
    help_ = other if found.rule is TRACE_FAILED else found.help or other
    return Diagnostic(CANNOT_VERIFY, found.message, notes=(*found.notes, f"[{found.code}]"), help=help_)


def verification_lines(verification: Verification) -> Iterator[Line]:
    """Return the lines for people: hops, what is streamed, and the peak of each device."""
    hops, moved = verification.hops, human_size(verification.moved_nbytes)
    yield []
    if hops:
        yield [("bold", "replayed"), ("", f": no mix-up; {_times(hops, 'hop')} with {moved} of activations")]
    else:
        yield [("bold", "replayed"), ("", ": no mix-up; nothing moves between devices")]
    for copy in verification.crossing:
        what = f"into {visible(copy.path)}" if copy.path else "of what the call returns"
        road = f"{visible(host_of(copy.origin))} -> {visible(host_of(copy.target))}"
        yield [("", f"  {road}: {human_size(copy.nbytes)} {what}")]
    for device, nbytes in verification.streamed:
        yield [("", f"  {visible(device)} fetches {human_size(nbytes)} of weights in one forward")]
    for peak in (each for each in verification.peaks if each.nbytes):
        where = f"in {visible(peak.path)}" if peak.path else "in the model's own forward"
        yield [("", f"  {visible(peak.device)} peaks at {human_size(peak.nbytes)} {where}: {peak.account()}")]


def _times(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def verification_data(verification: Verification) -> dict[str, Any]:
    """Return the replay as what JSON can hold; sizes are bytes."""
    return {
        "hops": verification.hops,
        "moved_nbytes": verification.moved_nbytes,
        "streamed_nbytes": dict(verification.streamed),
        "copies": [
            {"path": copy.path, "from": copy.origin, "to": copy.target, "nbytes": copy.nbytes}
            for copy in verification.copies
        ],
        "peaks": [
            {
                "device": peak.device,
                "path": peak.path,
                "nbytes": peak.nbytes,
                "weights": peak.weights,
                "cache": peak.cache,
                "activations": peak.activations,
                "streaming": peak.streaming,
            }
            for peak in verification.peaks
        ],
    }
