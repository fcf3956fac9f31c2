"""The tensors of a file as the model has them: its names, its dtypes, its ties; from names and shapes alone.

What transformers' class would do on loading is done to the names: prefixes change, experts stored one by
one become one tensor, words are tied, and what the class has no use for is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Final, NamedTuple, TypeAlias

from .config_numbers import WIDTHS, dtype_named, first_told, quantisation_of
from .described_models import described_model
from .known_classes import KnownClass, NameRule
from .named_tensors import NamedTensor
from .safetensors_header import StoredTensor
from .unpacking import method_of

Same: TypeAlias = Callable[[str, str], bool]
"""Says whether two stored tensors, by their stored names, have the same values."""

_PACKED: Final = frozenset({"int8", "uint8", "int32"})
_HALVES: Final = ("float16", "bfloat16")
_MADE_AGAIN: Final = re.compile(r"rotary_emb\.inv_freq$|(?:^|\.)position_ids$")
"""What old checkpoints hold and constructors make."""
_SHARED: Final = re.compile(
    r"(?:^|[._])(?:scales?|q?zeros?|zero_point|absmax|map|SCB|qdata|qbiases)(?:$|[._])"
)
"""Numbers that packed weights share: their dtype is their method's."""
_WIDE: Final = {"mxfp4": re.compile(r"experts\.\w+_bias$")}
"""What a method's own modules have in float32 beside packed weights."""
_LAYER: Final = re.compile(r"^(?:model\.)?layers\.(\d+)\.")
_MEMBER: Final = re.compile(r"^((?:[A-Za-z_]\w*\.)*?(?:layers?|h|blocks?)\.)(\d+)\.")
"""A member of the outermost list of layers a name is in."""
_COUNTS: Final = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_DRAFT: Final = re.compile(r"^(?:model\.)?mtp(?:_layers)?\.")
_READERS: Final = "embed_tokens.weight"


class Named(NamedTuple):
    """The tensors of a model known by its file."""

    tensors: list[NamedTensor]
    ties: dict[str, str]
    """Path of a tensor, and of the one whose storage it shares."""
    unbuilt: tuple[str, ...]
    """Stored names of layers the class does not build."""


class _Converted(NamedTuple):
    """Tensors by the model's name, and the stored name of those that are only renamed."""

    tensors: dict[str, NamedTensor]
    stored: dict[str, str]


def named_as_model(
    tensors: Sequence[NamedTensor], known: KnownClass, config: Mapping[str, object], same: Same
) -> Named | None:
    """Return the tensors a class makes of those in a file; None if the file is not one of that class."""
    converted = _converted(tensors, known)
    if known.ties and converted.tensors.keys().isdisjoint((*known.ties, *known.ties.values())):
        return None
    foreign = _foreign(converted.tensors, known, config) | unbuilt_layers(converted.tensors, config)
    unbuilt = tuple(path for path in converted.tensors if path in foreign)
    dropped = {path for path in converted.tensors if _is_dropped(path, known)}.union(unbuilt)
    kept = {path: tensor for path, tensor in converted.tensors.items() if path not in dropped}
    dtype = model_dtype(config, tensors)
    cast = {path: _cast(tensor, dtype, known) for path, tensor in kept.items()}
    ties = dict(_ties(cast, known, config, converted.stored, same))
    missing = [cast[source]._replace(path=path) for path, source in ties.items() if path not in cast]
    return Named([*cast.values(), *missing], ties, unbuilt)


def unbuilt_layers(paths: Iterable[str], config: Mapping[str, object]) -> set[str]:
    """Return the names of layers that the model does not build: drafts, and those behind the last one."""
    listed = tuple(paths)
    return behind_the_last(listed, config).union(path for path in listed if is_draft(path, config))


