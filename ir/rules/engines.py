"""Rules about other engines: what of a plan they cannot be told, and what they print that cannot be read."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule, Severity

ENGINE_CANNOT: Final = Rule(
    "engine-cannot", Severity.ERROR, "an engine would do something else than the plan says"
)
ENGINE_LINE: Final = Rule("engine-line", Severity.ERROR, "what an engine printed cannot be read")
ENGINE_LOSES: Final = Rule(
    "engine-loses", Severity.WARNING, "an engine puts a part of the model elsewhere than the plan"
)
UNKNOWN_ENGINE: Final = Rule("unknown-engine", Severity.ERROR, "`--for` names no engine that is known here")

ALL: Final = (ENGINE_CANNOT, ENGINE_LINE, ENGINE_LOSES, UNKNOWN_ENGINE)
