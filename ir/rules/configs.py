"""Rules about folders with a transformers configuration."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule, Severity

CONFIG_FAILED: Final = Rule("config-failed", Severity.ERROR, "a model cannot be built from its config.json")
INVALID_CONFIG: Final = Rule("invalid-config", Severity.ERROR, "a config.json cannot be read as one")
QUANTISED_CONFIG: Final = Rule(
    "quantised-config",
    Severity.WARNING,
    "a configuration says the weights are quantised, which a model built from it does not show",
)
REMOTE_CODE_REFUSED: Final = Rule(
    "remote-code-refused", Severity.ERROR, "a configuration wants to run code that came with it"
)

SEVERAL_SAVES: Final = Rule("several-saves", Severity.WARNING, "a folder holds the model twice")
STORED_NAMES: Final = Rule(
    "stored-names", Severity.WARNING, "a plan has the names of the files, and its model may have others"
)
UNBUILT_LAYERS: Final = Rule(
    "unbuilt-layers", Severity.WARNING, "a checkpoint holds layers its class does not build"
)

ALL: Final = (
    CONFIG_FAILED,
    INVALID_CONFIG,
    QUANTISED_CONFIG,
    REMOTE_CODE_REFUSED,
    SEVERAL_SAVES,
    STORED_NAMES,
    UNBUILT_LAYERS,
)
