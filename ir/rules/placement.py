"""Rules of lowering and placing: what planning itself has to say about a model and its budgets."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule, Severity

BUFFERS_WITHOUT_ROOM: Final = Rule(
    "buffers-without-room",
    Severity.WARNING,
    "the buffers of offloaded units fit in no accelerator's free memory",
    """\
Buffers of offloaded units stay on the accelerator that runs them unless `--offload-buffers` is
given. Here no accelerator has that much memory left, so the first forward may run out of memory.

    compile-plan model.py --memory cuda:0=1GiB,cpu=8GiB

Offload the buffers too with `--offload-buffers`, or raise a budget by the bytes shown.""",
)
CYCLIC_MODULE: Final = Rule(
    "cyclic-module",
    Severity.ERROR,
    "a module contains itself",
    """\
A module that is registered below itself has no size and no place of its own.

    self.block.owner = self      # registers the parent as a child of its child

Keep the back reference in a list or a weak reference, which torch does not register.""",
)
DEVICE_LEFT_EMPTY: Final = Rule(
    "device-left-empty",
    Severity.WARNING,
    "a device with a budget holds nothing",
    """\
The next unit in order did not fit and could not be split, so the device was passed over. The bytes
shown are what would have been enough at that moment: the unit, what is tied to it, and what the
device keeps free for streaming.

    device cuda:0 memory 1GiB      # the first layer needs 1.2GiB

Raise the budget to at least that, allow the unit to be split, or use the strategy `auto`.""",
)
LAZY_PARAMETER: Final = Rule(
    "lazy-parameter",
    Severity.ERROR,
    "a parameter has no shape yet",
    """\
Modules like `nn.LazyLinear` learn their shapes from the first input, so until then they have no
size that could be planned with.

Call the model once with an example input, or use the ordinary module with explicit sizes.""",
)
MODEL_NOT_TIED: Final = Rule(
    "model-not-tied",
    Severity.WARNING,
    "the config asks for tied weights but the model shares none",
    """\
The configuration says that embeddings are tied, yet no two parameters are the same tensor. They
will be counted and placed as two, and tied only later, which changes what fits.

Call `model.tie_weights()` before planning.""",
)
OVERSIZED_MODEL: Final = Rule(
    "oversized-model",
    Severity.ERROR,
    "the module tree grows without bound",
    """\
A module registered under several names appears at each of them. Modules that share modules that
share modules multiply, and soon have more places than any model needs.

Register a shared module once and keep other references to it in a list.""",
)
UNKNOWN_DTYPE: Final = Rule(
    "unknown-dtype",
    Severity.ERROR,
    "a dtype does not exist",
    """\
Dtypes are torch's names, with or without `torch.`, plus accelerate's `fp8`, `int4` and `int2` for
weights that are packed while they are loaded.

    compile-plan model.py --dtype bfloat61

Use the name the message suggests.""",
)
UNKNOWN_TENSOR: Final = Rule(
    "unknown-tensor",
    Severity.ERROR,
    "a tensor is named that the model does not have",
    """\
Special dtypes are given by the path of a parameter or buffer. A path that names nothing would be
ignored without a word.

    special_dtypes={"lm_head.wieght": "float32"}

Use the path the message suggests.""",
)
UNLISTED_DISK: Final = Rule(
    "unlisted-disk",
    Severity.WARNING,
    "part of the model is stored on a disk that nobody listed",
    """\
accelerate falls back on a disk of any size when everything else is full, and the strategy
`accelerate` does as it does. Reading weights from a disk in every forward is slow.

    compile-plan model.py --strategy accelerate --memory cuda:0=1GiB,cpu=1GiB

List `disk` if this is meant, raise another budget by the bytes shown, or use another strategy.""",
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
