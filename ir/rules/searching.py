"""Rules of the exact search: what does not fit, and why."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule, Severity

COMPUTED_INSTEAD: Final = Rule(
    "computed-instead",
    Severity.WARNING,
    "something was to be streamed and is computed where it is stored",
)
DOES_NOT_FIT: Final = Rule("does-not-fit", Severity.ERROR, "the listed devices cannot hold the model")
PLACEMENT_NOT_FOUND: Final = Rule(
    "placement-not-found",
    Severity.ERROR,
    "the search gave up: it found no placement and could not prove that there is none",
)
SEARCH_ENDED: Final = Rule(
    "search-ended", Severity.WARNING, "the clock ended the search before it was through"
)
SPILL: Final = Rule("spill", Severity.WARNING, "some units fit on no accelerator")
STREAMING_BUFFER: Final = Rule(
    "streaming-buffer", Severity.WARNING, "a device has too little room left for what is streamed to it"
)

ALL: Final = (COMPUTED_INSTEAD, DOES_NOT_FIT, PLACEMENT_NOT_FOUND, SEARCH_ENDED, SPILL, STREAMING_BUFFER)
