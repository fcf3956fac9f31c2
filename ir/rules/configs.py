"""Rules about folders with a transformers configuration."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule, Severity

CONFIG_FAILED: Final = Rule(
    "config-failed",
    Severity.ERROR,
    "a model cannot be built from its config.json",
    """\
transformers was asked to build the model a configuration describes and refused.

    {"model_type": "gpt2", "n_head": 7, "n_embd": 768}

Its words are in the notes. A newer transformers may know the model.""",
)
INVALID_CONFIG: Final = Rule(
    "invalid-config",
    Severity.ERROR,
    "a config.json cannot be read as one",
    """\
A model configuration is a JSON object with at least a `model_type`.

    ["gpt2"]

Use the `config.json` that was saved with the model.""",
)
QUANTISED_CONFIG: Final = Rule(
    "quantised-config",
    Severity.WARNING,
    "a configuration says the weights are quantised, which a model built from it does not show",
    """\
Without its weights a model is built as its code writes it: the bytes are those of the dtype it computes
in, and packed weights take fewer.

    {"model_type": "llama", "quantization_config": {"quant_method": "gptq", "bits": 4}}

With the weights beside the configuration the bytes are exact, as they are read from the files. Without
them `--dtype int4` comes near.""",
)
REMOTE_CODE_REFUSED: Final = Rule(
    "remote-code-refused",
    Severity.ERROR,
    "a configuration wants to run code that came with it",
    """\
The model is not part of transformers; its configuration names Python files to import. That code
would run with your rights.

Read it, then allow it with `--trust-remote-code`.""",
)

SEVERAL_SAVES: Final = Rule(
    "several-saves",
    Severity.WARNING,
    "a folder holds the model twice",
    """\
A single file and an index of shards lie side by side, often from two exports, and may hold different
weights. The one transformers would load is used.

    model.safetensors
    model.safetensors.index.json
    model-00001-of-00002.safetensors

Remove the one that is not meant, or name the other by its path.""",
)
STORED_NAMES: Final = Rule(
    "stored-names",
    Severity.WARNING,
    "a plan has the names of the files, and its model may have others",
    """\
transformers renames or merges the tensors of this class while it loads them. How it does depends on parts
that only building the class tells, and the class could not be built here.

    compile-plan ./gemma3      # without transformers installed

Install a transformers that has the class, or compile the plan where it is.""",
)
UNBUILT_LAYERS: Final = Rule(
    "unbuilt-layers",
    Severity.WARNING,
    "a checkpoint holds layers its class does not build",
    """\
Some checkpoints carry extra layers behind the last one, by which other engines guess several tokens at
once. transformers loads none of them, so they take no memory and have no place in the plan.

    {"num_hidden_layers": 4}       # and the file holds `model.layers.4`

Nothing is to be done.""",
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
