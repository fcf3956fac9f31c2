"""Arguments made from what the documentation of a forward says of them: a type and a shape by name.

``visual_feats (`torch.FloatTensor` of shape `(batch_size, num_visual_features, visual_feat_dim)`)``: a size
with the name of a field of the config is that field, others are known by what they usually mean.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from ...running.nesting import Untyped
from .guesses import InputsFor

_SHAPE: Final = r"^\s*\w+ \(.*?shape\s*`?[(\[]([^)\]]*)[)\]]"
_WHOLE: Final = re.compile(r"\.(Long|Int|Bool)Tensor")
_WHOLE_NAMES: Final = ("_ids", "_id", "_index", "_idx", "_mask", "_type", "_codes", "_shapes", "_labels")


def described(forward: Callable[..., Untyped], name: str, request: InputsFor) -> Tensor | int | None:
    """Return an argument as the forward describes it; None for what is no tensor and no number."""
    parameter = inspect.signature(forward).parameters[name]
    kind = str(parameter.annotation)
    line = _described_line(forward, name)
    if parameter.annotation in {int, "int"}:
        return request.find(name, default=1)
    if parameter.annotation is not parameter.empty and "Tensor" not in kind:
        return None
    shape = _shape(line, request) if line else None
    if shape is None:
        shape = (request.batch, request.seq) if _is_whole(name, kind, line) else _usual(request)
    if _is_whole(name, kind, line):
        return torch.ones(shape, dtype=torch.bool if "BoolTensor" in kind + line else torch.int64)
    return request.empty(*shape)


def says_shape(forward: Callable[..., Untyped], name: str) -> bool:
    """Say whether the forward tells the shape of an argument."""
    return re.search(_SHAPE, _described_line(forward, name)) is not None


def _described_line(forward: Callable[..., Untyped], name: str) -> str:
    documentation = inspect.getdoc(forward) or ""
    found = re.search(rf"^\s*{name} \([^\n]*", documentation, re.MULTILINE)
    return found[0] if found else ""


def _is_whole(name: str, kind: str, line: str) -> bool:
    if _WHOLE.search(kind) or _WHOLE.search(line):
        return True
    return name.endswith(_WHOLE_NAMES) and "FloatTensor" not in kind


def _usual(request: InputsFor) -> tuple[int, ...]:
    return (request.batch, request.seq, _width(request))


def _width(request: InputsFor) -> int:
    return request.find("hidden_size", "d_model", "embed_dim", "encoder_hidden_size", default=64)


def _shape(line: str, request: InputsFor) -> tuple[int, ...] | None:
    found = re.search(_SHAPE, line)
    if found is None:
        return None
    return tuple(_size(part.strip(" `"), request) for part in found[1].split(",") if part.strip(" `"))


def _size(word: str, request: InputsFor) -> int:
    """Return the size that a word for it stands for."""
    if word.isdigit():
        return int(word)
    name = word.rpartition(".")[2].replace("config", "").strip()
    lags = request.numbers("lags_sequence")
    if name == "sequence_length" and lags:
        return request.find("context_length", "prediction_length", default=request.seq) + max(lags)
    if (known := request.find(name, *_ALIASES.get(name, ()), default=0)) > 0:
        return known
    if any(getattr(request.config, other, None) == 0 for other in _ALIASES.get(name, ())):
        return 0
    if name in _COUNTED:
        return request.batch if name in _BATCH else 1
    return _width(request) if name.endswith(("dim", "size", "width")) else request.seq


_BATCH: Final = ("batch", "batch_size", "bs")
_COUNTED: Final = (*_BATCH, "num_images", "num_videos", "num_audios", "num_questions")
_ALIASES: Final[dict[str, tuple[str, ...]]] = {
    "num_features": ("num_time_features",),
    "state_dim": ("max_state_dim",),
    "height": ("image_size",),
    "width": ("image_size",),
    "num_input_channels": ("num_input_channels", "input_size"),
    "sequence_length": ("context_length",),
    "hidden_size": ("d_model", "embed_dim"),
    "embed_dim": ("hidden_size", "d_model"),
    "dim": ("hidden_size",),
}
