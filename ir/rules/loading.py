"""Rules of the area `loading`: what stops a model from being loaded as its plan says."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule, Severity

ABSENT_DEVICE: Final = Rule(
    "absent-device", Severity.ERROR, "the plan uses a device this machine does not have"
)
ANOTHER_MODEL: Final = Rule(
    "another-model", Severity.ERROR, "the plan was compiled for a model with other tensors"
)
CHANGED_CHECKPOINT: Final = Rule(
    "changed-checkpoint", Severity.ERROR, "a checkpoint file changed while it was read or served from"
)
COPIED_WHILE_STREAMING: Final = Rule(
    "copied-while-streaming", Severity.ERROR, "a model with streamed units cannot be copied or pickled"
)
DISK_WITHOUT_CHECKPOINT: Final = Rule(
    "disk-without-checkpoint",
    Severity.ERROR,
    "a unit is planned for disk but there are no files to serve it from",
)
FAKED_WHILE_STREAMING: Final = Rule(
    "faked-while-streaming",
    Severity.ERROR,
    "a model with streamed units cannot be recorded, or run with tensors that have no values",
)
FORKED_WHILE_STREAMING: Final = Rule(
    "forked-while-streaming",
    Severity.ERROR,
    "a process forked from the one that loaded a model cannot stream to an accelerator",
)
FOREIGN_HOOKS: Final = Rule(
    "foreign-hooks", Severity.ERROR, "another library already moves the weights of the model"
)
IGNORED_TENSOR: Final = Rule(
    "ignored-tensor", Severity.WARNING, "the checkpoint has tensors the model does not have"
)
KEPT_TENSOR: Final = Rule(
    "kept-tensor", Severity.WARNING, "the checkpoint lacks tensors, and the model's own values are kept"
)
LARGER_THAN_PLANNED: Final = Rule(
    "larger-than-planned", Severity.WARNING, "weights are loaded in a larger dtype than the plan counted"
)
MOVED_BY_HAND: Final = Rule(
    "moved-by-hand", Severity.ERROR, "a model that is spread by a plan is moved or converted as a whole"
)
NO_MEMORY: Final = Rule("no-memory", Severity.ERROR, "a device has less free memory than the plan puts on it")
NOT_IN_MEMORY: Final = Rule(
    "not-in-memory", Severity.ERROR, "something works on the memory of a tensor whose values are in files"
)
NOT_PINNED: Final = Rule(
    "not-pinned", Severity.WARNING, "streamed weights rest in memory that the card's driver does not know"
)
OPAQUE_WEIGHTS: Final = Rule(
    "opaque-weights", Severity.ERROR, "a tensor of a class of its own cannot be where the plan has it"
)
OTHER_HOST: Final = Rule("other-host", Severity.ERROR, "the plan places units on another machine")
TENSOR_NOT_IN_CHECKPOINT: Final = Rule(
    "tensor-not-in-checkpoint", Severity.ERROR, "the checkpoint lacks tensors of the model"
)
TENSOR_NOT_IN_MODEL: Final = Rule(
    "tensor-not-in-model", Severity.ERROR, "the checkpoint has tensors the model does not have"
)
TIED_TENSORS_DIFFER: Final = Rule(
    "tied-tensors-differ", Severity.ERROR, "tensors the model ties are stored with different values"
)
TRAINING_WHILE_STREAMING: Final = Rule(
    "training-while-streaming",
    Severity.ERROR,
    "a backward pass reaches weights that were only there during the forward",
)
UNFILLED_TENSOR: Final = Rule(
    "unfilled-tensor", Severity.ERROR, "a tensor is in no checkpoint and cannot be made again"
)
UNREADABLE_WEIGHTS: Final = Rule("unreadable-weights", Severity.ERROR, "a tensor's bytes could not be read")
WRITTEN_BY_ROWS: Final = Rule(
    "written-by-rows", Severity.ERROR, "a forward writes to weights of which it has only the chosen rows"
)
WRONG_DTYPE: Final = Rule(
    "wrong-dtype", Severity.ERROR, "a tensor in the checkpoint is of another kind than the model's"
)
WRONG_SHAPE: Final = Rule(
    "wrong-shape", Severity.ERROR, "a tensor in the checkpoint has another shape than the model's"
)

NEW_TENSOR: Final = Rule(
    "new-tensor", Severity.WARNING, "the checkpoint lacks tensors, and the model's class makes them anew"
)
QUANTISED_CHECKPOINT: Final = Rule(
    "quantised-checkpoint", Severity.ERROR, "quantised weights cannot be read into a plain model"
)
UNTIED_TENSORS: Final = Rule(
    "untied-tensors", Severity.WARNING, "the checkpoint has its own values for a tensor that the model ties"
)

ALL: Final = (
    NEW_TENSOR,
    QUANTISED_CHECKPOINT,
    UNTIED_TENSORS,
    ABSENT_DEVICE,
    ANOTHER_MODEL,
    CHANGED_CHECKPOINT,
    COPIED_WHILE_STREAMING,
    FAKED_WHILE_STREAMING,
    FORKED_WHILE_STREAMING,
    DISK_WITHOUT_CHECKPOINT,
    FOREIGN_HOOKS,
    IGNORED_TENSOR,
    KEPT_TENSOR,
    LARGER_THAN_PLANNED,
    MOVED_BY_HAND,
    NO_MEMORY,
    NOT_IN_MEMORY,
    NOT_PINNED,
    OPAQUE_WEIGHTS,
    OTHER_HOST,
    TENSOR_NOT_IN_CHECKPOINT,
    TENSOR_NOT_IN_MODEL,
    TIED_TENSORS_DIFFER,
    TRAINING_WHILE_STREAMING,
    UNFILLED_TENSOR,
    UNREADABLE_WEIGHTS,
    WRITTEN_BY_ROWS,
    WRONG_DTYPE,
    WRONG_SHAPE,
)
