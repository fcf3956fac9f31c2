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

ALL: Final = (CONFIG_FAILED, INVALID_CONFIG, QUANTISED_CONFIG, REMOTE_CODE_REFUSED)
