"""A GGUF file as a plan, read-only, through the ``gguf`` package: exact packed bytes, no weights read.

One of several files of a model stands for all of them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from ...ir import Diagnostic, Diagnostics, Plan
from ...ir.rules.sources import (
    EMPTY_MODEL,
    INVALID_CHECKPOINT,
    MISSING_EXTRA,
    MISSING_INPUT,
    MISSING_SHARD,
)
from ...ir.wording import in_words
from .checkpoint import lower_tensors, unknown_cache
from .config_numbers import integer
from .gguf_header import check_gguf_head
from .gguf_numbers import FAMILY, KEYS, config_of
from .gguf_room import room_demands
from .named_tensors import NamedTensor
from .regular import regular, text_instead, unreadable_input
from .safetensors_header import are_tensor_names

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

_PACKED: Final = "uint8"
"""What packed tensors are, a byte an element."""
_PART: Final = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


@dataclass(frozen=True, slots=True)
class GgufFile:
    """What is read of a file: the lowered plan, its numbers, and the shapes its tensors have unpacked."""

    plan: Plan
    config: Mapping[str, object]
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def packed(self) -> bool:
        """Say whether any of its weights are packed."""
        assert self.plan.tree is not None  # noqa: S101  # lowering gives a tree
        return _PACKED in self.plan.tree.dtypes

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
    part = _read(path, diagnostics)
    diagnostics.raise_errors()
    parts = _whole_series(path, part, diagnostics)
    diagnostics.raise_errors()
    tensors = [tensor for each in parts for tensor in each.tensors]
    shapes = {name: shape for each in parts for name, shape in each.shapes.items()}
    if len(shapes) < len(tensors):
        message = f"two parts of `{path}` hold tensors of the same name"
        diagnostics.add(Diagnostic(INVALID_CHECKPOINT, message, help="download the files again"))
    if not are_tensor_names(shapes):
        message = f"`{path}` holds a tensor whose name is none"
        diagnostics.add(Diagnostic(INVALID_CHECKPOINT, message, help="download the file again"))
    if not tensors:
        diagnostics.add(Diagnostic(EMPTY_MODEL, f"`{path}` holds no tensors"))
    diagnostics.raise_errors()
    match = _PART.fullmatch(path.name) if len(parts) > 1 else None
    config = config_of(parts[0].family, parts[0].told, shapes)
    return GgufFile(lower_tensors(path.stem if match is None else match[1], tensors, {}), config, shapes)


class _Part(NamedTuple):
    """What one file holds; the first of several tells of the model, each how many there are."""

    tensors: Sequence[NamedTensor] = ()
    shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    family: str = ""
    told: Mapping[str, object] = MappingProxyType({})
    parts: int = 1


def _whole_series(path: Path, part: _Part, diagnostics: Diagnostics) -> list[_Part]:
    """Return all the parts of a model that one file is of, as llama.cpp finds them: by their names."""
    if part.parts < 2:
        return [part]
    match = _PART.fullmatch(path.name)
    if match is None or int(match[3]) != part.parts:
        message = f"`{path}` is one of {part.parts} parts of a model, and its name does not tell the others"
        help_ = "give the files the names they had: `NAME-00001-of-00003.gguf`"
        diagnostics.add(Diagnostic(MISSING_SHARD, message, help=help_))
        return []
    names = [f"{match[1]}-{n:05d}-of-{match[3]}.gguf" for n in range(1, part.parts + 1)]
    gone = [name for name in names if not path.with_name(name).exists()]
    if gone:
        message = (
            f"{len(gone)} of the {part.parts} parts that `{path}` is of are missing: {in_words(gone, 3)}"
        )
        diagnostics.add(Diagnostic(MISSING_SHARD, message, help="download the missing files"))
        return []
    return [part if name == path.name else _read(path.with_name(name), diagnostics) for name in names]


def _read(path: Path, diagnostics: Diagnostics) -> _Part:
    try:
        import gguf
    except ImportError:
        help_ = "run `pip install 'compile-plan[gguf]'`"
        diagnostics.add(Diagnostic(MISSING_EXTRA, "reading a .gguf file needs the gguf package", help=help_))
        return _Part()
    try:
        with regular(path).open("rb") as stream:
            magic = stream.read(4)
            if magic == b"GGUF":
                check_gguf_head(stream, path.stat().st_size)
        if magic != b"GGUF":
            what, help_ = text_instead(path) or (f"it starts with {magic!r}", "download the file again")
            message = f"`{path}` is not a GGUF file: {what}"
            diagnostics.add(Diagnostic(INVALID_CHECKPOINT, message, help=help_))
            return _Part()
        return _content(gguf.GGUFReader(path))
    except FileNotFoundError:
        diagnostics.add(Diagnostic(MISSING_INPUT, f"there is no `{path}`"))
    except OSError as error:
        diagnostics.add(unreadable_input(path, error))
    except (ValueError, KeyError, IndexError, OverflowError, UnicodeDecodeError, struct.error) as error:
        message = f"`{path}` is not a valid GGUF file: {error}"
        diagnostics.add(Diagnostic(INVALID_CHECKPOINT, message, help="download the file again"))
    return _Part()


def _content(reader: Any) -> _Part:  # noqa: ANN401  # the package has no types
    def told(key: str) -> object:
        return reader.fields[key].contents() if key in reader.fields else None

    family = str(told(FAMILY) or "")
    return _Part(
        [_named(tensor) for tensor in reader.tensors],
        {str(tensor.name): _shape(tensor) for tensor in reader.tensors},
        family,
        {key: told(f"{family}.{key}") for key in KEYS},
        integer(told("split.count")) or 1,
    )


def _named(tensor: Any) -> NamedTensor:  # noqa: ANN401  # the package has no types
    nbytes = int(tensor.n_bytes)
    dtype = _TORCH.get(tensor.tensor_type.name)
    return NamedTensor(str(tensor.name), dtype or _PACKED, _shape(tensor) if dtype else (nbytes,), nbytes)


def _shape(tensor: Any) -> tuple[int, ...]:  # noqa: ANN401  # the package has no types
    return tuple(int(size) for size in reversed(tensor.shape))
