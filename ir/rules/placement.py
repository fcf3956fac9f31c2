"""Rules of lowering and placing: what planning itself has to say about a model and its budgets."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule, Severity

BUFFERS_WITHOUT_ROOM: Final = Rule(
    "buffers-without-room",
    Severity.WARNING,
    "the buffers of offloaded units fit in no accelerator's free memory",
)
CYCLIC_MODULE: Final = Rule("cyclic-module", Severity.ERROR, "a module contains itself")
DEVICE_LEFT_EMPTY: Final = Rule("device-left-empty", Severity.WARNING, "a device with a budget holds nothing")
LAZY_PARAMETER: Final = Rule("lazy-parameter", Severity.ERROR, "a parameter has no shape yet")
MODEL_NOT_TIED: Final = Rule(
    "model-not-tied", Severity.WARNING, "the config asks for tied weights but the model shares none"
)
OVERSIZED_MODEL: Final = Rule("oversized-model", Severity.ERROR, "the module tree grows without bound")
UNKNOWN_DTYPE: Final = Rule("unknown-dtype", Severity.ERROR, "a dtype does not exist")
UNKNOWN_TENSOR: Final = Rule(
    "unknown-tensor", Severity.ERROR, "a tensor is named that the model does not have"
)
UNLISTED_DISK: Final = Rule(
    "unlisted-disk", Severity.WARNING, "part of the model is stored on a disk that nobody listed"
)

ALL: Final = (
    BUFFERS_WITHOUT_ROOM,
    CYCLIC_MODULE,
    DEVICE_LEFT_EMPTY,
    LAZY_PARAMETER,
    MODEL_NOT_TIED,
    OVERSIZED_MODEL,
    UNKNOWN_DTYPE,
    UNKNOWN_TENSOR,
    UNLISTED_DISK,
)
