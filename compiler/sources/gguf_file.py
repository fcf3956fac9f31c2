"""A GGUF file as a plan, read-only, through the ``gguf`` package: exact packed bytes, no weights read."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ...ir import Diagnostic, Diagnostics, Plan
from ...ir.rules.sources import (
    EMPTY_MODEL,
    INVALID_CHECKPOINT,
    MISSING_EXTRA,
    MISSING_INPUT,
    UNREADABLE_INPUT,
)
from .checkpoint import lower_tensors, unknown_cache
from .config_cache import VALUE_DIM
from .gguf_header import check_gguf_head
from .gguf_room import room_demands
from .named_tensors import NamedTensor
from .regular import regular

_TORCH: Final = {
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "BF16": "bfloat16",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
}

_NUMBERS: Final = {
    "attention.key_length": "head_dim",
    "attention.value_length": VALUE_DIM,
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "expert_used_count": "num_experts_per_tok",
}
"""What a file says of itself, and what a ``config.json`` calls it."""
_LATENT: Final = {"attention.kv_lora_rank": "kv_lora_rank", "rope.dimension_count": "qk_rope_head_dim"}
_ABSORBED: Final = "attn_k_b"
"""The matrix of files whose latents are attended to as they are; of others keys and values are kept whole."""
_FAMILIES: Final = {"gemma2": "gemma2", "gemma3": "gemma3", "gemma3n": "gemma3n_text", "cohere2": "cohere2",
                    "gpt-oss": "gpt_oss"}  # fmt: skip
"""Architectures whose windows are where the code puts them, by what a ``config.json`` calls them."""
_WINDOW: Final = "attention.sliding_window"


@dataclass(frozen=True, slots=True)
class GgufFile:
    """What is read of a file: the lowered plan, its numbers, and the shapes its tensors have unpacked."""

    plan: Plan
    config: Mapping[str, object]
    shapes: Mapping[str, tuple[int, ...]]

    def with_room(
        self, diagnostics: Diagnostics | None, tokens: int, rows: int = 1, *, several: bool = False
    ) -> Plan:
        """Return the plan with the room llama.cpp takes, in float16, for ``rows`` sequences of ``tokens``.

        Without ``diagnostics`` nothing is said where the numbers do not tell how large its cache is.
        """
        assert self.plan.tree is not None  # noqa: S101  # lowering gives a tree
        found = room_demands(self.config, self.plan.tree, self.shapes, tokens, rows, several=several)
        if not found and diagnostics is not None:
            diagnostics.add(unknown_cache(self.plan.model.name))
        return replace(self.plan, demands=self.plan.demands + found)


def read_gguf(path: str | Path, diagnostics: Diagnostics) -> GgufFile:
    """Return what a GGUF file says.

    Quantised tensors keep their number of bytes: they are ``uint8`` with that many elements.

    Raises:
        PlanError: the file is missing or invalid, or the ``gguf`` package is not installed.

    """
    path = Path(path)
    tensors, shapes, config = _content(path, diagnostics)
    if not tensors and not diagnostics.errors:
        diagnostics.add(Diagnostic(EMPTY_MODEL, f"`{path}` holds no tensors"))
    diagnostics.raise_errors()
    return GgufFile(lower_tensors(path.stem, tensors, {}), config, shapes)


def _content(
    path: Path, diagnostics: Diagnostics
) -> tuple[list[NamedTensor], dict[str, tuple[int, ...]], dict[str, object]]:
    try:
        import gguf
    except ImportError:
        help_ = "run `pip install 'compile-plan[gguf]'`"
        diagnostics.add(Diagnostic(MISSING_EXTRA, "reading a .gguf file needs the gguf package", help=help_))
        return [], {}, {}
    try:
        with regular(path).open("rb") as stream:
            magic = stream.read(4)
            if magic == b"GGUF":
                check_gguf_head(stream, path.stat().st_size)
        if magic != b"GGUF":
            message = f"`{path}` is not a GGUF file: it starts with {magic!r}"
            diagnostics.add(Diagnostic(INVALID_CHECKPOINT, message))
            return [], {}, {}
        reader = gguf.GGUFReader(path)
        names = {str(tensor.name) for tensor in reader.tensors}
        shapes = {str(tensor.name): _shape(tensor) for tensor in reader.tensors}
        return [_named(tensor) for tensor in reader.tensors], shapes, _config(reader.fields, names)
    except FileNotFoundError:
        diagnostics.add(Diagnostic(MISSING_INPUT, f"there is no `{path}`"))
    except OSError as error:
        diagnostics.add(Diagnostic(UNREADABLE_INPUT, f"cannot read `{path}`: {error.strerror or error}"))
    except (ValueError, KeyError, IndexError, OverflowError, UnicodeDecodeError, struct.error) as error:
        message = f"`{path}` is not a valid GGUF file: {error}"
        diagnostics.add(Diagnostic(INVALID_CHECKPOINT, message, help="download the file again"))
    return [], {}, {}


def _config(fields: Mapping[str, Any], names: set[str]) -> dict[str, object]:
    """Return what the file tells about attention, by the names of a ``config.json``."""
    family = fields["general.architecture"].contents() if "general.architecture" in fields else ""

    def told(key: str) -> object:
        return fields[f"{family}.{key}"].contents() if f"{family}.{key}" in fields else None

    latent = _LATENT if any(f".{_ABSORBED}." in name for name in names) else {}
    numbers = {called: told(key) for key, called in (*_NUMBERS.items(), *latent.items())}
    found = {called: value for called, value in numbers.items() if value is not None}
    heads = found.get("num_attention_heads")
    if isinstance(heads, list):  # the widest, where nothing but the head's size follows from it
        found["num_attention_heads"] = max(heads, default=0)
        found.setdefault("num_key_value_heads", heads)
    return {"dtype": "float16", **found, **_windows(family, told(_WINDOW), told(f"{_WINDOW}_pattern"))}


def _windows(family: str, size: object, pattern: object) -> dict[str, object]:
    """Return which layers see a window, where the file or its architecture says it."""
    if isinstance(pattern, list):
        kinds = ["sliding_attention" if each else "full_attention" for each in pattern]
        return {"sliding_window": size, "layer_types": kinds}
    if isinstance(pattern, int):
        return {"sliding_window": size, "sliding_window_pattern": pattern}
    return {"sliding_window": size, "model_type": _FAMILIES[family]} if family in _FAMILIES else {}


def _named(tensor: Any) -> NamedTensor:  # noqa: ANN401  # the package has no types
    nbytes = int(tensor.n_bytes)
    dtype = _TORCH.get(tensor.tensor_type.name)
    return NamedTensor(str(tensor.name), dtype or "uint8", _shape(tensor) if dtype else (nbytes,), nbytes)


def _shape(tensor: Any) -> tuple[int, ...]:  # noqa: ANN401  # the package has no types
    return tuple(int(size) for size in reversed(tensor.shape))
