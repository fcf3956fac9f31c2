"""Which files a checkpoint has and where in them each tensor is.

A checkpoint is one ``.safetensors`` file, an ``.index.json`` with its shards, or a folder with
either. Everything is known from the headers; a loader needs nothing else to read in place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from ...ir import Diagnostic, Diagnostics
from ...ir.rules.configs import SEVERAL_SAVES
from ...ir.rules.sources import (
    AMBIGUOUS_INPUT,
    DUPLICATE_TENSOR,
    EMPTY_MODEL,
    INVALID_INDEX,
    MISSING_INPUT,
    MISSING_SHARD,
    MISSING_TENSOR,
    PATH_OUTSIDE_FOLDER,
    UNKNOWN_INPUT,
    UNLISTED_TENSOR,
)
from ...ir.visible import pasted
from ...ir.wording import in_words
from .foreign_json import read_foreign_json
from .regular import regular, unreadable_input
from .safetensors_header import StoredTensor, duplicated_names, read_header

INDEX_SUFFIX: Final = ".safetensors.index.json"
_USUAL: Final = (
    "model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
)
"""What transformers and diffusers look for, each in its own order."""
_SHARD: Final = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
_MAX_INDEX: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a checkpoint as it was when its header was read."""

    path: Path
    nbytes: int


@dataclass(frozen=True, slots=True)
class CheckpointIndex:
    """Where every tensor of a checkpoint is: ``files[t.file]``, bytes ``t.offset`` to ``+ t.nbytes``.

    ``tensors`` maps the tensor's path, as the checkpoint spells it, to a `StoredTensor` (path,
    file number, absolute byte offset, nbytes, torch dtype name, shape). Bytes are little-endian and
    contiguous in row-major order. The order is that of the files, and in a file that of the bytes.
    """

    files: tuple[StoredFile, ...]
    tensors: Mapping[str, StoredTensor]

    def file_of(self, tensor: StoredTensor) -> Path:
        """Return the file that holds a tensor."""
        return self.files[tensor.file].path


_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt")
_SAVE: Final = (
    "save the model as safetensors, `model.save_pretrained(FOLDER)`, or let transformers read them with "
    "`weights_only`: `load_pretrained(FOLDER, pickled=True)`"
)
_GGUF: Final = (
    "plan it from its header, or let transformers read it, `from_pretrained(FOLDER, gguf_file=NAME)`, and "
    "place what it made: `load_model(compile_model(model), model)`"
)
_PROBE: Final = 4096
"""Bytes compared at each of the places where two stored tensors are compared."""