def is_draft(path: str, config: Mapping[str, object]) -> bool:
    """Say whether a tensor is of a layer for speculation: behind the last one the model builds."""
    layers, match = config.get("num_hidden_layers"), _LAYER.match(path)
    beyond = match is not None and isinstance(layers, int) and int(match[1]) >= layers
    return beyond or _DRAFT.match(path) is not None


def behind_the_last(paths: Iterable[str], config: Mapping[str, object]) -> set[str]:
    """Return the names of layers behind the last one the model builds, where all layers are one stack."""
    count, matches = first_told(config, _COUNTS), {path: _MEMBER.match(path) for path in paths}
    found = {path: match for path, match in matches.items() if match is not None}
    if count is None or len({match[1] for match in found.values()}) != 1:
        return set()
    return {path for path, match in found.items() if int(match[2]) >= count}


def is_quantised(config: Mapping[str, object], tensors: Sequence[NamedTensor]) -> bool:
    """Say whether weights are packed, so that their names, shapes and dtypes are those of no plain class."""
    return bool(quantisation_of(config)) or any(
        tensor.dtype.startswith(("float8", "float4")) or (tensor.dtype in _PACKED and len(tensor.shape) > 1)
        for tensor in tensors
    )


def model_dtype(config: Mapping[str, object], tensors: Iterable[NamedTensor | StoredTensor]) -> str | None:
    """Return the dtype transformers loads with: the configuration's, else that of the first float stored."""
    said = dtype_named(config)
    first = next((tensor.dtype for tensor in tensors if tensor.dtype in WIDTHS), None)
    return said if said in WIDTHS else first


def beside_packed(
    tensors: Sequence[NamedTensor], config: Mapping[str, object], known: KnownClass | None, dtype: str | None
) -> list[NamedTensor]:
    """Return tensors by their stored names; what is not packed, nor shared by what is, in a model's dtype.

    bitsandbytes loads all that is called a weight itself, and casts nothing.
    """
    method, packed = method_of(config), is_quantised(config, tensors)
    wide = _WIDE.get(method or "")
    if method == "bitsandbytes":
        return list(tensors)
    return [
        tensor
        if packed and _SHARED.search(tensor.path)
        else _cast(tensor, "float32" if wide is not None and wide.search(tensor.path) else dtype, known)
        for tensor in tensors
    ]


def _is_dropped(path: str, known: KnownClass) -> bool:
    # Nothing is known of the model's own names, so a pattern counts from the start of a name's part only.
    unexpected = any(re.search(rf"(?<![A-Za-z0-9_])(?:{pattern})", path) for pattern in known.unexpected)
    return unexpected or _MADE_AGAIN.search(path) is not None


def _cast(tensor: NamedTensor, dtype: str | None, known: KnownClass | None) -> NamedTensor:
    if dtype is None or tensor.dtype not in WIDTHS:
        return tensor
    kept = known.always_float32 if known is not None and dtype in _HALVES else ()
    kept += known.float32 if known is not None and dtype == "float16" else ()
    if any(re.search(pattern.replace("*", ".*"), tensor.path) for pattern in kept):
        dtype = "float32"
    return tensor._replace(dtype=dtype, nbytes=prod(tensor.shape) * WIDTHS[dtype])


def _converted(tensors: Sequence[NamedTensor], known: KnownClass) -> _Converted:
    found: dict[str, NamedTensor] = {}
    stored: dict[str, str] = {}
    parts: dict[str, tuple[NameRule, list[list[NamedTensor]]]] = {}
    renamings = [rule for rule in known.rules if not rule.steps]
    mergers = [rule for rule in known.rules if rule.steps]
    names = dict(_prefixed([(_renamed(tensor.path, renamings), tensor.path) for tensor in tensors], known))
    by_name = {tensor.path: tensor for tensor in tensors}
    for name, path in names.items():
        merger, target, source = _merged(name, mergers)
        if merger is None:
            found[name] = by_name[path]._replace(path=name)
            stored[name] = path
        else:
            groups = parts.setdefault(target, (merger, [[] for _ in range(merger.sources)]))[1]
            groups[source].append(by_name[path])
    found |= {target: _put_together(target, *part) for target, part in parts.items()}
    return _Converted(found, stored)


