"""A safetensors checkpoint as a plan, from its headers; torch is opened only where nothing else tells.

``config.json`` beside the files, if there is one, tells the class. The plan of a class that transformers
has is in the names, dtypes and ties of the model that transformers makes of the files; otherwise names,
dtypes and bytes are exactly those of the files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from ...ir import Atomic, Diagnostic, Diagnostics, Model, Plan
from ...ir.rules.configs import UNBUILT_LAYERS
from ...ir.rules.sources import UNKNOWN_CACHE
from ...ir.wording import in_words
from .checkpoint_index import CheckpointIndex, index_checkpoint, same_bytes
from .config_numbers import in_dtype_of, type_named
from .config_work import config_work
from .foreign_json import read_foreign_json
from .known_classes import architecture, is_known, known_class, with_class
from .live import paused_collection
from .model_names import beside_packed, is_quantised, model_dtype, named_as_model, unbuilt_layers
from .named_tensors import PLAIN_CLASS, NamedTensor, tree_of_tensors
from .unpacking import stays_packed, unpacked, without_packing

_EMBEDDINGS: Final = (
    ".embed_tokens.weight",
    ".wte.weight",
    ".word_embeddings.weight",
    ".tok_embeddings.weight",
    ".embed_in.weight",
    ".shared.weight",
    ".embeddings.weight",
)
_BERTS: Final = ("bert", "big_bird", "ernie", "megatron-bert", "mobilebert", "roc_bert", "roformer")
_ROBERTAS: Final = ("camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xmod")
_HEADS: Final = {
    **dict.fromkeys(_BERTS, "cls.predictions.decoder.weight"),
    **dict.fromkeys((*_ROBERTAS, "xlm-roberta-xl"), "lm_head.decoder.weight"),
    "albert": "predictions.decoder.weight",
    "biogpt": "output_projection.weight",
    "convbert": "generator_lm_head.weight",
    "distilbert": "vocab_projector.weight",
    "electra": "generator_lm_head.weight",
    "flaubert": "pred_layer.proj.weight",
    "modernbert-decoder": "decoder.weight",
    "whisper": "proj_out.weight",
    "xlm": "pred_layer.proj.weight",
    "xlnet": "lm_loss.weight",
}
"""Heads that are not called ``lm_head``, by model type."""
_HEADED: Final = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_MASKED: Final = ("ForMaskedLM", "ForPreTraining")
"""Classes with a head only where its name is known."""


def read_checkpoint(
    path: str | Path,
    diagnostics: Diagnostics,
    *,
    cache_tokens: int | None = None,
    batch: int = 1,
    read: int | None = None,
    written: int | None = None,
    dtype: str | None = None,
    kinds: Collection[str] | None = None,
) -> tuple[Plan, CheckpointIndex]:
    """Return the lowered plan of a checkpoint and where each of its tensors is.

    ``path`` is a ``.safetensors`` file, a ``.safetensors.index.json``, or a folder with either. The
    plan has no digest: a file does not tell the buffers a constructor makes, so the digest of its
    tree would never be that of the live model. With ``cache_tokens`` the plan demands room for the KV
    cache of ``batch`` requests that long; ``read`` is how long their prompts are, ``written``
    what they write if that tells how long a decoder's cache is. ``dtype`` is what weights are loaded as, if
    not what the folder says; ``kinds`` are those of the devices: None leaves packed weights packed.

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
        said = read_config(folder / "config.json")
        config = in_dtype_of(said, dtype or model_dtype(said, index.tensors.values()))
        plan = _lowered(name or "model", folder, index, config, diagnostics, dtype=dtype, kinds=kinds)
    if cache_tokens is not None:
        plan = with_cache(plan, config, cache_tokens, batch, diagnostics, read=read, written=written)
    assert plan.tree is not None  # noqa: S101  # lowering gives a tree
    return replace(plan, work=config_work(config, plan.tree)), index


def _lowered(
    name: str,
    folder: Path,
    index: CheckpointIndex,
    config: Mapping[str, object],
    diagnostics: Diagnostics,
    *,
    dtype: str | None,
    kinds: Collection[str] | None,
) -> Plan:
    """Lower by the table of known classes, by building the class, or by the names in the files."""
    tensors, config = _named(index), with_class(config, index.tensors)
    asked, dtype = dtype, model_dtype(config, tensors)
    if kinds is not None and not stays_packed(config, kinds):
        tensors, config = unpacked(tensors, config, dtype or "bfloat16"), without_packing(config)
    known = known_class(config, index.tensors) if is_known(config) else None
    if not is_known(config) or is_quantised(config, tensors):
        tensors = beside_packed(tensors, config, known, dtype if is_known(config) else asked)
        unbuilt = unbuilt_layers((t.path for t in tensors), config) if is_known(config) else set[str]()
        if unbuilt:
            diagnostics.add(_unbuilt(name, sorted(unbuilt), architecture(config)))
        plan = lower_tensors(name, [t for t in tensors if t.path not in unbuilt], config)
        return _whole_parts(plan) if "_class_name" in config else plan
    if known is None:
        from .built_class import lower_built

        built = lower_built(name, folder, index, tensors, dtype, diagnostics)
        return lower_tensors(name, tensors, config) if built is None else built
    named = named_as_model(tensors, known, config, partial(same_bytes, index))
    if named is None:
        return lower_tensors(name, tensors, config)
    if named.unbuilt:
        diagnostics.add(_unbuilt(name, named.unbuilt, known.name))
    return lower_named(name, named.tensors, named.ties, known.name)


