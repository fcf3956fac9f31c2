"""A GGUF file as a plan, read-only, through the ``gguf`` package: exact packed bytes, no weights read."""

from __future__ import annotations

import struct
from collections.abc import Mapping
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
from .checkpoint import lower_tensors, with_cache
from .gguf_header import check_gguf_head
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

_KEYS: Final = "attention.key_length"
_VALUES: Final = "attention.value_length"
_NUMBERS: Final = {
    _KEYS: "head_dim",
    _VALUES: "head_dim",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
}
"""What a file says of itself, and what a ``config.json`` calls it."""


def read_gguf(
    path: str | Path,
    diagnostics: Diagnostics,
    *,
    cache_tokens: int | None = None,
    batch: int = 1,
) -> Plan:
    """Return the lowered plan of a GGUF file.

    Quantised tensors keep their number of bytes: they are ``uint8`` with that many elements. The KV
    cache, in float16, is that of all tokens in every layer, by the numbers of heads in the file.

    Raises:
        PlanError: the file is missing or invalid, or the ``gguf`` package is not installed.

    """
    path = Path(path)
    tensors, config = _content(path, diagnostics)
    if not tensors and not diagnostics.errors:
        diagnostics.add(Diagnostic(EMPTY_MODEL, f"`{path}` holds no tensors"))
    diagnostics.raise_errors()
    plan = lower_tensors(path.stem, tensors, {})
    if cache_tokens is not None:
        plan = with_cache(plan, config, cache_tokens, batch, diagnostics)
    return plan


def _content(path: Path, diagnostics: Diagnostics) -> tuple[list[NamedTensor], dict[str, object]]:
    try:
        import gguf
    except ImportError:
        help_ = "run `pip install 'compile-plan[gguf]'`"
        diagnostics.add(Diagnostic(MISSING_EXTRA, "reading a .gguf file needs the gguf package", help=help_))
        return [], {}
    try:
        with regular(path).open("rb") as stream:
            magic = stream.read(4)
            if magic == b"GGUF":
                check_gguf_head(stream, path.stat().st_size)
        if magic != b"GGUF":
            message = f"`{path}` is not a GGUF file: it starts with {magic!r}"
            diagnostics.add(Diagnostic(INVALID_CHECKPOINT, message))
            return [], {}
        reader = gguf.GGUFReader(path)
        return [_named(tensor) for tensor in reader.tensors], _config(reader.fields)
    except FileNotFoundError:
        diagnostics.add(Diagnostic(MISSING_INPUT, f"there is no `{path}`"))
    except OSError as error:
        diagnostics.add(Diagnostic(UNREADABLE_INPUT, f"cannot read `{path}`: {error.strerror or error}"))
    except (ValueError, KeyError, IndexError, OverflowError, UnicodeDecodeError, struct.error) as error:
        message = f"`{path}` is not a valid GGUF file: {error}"
        diagnostics.add(Diagnostic(INVALID_CHECKPOINT, message, help="download the file again"))
    return [], {}


def _config(fields: Mapping[str, Any]) -> dict[str, object]:
    """Return what the file tells about attention, by the names of a ``config.json``."""
    family = fields["general.architecture"].contents() if "general.architecture" in fields else ""
    found = {name: fields[key].contents() for name in _NUMBERS if (key := f"{family}.{name}") in fields}
    numbers = {name: value for name, value in found.items() if isinstance(value, int)}
    equal = numbers.get(_KEYS) == numbers.get(_VALUES)
    told = {_NUMBERS[name]: value for name, value in numbers.items()}
    return {"dtype": "float16", **(told if equal and len(numbers) == len(found) else {})}


def _named(tensor: Any) -> NamedTensor:  # noqa: ANN401  # the package has no types
    nbytes = int(tensor.n_bytes)
    dtype = _TORCH.get(tensor.tensor_type.name)
    shape = tuple(int(size) for size in reversed(tensor.shape))
    return NamedTensor(str(tensor.name), dtype or "uint8", shape if dtype else (nbytes,), nbytes)
