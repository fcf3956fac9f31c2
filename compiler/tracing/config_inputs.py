"""Inputs made from a transformers config: what the forward asks for, in the sizes the config gives."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from .nesting import Untyped

DEFAULT_SEQ: Final = 128


@dataclass(frozen=True, slots=True)
class Request:
    """What the inputs are made for."""

    config: Untyped
    batch: int
    seq: int

    def find(self, *names: str, default: int) -> int:
        """Return the first integer of these names in the config or the configs inside it."""
        for config in _configs(self.config):
            for name in names:
                value = getattr(config, name, None)
                if isinstance(value, list | tuple) and value and isinstance(value[0], int):
                    value = value[0]
                if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                    return value
        return default


def _configs(config: Untyped) -> list[Untyped]:
    """Return a config and those inside it, the ones for pictures, sound and text first."""
    first = ("vision_config", "audio_config", "text_config", "encoder", "decoder", "backbone_config")
    named = [getattr(config, name, None) for name in first]
    others = [item for name, item in vars(config).items() if name not in first]
    return [config, *(item for item in (*named, *others) if hasattr(item, "model_type"))]


def inputs_from_config(model: nn.Module, *, batch: int, seq: int | None) -> Iterator[dict[str, Untyped]]:
    """Yield keyword arguments for the model's forward, the ones that reach most of it first.

    A signature does not tell everything (a picture may need its tokens in the text, features may have
    time first), so there is more than one guess; the first that runs is the one to take.
    """
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "model_type"):
        return
    request = Request(config, batch, _length(config, seq))
    parameters = inspect.signature(model.forward).parameters
    wanted = _wanted(model, parameters)
    media = [name for name in _MEDIA if name in parameters and name not in wanted]
    tried: list[list[str]] = []
    for names in ([*wanted, *media], wanted, [*wanted, *media[:1]], [n for n in _MAKERS if n in parameters]):
        if names and names not in tried:
            tried.append(names)
            made = {name: _MAKERS[name](request) for name in names}
            yield made
            yield from _variants(request, made)
    if wanted and getattr(config, "use_cache", False):
        yield {**{name: _MAKERS[name](request) for name in wanted}, "use_cache": False}
    dummy = getattr(model, "dummy_inputs", None)
    if isinstance(dummy, dict) and set(dummy) <= set(parameters):
        yield dummy


def _variants(request: Request, made: Mapping[str, Tensor]) -> Iterator[dict[str, Untyped]]:
    """Yield the same arguments with one of them in another of the shapes it is known to have."""
    for name, makers in _OTHER_SHAPES.items():
        if name in made:
            yield from ({**made, name: maker(request)} for maker in makers)


def _length(config: Untyped, seq: int | None) -> int:
    if seq is not None:
        return seq
    limits = [getattr(item, "max_position_embeddings", None) for item in _configs(config)]
    return min([DEFAULT_SEQ, *(limit for limit in limits if isinstance(limit, int) and limit > 0)])


def _wanted(model: nn.Module, parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    """Return the arguments to pass: the main input, those without a default, and decoder tokens."""
    main = getattr(model, "main_input_name", "input_ids")
    wanted = [main] if isinstance(main, str) and main in parameters else []
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and parameter.kind in _NAMED:
            wanted.append(name)
    config = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in parameters:
        wanted.append("decoder_input_ids")
    if "pixel_values" in wanted and "input_ids" in parameters:
        wanted.append("input_ids")
    return [name for name in dict.fromkeys(wanted) if name in _MAKERS]


_NAMED: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _ordinary_token(request: Request) -> int:
    """Return a token that is not special: padding and image tokens take other paths."""
    special = {
        value
        for config in _configs(request.config)
        for name, value in vars(config).items()
        if name.endswith(("_token_id", "_token_index")) and isinstance(value, int)
    }
    return next(token for token in range(len(special) + 1) if token not in special)


def _tokens(request: Request) -> Tensor:
    return torch.full((request.batch, request.seq), _ordinary_token(request), dtype=torch.int64)


def _mask(request: Request) -> Tensor:
    return torch.ones(request.batch, request.seq, dtype=torch.int64)


def _boxes(request: Request) -> Tensor:
    return torch.zeros(request.batch, request.seq, 4, dtype=torch.int64)


def _image(request: Request) -> Tensor:
    side = request.find("image_size", "input_size", default=224)
    channels = request.find("num_channels", "in_channels", "in_chans", default=3)
    return torch.empty(request.batch, channels, side, side, device="meta")


def _video(request: Request) -> Tensor:
    side = request.find("image_size", "crop_size", "input_size", default=224)
    frames = request.find("num_frames", "frames_per_clip", default=8)
    channels = request.find("num_channels", "in_chans", default=3)
    return torch.empty(request.batch, frames, channels, side, side, device="meta")


def _wave(request: Request) -> Tensor:
    return torch.empty(request.batch, 16_000, device="meta")


def _features(request: Request) -> Tensor:
    bins = request.find("num_mel_bins", "feature_size", "input_feat_per_channel", "n_mels", default=80)
    frames = 2 * request.find("max_source_positions", default=1500)
    return torch.empty(request.batch, bins, frames, device="meta")


def _features_by_time(request: Request) -> Tensor:
    return _features(request).transpose(1, 2)


def _square_features(request: Request) -> Tensor:
    bins = request.find("num_mel_bins", default=64)
    return torch.empty(request.batch, 1, request.find("spec_size", default=1024), bins, device="meta")


def _spectrogram(request: Request) -> Tensor:
    bins = request.find("num_mel_bins", default=128)
    return torch.empty(request.batch, request.find("max_length", default=1024), bins, device="meta")


def _wave_in_channels(request: Request) -> Tensor:
    channels = request.find("audio_channels", "channels", default=1)
    return torch.empty(request.batch, channels, 16_000, device="meta")


def _two_images(request: Request) -> Tensor:
    image = _image(request)
    return torch.empty(image.shape[0], 2, *image.shape[1:], device="meta")


def _grid(_request: Request) -> Tensor:
    return torch.tensor([[1, _PATCHES, _PATCHES]])


def _patches(request: Request) -> Tensor:
    side = request.find("patch_size", default=14)
    channels = request.find("in_channels", "num_channels", "in_chans", default=3)
    frames = request.find("temporal_patch_size", default=1)
    return torch.empty(_PATCHES * _PATCHES, channels * frames * side * side, device="meta")


def _row_of_features(request: Request) -> Tensor:
    bins = request.find("num_mel_bins", default=80)
    return torch.empty(request.batch, request.seq, bins, device="meta")


_PATCHES: Final = 16
_OTHER_SHAPES: Final[dict[str, tuple[Callable[[Request], Tensor], ...]]] = {
    "input_features": (_features_by_time, _row_of_features, _square_features),
    "input_values": (_wave_in_channels, _spectrogram),
    "pixel_values": (_video, _two_images, _patches),
}
_MEDIA: Final = ("pixel_values", "input_features", "input_values")
_MAKERS: Final[dict[str, Callable[[Request], Tensor]]] = {
    "attention_mask": _mask,
    "bbox": _boxes,
    "decoder_input_ids": _tokens,
    "grid_thw": _grid,
    "hidden_states": _patches,
    "image_grid_thw": _grid,
    "input_features": _features,
    "input_ids": _tokens,
    "input_values": _wave,
    "pixel_values": _image,
    "pixel_values_videos": _video,
    "token_type_ids": _mask,
}