def same_bytes(index: CheckpointIndex, first: str, second: str) -> bool:
    """Say whether two stored tensors agree at their beginning, middle and end.

    Weights that are not the same differ within a few bytes; nothing else of a weight is ever read here. What
    is stored packed has other names, and is nothing that models tie.
    """
    one, other = index.tensors.get(first), index.tensors.get(second)
    if (
        one is None
        or other is None
        or (one.nbytes, one.dtype, one.shape) != (other.nbytes, other.dtype, other.shape)
    ):
        return False
    starts = {0, one.nbytes // 2, max(0, one.nbytes - _PROBE)}
    count = min(_PROBE, one.nbytes)
    try:
        return all(_bytes(index, one, at, count) == _bytes(index, other, at, count) for at in starts)
    except OSError:
        return False


def _bytes(index: CheckpointIndex, tensor: StoredTensor, start: int, count: int) -> bytes:
    with regular(index.file_of(tensor)).open("rb") as stream:
        stream.seek(tensor.offset + start)
        return stream.read(min(count, tensor.nbytes - start))


def index_checkpoint(path: Path, diagnostics: Diagnostics) -> CheckpointIndex | None:
    """Read the headers of a file, an index or a folder; None when ``diagnostics`` got an error."""
    before = len(diagnostics.errors)
    listed = _listed(path, diagnostics)
    if listed is None:
        return None
    files, weight_map = listed
    found = [read_header(file, number, diagnostics) for number, file in enumerate(files)]
    if len(diagnostics.errors) > before:
        return None
    tensors = [tensor for header, _ in found for tensor in header]
    for first, second in duplicated_names(tensors):
        places = f"`{files[first.file].name}` and `{files[second.file].name}`"
        message = f"`{first.path}` is in both {places}"
        diagnostics.add(Diagnostic(DUPLICATE_TENSOR, message, help="remove the file that is not part of it"))
    if weight_map is not None:
        tensors = _as_listed(path, tensors, weight_map, diagnostics)
    if not tensors and len(diagnostics.errors) == before:
        diagnostics.add(Diagnostic(EMPTY_MODEL, f"`{path}` holds no tensors"))
    if len(diagnostics.errors) > before:
        return None
    stored = tuple(StoredFile(file, size) for file, (_, size) in zip(files, found, strict=True))
    return CheckpointIndex(stored, {tensor.path: tensor for tensor in tensors})


def _listed(path: Path, diagnostics: Diagnostics) -> tuple[list[Path], dict[str, str] | None] | None:
    if path.is_dir():
        inner = _main_file(path, diagnostics)
        if inner is None:
            return None
        if isinstance(inner, list):
            return inner, None
        path = inner
    if not path.exists():
        diagnostics.add(Diagnostic(MISSING_INPUT, f"there is no `{path}`"))
        return None
    if path.name.endswith(_PICKLES):
        message = f"`{path}` is a pickle, which runs code when read"
        diagnostics.add(Diagnostic(UNKNOWN_INPUT, message, help=_SAVE))
        return None
    return _shards(path, diagnostics) if path.name.endswith(".json") else ([path], None)


def _main_file(folder: Path, diagnostics: Diagnostics) -> Path | list[Path] | None:
    """Choose what to read in a folder: an index, the one file, or all shards of one series."""
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        diagnostics.add(unreadable_input(folder, error))
        return None
    indexes = [name for name in names if name.endswith(INDEX_SUFFIX)]
    files = [name for name in names if name.endswith(".safetensors")]
    usual = [name for name in _USUAL if name in names]
    best = usual[0] if usual else indexes[0] if len(indexes) == 1 else None
    twins = [
        name for name in usual[1:] if best is not None and name.partition(".")[0] == best.partition(".")[0]
    ]
    if twins:
        message = f"`{folder}` holds the model twice: `{best}`, which is used, and `{twins[0]}`"
        help_ = f"name the other if it is meant: `{folder / twins[0]}`"
        diagnostics.add(Diagnostic(SEVERAL_SAVES, message, help=help_))
    if best is not None:
        return folder / best
    if indexes:
        _several(folder, indexes, diagnostics)
        return None
    if not files:
        _nothing_here(folder, names, diagnostics)
        return None
    series = {match[1] if (match := _SHARD.fullmatch(name)) else name for name in files}
    if len(series) > 1:
        _several(folder, files, diagnostics)
        return None
    return _whole_series(folder, files, diagnostics)


def gguf_instead(path: Path) -> Diagnostic:
    """Return the finding that a file in llama.cpp's format is no checkpoint to load from."""
    return Diagnostic(UNKNOWN_INPUT, f"`{path}` is in llama.cpp's own format, not in safetensors", help=_GGUF)


def _several(folder: Path, names: list[str], diagnostics: Diagnostics) -> None:
    message = f"`{folder}` holds {len(names)} files that could be the model: {in_words(names, 4)}"
    diagnostics.add(
        Diagnostic(AMBIGUOUS_INPUT, message, help=f"name the one you mean: `{pasted(folder / names[0])}`")
    )


def _whole_series(folder: Path, files: list[str], diagnostics: Diagnostics) -> list[Path] | None:
    match = _SHARD.fullmatch(files[0])
    if match is not None and len(files) != int(match[3]) <= 99_999:
        there = {int(m[2]) for name in files if (m := _SHARD.fullmatch(name))}
        gone = next(n for n in range(1, int(match[3]) + 2) if n not in there)
        message = f"`{folder}` holds {len(files)} of {int(match[3])} shards"
        missing = f"{match[1]}-{gone:05d}-of-{match[3]}.safetensors is missing"
        diagnostics.add(
            Diagnostic(MISSING_SHARD, message, notes=(missing,), help="download the missing files")
        )
        return None
    return [folder / name for name in files]


def _nothing_here(folder: Path, names: list[str], diagnostics: Diagnostics) -> None:
    pickles = [name for name in names if name.endswith(_PICKLES)]
    packed = [name for name in names if name.lower().endswith(".gguf")]
    notes = [f"`{pickles[0]}` is a pickle, which runs code when read"] if pickles else []
    notes += [f"`{packed[0]}` is in llama.cpp's own format"] if packed else []
    help_ = _SAVE if pickles else _GGUF if packed else "download or save the weights into it"
    message = f"`{folder}` holds no safetensors file"
    diagnostics.add(Diagnostic(UNKNOWN_INPUT, message, notes=tuple(notes), help=help_))


def _shards(path: Path, diagnostics: Diagnostics) -> tuple[list[Path], dict[str, str]] | None:
    weight_map = _weight_map(path, diagnostics)
    if weight_map is None:
        return None
    names = sorted(set(weight_map.values()))
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles:
        notes = (f"`{pickles[0]}` is a pickle, which runs code when read",)
        message = f"`{path}` lists files that are not safetensors"
        diagnostics.add(Diagnostic(UNKNOWN_INPUT, message, notes=notes, help=_SAVE))
        return None
    outside = [name for name in names if not _stays_inside(name)]
    if outside:
        message = f"`{path}` names `{outside[0][:120]}`, which is outside its folder"
        diagnostics.add(Diagnostic(PATH_OUTSIDE_FOLDER, message, help="list shards by their plain file name"))
        return None
    files = [path.parent / name for name in names]
    missing = [file for file in files if not file.exists()]
    if missing:
        gone = in_words((file.name for file in missing), 3)
        message = f"{len(missing)} of {len(files)} shards of `{path}` are missing: {gone}"
        diagnostics.add(Diagnostic(MISSING_SHARD, message, help="download the missing files"))
        return None
    return files, weight_map


def _weight_map(path: Path, diagnostics: Diagnostics) -> dict[str, str] | None:
    try:
        content = _bounded_json(path)
    except OSError as error:
        diagnostics.add(unreadable_input(path, error))
        return None
    except (ValueError, RecursionError) as error:
        diagnostics.add(Diagnostic(INVALID_INDEX, f"`{path}` is not an index of shards: {error}"))
        return None
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if isinstance(weight_map, dict) and all(isinstance(file, str) for file in weight_map.values()):
        return weight_map
    message = f"`{path}` is not an index of shards: no `weight_map` from names to files"
    diagnostics.add(Diagnostic(INVALID_INDEX, message))
    return None


def _bounded_json(path: Path) -> object:
    if path.stat().st_size > _MAX_INDEX:
        raise ValueError("it is larger than 1GiB")
    return read_foreign_json(path)


def _stays_inside(name: str) -> bool:
    """Say whether a listed name is a plain relative path; links are followed, as caches are full of them."""
    parts = PurePosixPath(name).parts
    absolute = name.startswith("/") or "\\" in name or ":" in name or "\0" in name
    return bool(parts) and not absolute and ".." not in parts


def _as_listed(
    path: Path,
    tensors: list[StoredTensor],
    weight_map: dict[str, str],
    diagnostics: Diagnostics,
) -> list[StoredTensor]:
    """Return the tensors of the shards an index lists, which are read whole; report where the two differ."""
    there = {tensor.path for tensor in tensors}
    gone = [name for name in weight_map if name not in there]
    extra = [tensor for tensor in tensors if tensor.path not in weight_map]
    if gone:
        message = f"`{path}` lists {len(gone)} tensors its shards do not hold: {in_words(gone, 3)}"
        help_ = "write the index again, or download shard and index from one place"
        diagnostics.add(Diagnostic(MISSING_TENSOR, message, help=help_))
    if extra:
        shown = in_words((tensor.path for tensor in extra), 3)
        message = f"the shards of `{path}` hold {len(extra)} tensors it does not list: {shown}"
        notes = ("they are part of the model, as shards are read whole",)
        diagnostics.add(Diagnostic(UNLISTED_TENSOR, message, notes=notes))
    return tensors