def _whole_parts(plan: Plan) -> Plan:
    """Keep whole what a model of diffusers calls as one: its children, and the members of its lists.

    Inside of those, results are added to what came in; without diffusers nothing else tells.
    """
    tree = plan.tree
    assert tree is not None  # noqa: S101  # lowering gives a tree
    paths: list[str] = []
    for child in tree.children(0):
        members = [tree.paths[member] for member in tree.children(child)]
        numbered = bool(members) and all(path.rpartition(".")[2].isdigit() for path in members)
        paths += members if numbered else [tree.paths[child]] if members else []
    return replace(plan, constraints=(*plan.constraints, *never_split(paths)))


def _unbuilt(name: str, paths: Sequence[str], kind: str | None) -> Diagnostic:
    modules = sorted({".".join(path.split(".")[:3]) for path in paths})
    left = in_words(modules, 3)
    message = f"`{name}` holds {len(paths)} tensors of layers that `{kind}` does not build: {left}"
    return Diagnostic(UNBUILT_LAYERS, message, notes=("they are left out of the plan",))


def folder_dtype(folder: Path, diagnostics: Diagnostics) -> str | None:
    """Return the dtype transformers loads a folder in: the configuration's, else that of the first float.

    Raises:
        PlanError: the weights of the folder have to be asked and cannot be read.

    """
    config = read_config(folder / "config.json")
    said = model_dtype(config, [])
    if said is not None:
        return said
    index = index_checkpoint(folder, diagnostics)
    diagnostics.raise_errors()
    return model_dtype(config, [] if index is None else _named(index))


def with_cache(
    plan: Plan,
    config: Mapping[str, object],
    tokens: int,
    batch: int,
    diagnostics: Diagnostics,
    read: int | None = None,
    written: int | None = None,
) -> Plan:
    """Return a lowered plan that demands room for its KV cache; a finding where nothing tells how much."""
    from .config_cache import cache_of_config

    assert plan.tree is not None  # noqa: S101  # lowering gives a tree
    read = None if read is None else min(read, tokens)  # a shorter cache was asked for than the prompt fills
    demands = cache_of_config(config, plan.tree, tokens, batch, read=read, written=written)
    if not demands:
        diagnostics.add(unknown_cache(plan.model.name))
    return replace(plan, demands=plan.demands + demands)


def unknown_cache(name: str) -> Diagnostic:
    """Return what is said where nothing tells the size of a cache."""
    message = f"nothing in `{name}` tells how large its KV cache is, so none is planned"
    return Diagnostic(UNKNOWN_CACHE, message, help="say how much with `--kv-cache 2GiB`")


def _named(index: CheckpointIndex) -> list[NamedTensor]:
    return [NamedTensor(t.path, t.dtype, t.shape, t.nbytes) for t in index.tensors.values()]


def lower_tensors(name: str, tensors: Iterable[NamedTensor], config: Mapping[str, object]) -> Plan:
    """Return the plan of a model known by its tensors and, perhaps, its configuration."""
    listed = list(tensors)
    ties = _tied(listed, config)
    by_path = {tensor.path: tensor for tensor in listed}
    listed += [by_path[tensor]._replace(path=path) for path, tensor in ties.items()]
    return lower_named(name, listed, ties, architecture(config))


def lower_named(
    name: str, tensors: Iterable[NamedTensor], ties: Mapping[str, str], class_name: str | None
) -> Plan:
    """Return the plan of a model whose tensors, second names of tied ones included, are known."""
    tree, whole = tree_of_tensors(tensors, root_class=class_name or PLAIN_CLASS, ties=ties)
    return Plan(model=Model(name), constraints=never_split(whole), tree=tree)


def never_split(patterns: Iterable[str]) -> tuple[Atomic, ...]:
    """Return the rules that keep blocks whole; they are the compiler's, not a person's."""
    return tuple(Atomic(pattern, added=True) for pattern in patterns)


def read_config(path: Path) -> dict[str, object]:
    """Return a model's configuration; empty when there is none that can be read."""
    try:
        if path.stat().st_size > 16 << 20:
            return {}
        config = read_foreign_json(path)
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _tied(tensors: list[NamedTensor], config: Mapping[str, object]) -> dict[str, str]:
    """Return what a language model ties to its embedding and the files leave out."""
    kind, known = architecture(config) or "", _HEADS.get(type_named(config))
    headed = kind.endswith(_HEADED) or (known is not None and kind.endswith(_MASKED))
    paths = {tensor.path for tensor in tensors}
    embedding = min((path for path in paths if f".{path}".endswith(_EMBEDDINGS)), default=None, key=_depth)
    if embedding is None:
        return {}
    shared = dict.fromkeys(_readers(embedding, paths), embedding)
    if not headed or not _ties_words(config):
        return shared
    if known is None and any(p.rpartition(".")[0].endswith(("lm_head", "embed_out")) for p in paths):
        return shared
    head = known or _head_of(embedding)
    inner, outer = f"{head.removesuffix('.weight')}.bias", f"{head.rsplit('.', 2)[0]}.bias"
    biases = {inner: outer} if outer in paths and inner not in paths and known is not None else {}
    return {**shared, **biases, **({} if head in paths else {head: embedding})}


def _readers(embedding: str, paths: set[str]) -> Iterator[str]:
    """Yield the embeddings of encoder and decoder, where a file holds the one they share."""
    beside, name, _ = embedding.rpartition("shared.weight")
    if not name:
        return
    for part in ("encoder", "decoder"):
        inside = [path for path in paths if path.startswith(f"{beside}{part}.")]
        reader = f"{beside}{part}.embed_tokens.weight"
        if inside and reader not in inside:
            yield reader


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