def _renamed(name: str, rules: Sequence[NameRule]) -> str:
    for rule in rules:
        name, _ = rule.applied(name)
    return name


def _merged(name: str, rules: Sequence[NameRule]) -> tuple[NameRule | None, str, int]:
    for rule in rules:
        target, source = rule.applied(name)
        if source is not None:
            return rule, target, source
    return None, name, 0


def _prefixed(names: list[tuple[str, str]], known: KnownClass) -> Iterator[tuple[str, str]]:
    """Put the prefix of the inner model before names that all lack it, or take it off where it is too much.

    What is beside the inner model, a head, has no prefix; where it is stored so, what has its name inside is
    something else.
    """
    prefix, beside = f"{known.prefix}.", _roots(known) - {known.prefix}
    begin = sum(name.startswith(prefix) for name, _ in names)
    there = {name.partition(".")[0] for name, _ in names}
    twice = (prefix, *(f"{root}." for root in beside - there))
    for name, path in names:
        inner = name.removeprefix(prefix)
        if not known.prefix:
            yield name, path
        elif known.has_inner:
            lacks = not begin and name.partition(".")[0] not in beside
            doubled = inner != name and inner.startswith(twice)
            yield inner if doubled else prefix + name if lacks else name, path
        elif 2 * begin < len(names) or inner != name:
            yield name if 2 * begin < len(names) else inner, path  # a body has no use for the head beside it


def _roots(known: KnownClass) -> set[str]:
    """Return the first parts of the names a class is known to have."""
    tied = (path.partition(".")[0] for path in (*known.ties, *known.ties.values()))
    return {known.prefix, *known.beside, *tied}


def _foreign(paths: Iterable[str], known: KnownClass, config: Mapping[str, object]) -> set[str]:
    """Return names that are no part of the model, where that is known whole."""
    roots = _roots(known)
    odd = {path for path in paths if path.partition(".")[0] not in roots} if known.prefix else set[str]()
    described = described_model(config) if odd else None
    return set() if described is None else odd.difference(described.tree.tensor_paths)


def _put_together(target: str, rule: NameRule, groups: list[list[NamedTensor]]) -> NamedTensor:
    """Return the tensor that a rule makes of others: its shape follows from theirs, its bytes are theirs."""
    first = next(group[0] for group in groups if group)
    counts = [len(group) for group in groups if group]
    shape = list(first.shape)
    for word, dim in rule.steps:
        if word == "stack":
            shape.insert(dim, counts[0])
            counts = [1] * len(counts)
        elif dim < len(shape):
            shape[dim] *= sum(counts)
    nbytes = sum(tensor.nbytes for group in groups for tensor in group)
    return NamedTensor(target, first.dtype, tuple(shape), nbytes)


def _ties(
    tensors: Mapping[str, NamedTensor],
    known: KnownClass,
    config: Mapping[str, object],
    stored: Mapping[str, str],
    same: Same,
) -> Iterator[tuple[str, str]]:
    """Yield what the class ties, as transformers does: missing names, and equal ones if it is said."""
    said = config.get("tie_word_embeddings", known.ties_by_default) is True
    silent = "tie_word_embeddings" not in config  # a model whose head is nowhere could not run
    first = {source: source for source in known.ties.values()}
    for target, source in known.ties.items():
        if source not in tensors and target in tensors and said:
            first[source] = target  # the file holds the shared tensor under the other name
            yield source, target
    for target, source in known.ties.items():
        holder = first[source]
        if target == holder or holder not in tensors:
            continue
        if target not in tensors:
            if said or silent or target.endswith(_READERS):
                yield target, holder
        elif said and _agree(tensors[target], tensors[holder]) and same(stored[target], stored[holder]):
            yield target, holder


def _agree(one: NamedTensor, other: NamedTensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype
