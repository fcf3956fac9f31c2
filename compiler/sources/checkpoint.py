"""A safetensors checkpoint as a plan: from the headers alone, without torch, no weights read.

Dtypes and bytes are exactly those of the files. ``config.json`` beside them, if there is one, tells
the class and whether a missing head is tied to the embedding.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from ...ir import Atomic, Diagnostics, Model, Plan
from .checkpoint_index import CheckpointIndex, index_checkpoint
from .live import paused_collection
from .named_tensors import PLAIN_CLASS, NamedTensor, tree_of_tensors

_EMBEDDINGS: Final = (
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "tok_embeddings.weight",
    "embed_in.weight",
    "shared.weight",
    "embeddings.weight",
)
_HEADS: Final = {"whisper": "proj_out.weight"}
"""Heads that are not called ``lm_head``, by model type."""
_HEADED: Final = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def read_checkpoint(path: str | Path, diagnostics: Diagnostics) -> tuple[Plan, CheckpointIndex]:
    """Return the lowered plan of a checkpoint and where each of its tensors is.

    ``path`` is a ``.safetensors`` file, a ``.safetensors.index.json``, or a folder with either. The
    plan has no digest: a file does not tell the buffers a constructor makes, so the digest of its
    tree would never be that of the live model.

    Raises:
        PlanError: the checkpoint cannot be read; all that is wrong with its files is named.

    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    name = path.resolve().name if path.is_dir() else path.name.partition(".safetensors")[0]
    with paused_collection():
        index = index_checkpoint(path, diagnostics)
        diagnostics.raise_errors()
        assert index is not None  # noqa: S101  # an index is missing only with an error
        return lower_tensors(name or "model", _named(index), read_config(folder / "config.json")), index


def _named(index: CheckpointIndex) -> list[NamedTensor]:
    return [NamedTensor(t.path, t.dtype, t.shape, t.nbytes) for t in index.tensors.values()]


def lower_tensors(name: str, tensors: Iterable[NamedTensor], config: Mapping[str, object]) -> Plan:
    """Return the plan of a model known by its tensors and, perhaps, its configuration."""
    listed = list(tensors)
    ties = _tied_head(listed, config)
    by_path = {tensor.path: tensor for tensor in listed}
    listed += [by_path[embedding]._replace(path=head) for head, embedding in ties.items()]
    tree, blocks = tree_of_tensors(listed, root_class=_architecture(config) or PLAIN_CLASS, ties=ties)
    constraints = tuple(Atomic(kind, by_class=True) for kind in blocks)
    return Plan(model=Model(name), constraints=constraints, tree=tree)


def read_config(path: Path) -> dict[str, object]:
    """Return a model's configuration; empty when there is none that can be read."""
    try:
        if path.stat().st_size > 16 << 20:
            return {}
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _architecture(config: Mapping[str, object]) -> str | None:
    match config.get("architectures"):
        case [str(name), *_] if name.isidentifier():
            return name
        case _:
            return None


def _tied_head(tensors: list[NamedTensor], config: Mapping[str, object]) -> dict[str, str]:
    """Return the head a language model ties to its embedding, if the file leaves it out."""
    architecture = _architecture(config)
    if architecture is None or not architecture.endswith(_HEADED) or not _ties_words(config):
        return {}
    paths = [tensor.path for tensor in tensors]
    if any(path.rpartition(".")[0].endswith(("lm_head", "embed_out")) for path in paths):
        return {}
    embedding = min((path for path in paths if path.endswith(_EMBEDDINGS)), default=None, key=_depth)
    if embedding is None:
        return {}
    head = _HEADS.get(str(config.get("model_type")), _head_of(embedding))
    return {} if head in paths else {head: embedding}


def _depth(path: str) -> tuple[int, str]:
    return path.count("."), path


def _ties_words(config: Mapping[str, object]) -> bool:
    """Say whether the configuration ties words; silence does, as a model without a head could not run."""
    text = config.get("text_config")
    nested = text.get("tie_word_embeddings", True) if isinstance(text, dict) else True
    return config.get("tie_word_embeddings", nested) is True


def _head_of(embedding: str) -> str:
    """Return ``lm_head.weight`` for ``model.embed_tokens.weight``: beside the outermost ``model``."""
    outer = embedding.partition(".")[0]
    beside = f"{outer}." if embedding.startswith(f"{outer}.model.") else ""
    return f"{beside}lm_head.weight"
