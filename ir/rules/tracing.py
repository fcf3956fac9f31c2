"""Rules of tracing and of verified plans."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule, Severity

BAD_EXAMPLE_INPUT: Final = Rule("bad-example-input", Severity.ERROR, "an example input is not written as one")
BEAMS_ARE_ROWS: Final = Rule(
    "beams-are-rows",
    Severity.WARNING,
    "a model writes several texts at once for each prompt, and one is counted",
)
DEVICES_MEET: Final = Rule("devices-meet", Severity.ERROR, "an op would see tensors of two devices")
LOST_WRITE: Final = Rule(
    "lost-write",
    Severity.ERROR,
    "a module would write into a copy of its argument, and the original is used later",
)
NO_EXAMPLE_INPUTS: Final = Rule(
    "no-example-inputs",
    Severity.WARNING,
    "the model's forward was not traced because there is nothing to call it with",
)
TRACE_FAILED: Final = Rule(
    "trace-failed", Severity.WARNING, "the model's forward does not run on the meta device"
)
TRACED_WITHOUT_CACHE: Final = Rule(
    "traced-without-cache",
    Severity.WARNING,
    "the model's forward runs on the meta device only without its KV cache",
)
VALUES_ASSUMED: Final = Rule(
    "values-assumed",
    Severity.WARNING,
    "the forward asks for values that depend on weights, and they were assumed",
)
VERIFIED_PEAK_EXCEEDED: Final = Rule(
    "verified-peak-exceeded", Severity.WARNING, "running the plan needs more memory than a device has"
)
WEIGHTS_AWAY: Final = Rule(
    "weights-away", Severity.ERROR, "an op uses the weights of a streamed unit that is not running"
)

ALL: Final = (
    BAD_EXAMPLE_INPUT,
    BEAMS_ARE_ROWS,
    DEVICES_MEET,
    LOST_WRITE,
    NO_EXAMPLE_INPUTS,
    TRACE_FAILED,
    TRACED_WITHOUT_CACHE,
    VALUES_ASSUMED,
    VERIFIED_PEAK_EXCEEDED,
    WEIGHTS_AWAY,
)
