"""Rules about inputs: scripts and checkpoints, and what is said of configurations and budgets."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule, Severity
from . import budgets, configs

AMBIGUOUS_INPUT: Final = Rule(
    "ambiguous-input",
    Severity.ERROR,
    "several things could be the model",
    """\
A script with several models or factories, or a folder with several checkpoints, does not say which
of them is meant.

    compile-plan model.py            # defines build_small() and build_large()

Name one: `compile-plan model.py:build_large`, or the path of one file.""",
)
DUPLICATE_TENSOR: Final = Rule(
    "duplicate-tensor",
    Severity.ERROR,
    "a checkpoint holds a tensor twice",
    """\
Two files of a checkpoint, or two entries of one header, have the same tensor; which one counts would
be an accident. A consolidated file beside its own shards is the usual reason.

Remove the file that is not part of the checkpoint, or name the index.""",
)
EMPTY_MODEL: Final = Rule(
    "empty-model",
    Severity.ERROR,
    "there is nothing to place",
    """\
The model has no parameters and no buffers, or the checkpoint has no tensors.

    model = nn.Sequential()

Point at the model that holds the weights.""",
)
FACTORY_NEEDS_ARGUMENTS: Final = Rule(
    "factory-needs-arguments",
    Severity.ERROR,
    "a factory cannot be called without arguments",
    """\
Factories are called with no arguments, so that a script alone says what is compiled.

    def build(layers): ...

Give the parameters defaults, or add a function that calls it with the values you want.""",
)
INVALID_CHECKPOINT: Final = Rule(
    "invalid-checkpoint",
    Severity.ERROR,
    "a file is not valid safetensors",
    """\
The header of the file does not describe its bytes: it is not JSON, a tensor has another size than
its shape says, tensors overlap, or bytes belong to none. Nothing is guessed from such a file.

Download or save it again.""",
)
INVALID_INDEX: Final = Rule(
    "invalid-index",
    Severity.ERROR,
    "an index of shards cannot be read as one",
    """\
A `*.safetensors.index.json` is an object whose `weight_map` maps tensor names to file names.

Download it again, or name the folder without it.""",
)
MISSING_EXTRA: Final = Rule(
    "missing-extra",
    Severity.ERROR,
    "an optional package is needed and not installed",
    """\
Some inputs need a package that most people do not: transformers for a folder with only a
`config.json`, gguf for a `.gguf` file.

    pip install 'compile-plan[hub]'

Install what the help line names.""",
)
MISSING_INPUT: Final = Rule(
    "missing-input",
    Severity.ERROR,
    "there is no such file or folder",
    """\
Nothing was found under the given path.

    compile-plan modle.py

Check the spelling and the current folder.""",
)
MISSING_SHARD: Final = Rule(
    "missing-shard",
    Severity.ERROR,
    "a file of the checkpoint is missing",
    """\
The index, or the numbering in the file names, says there are more files than are there. A download
that was interrupted is the usual reason.

Download the files the notes name.""",
)
MISSING_TENSOR: Final = Rule(
    "missing-tensor",
    Severity.ERROR,
    "the index lists a tensor that no shard holds",
    """\
Index and shards do not belong together, so what is missing cannot be loaded later either.

Get both from one place, or write the index again.""",
)
NEEDS_REAL_VALUES: Final = Rule(
    "needs-real-values",
    Severity.ERROR,
    "a constructor reads values of weights that are not there",
    """\
Models are built on the meta device, where tensors have a shape and no values, so that a model of any
size can be planned anywhere. A constructor that calls `.item()`, `.numpy()` or `bool()` on a large
tensor, or loads a file into it, cannot run that way. Small tensors are computed.

    self.scale = float(self.weight.abs().max())

Compute such values in the first forward, or from numbers.""",
)
NO_MODEL: Final = Rule(
    "no-model",
    Severity.ERROR,
    "a script does not define a model",
    """\
A script offers a model as a variable `model`, or through a function that returns one: `build`, or any
other named after a colon.

    model = Decoder(layers=32)

Then `compile-plan model.py`, or `compile-plan model.py:build`.""",
)
NOT_A_MODEL: Final = Rule(
    "not-a-model",
    Severity.ERROR,
    "what is given is not a torch module that can be planned",
    """\
The name stands for something else than a `torch.nn.Module`; a factory that forgets `return` gives
None. Scripted and exported programs have no modules any more, and of a module that is sharded over
processes each process has only a part.

    def build():
        Decoder(layers=32)

Return the module.""",
)
PATH_OUTSIDE_FOLDER: Final = Rule(
    "path-outside-folder",
    Severity.ERROR,
    "an index points outside its folder",
    """\
The shards of a checkpoint lie beside its index. A name with `..`, a drive or a leading `/` would read
files the checkpoint has no business with.

    {"weight_map": {"a.weight": "../../secret.safetensors"}}

Do not use an index like this from a stranger.""",
)
SCRIPT_FAILED: Final = Rule(
    "script-failed",
    Severity.ERROR,
    "a script raised an error",
    """\
The script, or the factory in it, stopped with an exception of its own. The message is the script's,
and the lines are the script's lines.

Run the script with python to debug it.""",
)
TRUNCATED_CHECKPOINT: Final = Rule(
    "truncated-checkpoint",
    Severity.ERROR,
    "a file ends before its tensors do",
    """\
The header promises more bytes than the file has. A download or copy that was interrupted is the usual
reason.

Download or copy the file again.""",
)
UNKNOWN_CACHE: Final = Rule(
    "unknown-cache",
    Severity.WARNING,
    "nothing tells how large a KV cache is",
    """\
The bytes of a KV cache follow from the attention layers of a checkpoint and its `config.json`. Encoders
keep none, and some models keep what only their code knows.

    compile-plan ./bert --cache-tokens 4096

Give the bytes of the whole model with `--kv-cache`, or leave `--cache-tokens` out.""",
)
UNKNOWN_INPUT: Final = Rule(
    "unknown-input",
    Severity.ERROR,
    "the kind of input is not known",
    """\
Inputs are a script (`.py`), a safetensors checkpoint (a file, an index or a folder), a folder with a
`config.json`, a plan (`.plan`, `.msgpack`), a device map (`.json`), or a `.gguf` file.

    compile-plan weights.bin

Pickles (`.bin`, `.pt`) run code when they are read; save them as safetensors.""",
)
UNKNOWN_TENSOR_DTYPE: Final = Rule(
    "unknown-tensor-dtype",
    Severity.ERROR,
    "a tensor has a dtype nobody knows",
    """\
The bytes of a tensor cannot be counted or loaded without knowing its dtype. A file from a newer
version of its format is the usual reason.

Update compile-plan, or convert the file.""",
)
UNLISTED_TENSOR: Final = Rule(
    "unlisted-tensor",
    Severity.WARNING,
    "shards hold tensors their index does not list",
    """\
Only what the index lists is loaded, so the rest is left out of the plan.

Write the index again if the tensors belong to the model.""",
)
UNREADABLE_INPUT: Final = Rule(
    "unreadable-input",
    Severity.ERROR,
    "a file is there and cannot be read",
    """\
The system refused to read it; the message is the system's.

Check the permissions, and that the path is what you think it is.""",
)

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
    SCRIPT_FAILED,
    TRUNCATED_CHECKPOINT,
    UNKNOWN_CACHE,
    UNKNOWN_INPUT,
    UNKNOWN_TENSOR_DTYPE,
    UNLISTED_TENSOR,
    UNREADABLE_INPUT,
    *budgets.ALL,
    *configs.ALL,
)
