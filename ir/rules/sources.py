"""Rules about inputs: scripts and checkpoints, and what is said of configurations and budgets."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule, Severity
from . import budgets, configs

AMBIGUOUS_INPUT: Final = Rule("ambiguous-input", Severity.ERROR, "several things could be the model")
DUPLICATE_TENSOR: Final = Rule("duplicate-tensor", Severity.ERROR, "a checkpoint holds a tensor twice")
EMPTY_MODEL: Final = Rule("empty-model", Severity.ERROR, "there is nothing to place")
FACTORY_NEEDS_ARGUMENTS: Final = Rule(
    "factory-needs-arguments", Severity.ERROR, "a factory cannot be called without arguments"
)
INVALID_CHECKPOINT: Final = Rule("invalid-checkpoint", Severity.ERROR, "a file is not valid safetensors")
INVALID_INDEX: Final = Rule("invalid-index", Severity.ERROR, "an index of shards cannot be read as one")
MISSING_EXTRA: Final = Rule(
    "missing-extra", Severity.ERROR, "an optional package is needed and not installed"
)
MISSING_INPUT: Final = Rule("missing-input", Severity.ERROR, "there is no such file or folder")
MISSING_SHARD: Final = Rule("missing-shard", Severity.ERROR, "a file of the checkpoint is missing")
MISSING_TENSOR: Final = Rule("missing-tensor", Severity.ERROR, "the index lists a tensor that no shard holds")
NEEDS_REAL_VALUES: Final = Rule(
    "needs-real-values", Severity.ERROR, "a constructor reads values of weights that are not there"
)
NO_MODEL: Final = Rule("no-model", Severity.ERROR, "a script does not define a model")
NOT_A_MODEL: Final = Rule(
    "not-a-model", Severity.ERROR, "what is given is not a torch module that can be planned"
)
PATH_OUTSIDE_FOLDER: Final = Rule("path-outside-folder", Severity.ERROR, "an index points outside its folder")
SCRIPT_ENDED: Final = Rule("script-ended", Severity.WARNING, "a script failed after it had built its model")
SCRIPT_FAILED: Final = Rule("script-failed", Severity.ERROR, "a script raised an error")
TRUNCATED_CHECKPOINT: Final = Rule(
    "truncated-checkpoint", Severity.ERROR, "a file ends before its tensors do"
)
UNKNOWN_ACTIVATIONS: Final = Rule(
    "unknown-activations", Severity.WARNING, "what a forward takes beside weights is an estimate"
)
UNKNOWN_CACHE: Final = Rule("unknown-cache", Severity.WARNING, "nothing tells how large a KV cache is")
UNKNOWN_INPUT: Final = Rule("unknown-input", Severity.ERROR, "the kind of input is not known")
UNKNOWN_TENSOR_DTYPE: Final = Rule(
    "unknown-tensor-dtype", Severity.ERROR, "a tensor has a dtype nobody knows"
)
UNLISTED_TENSOR: Final = Rule(
    "unlisted-tensor", Severity.WARNING, "shards hold tensors their index does not list"
)
UNREADABLE_INPUT: Final = Rule("unreadable-input", Severity.ERROR, "a file is there and cannot be read")

ALL: Final = (
    AMBIGUOUS_INPUT,
    DUPLICATE_TENSOR,
    EMPTY_MODEL,
    FACTORY_NEEDS_ARGUMENTS,
    INVALID_CHECKPOINT,
    INVALID_INDEX,
    MISSING_EXTRA,
    MISSING_INPUT,
    MISSING_SHARD,
    MISSING_TENSOR,
    NEEDS_REAL_VALUES,
    NO_MODEL,
    NOT_A_MODEL,
    PATH_OUTSIDE_FOLDER,
    SCRIPT_ENDED,
    SCRIPT_FAILED,
    TRUNCATED_CHECKPOINT,
    UNKNOWN_ACTIVATIONS,
    UNKNOWN_CACHE,
    UNKNOWN_INPUT,
    UNKNOWN_TENSOR_DTYPE,
    UNLISTED_TENSOR,
    UNREADABLE_INPUT,
    *budgets.ALL,
    *configs.ALL,
)
