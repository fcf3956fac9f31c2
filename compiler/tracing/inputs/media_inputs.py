"""Pictures, clips and sound, in the sizes a config gives and the shapes models take them in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from .guesses import InputsFor

PATCHES: Final = 24
"""Patches along each side of a picture that is given as patches."""
_WAVE: Final = 16_000


def _sides(request: InputsFor) -> tuple[int, int]:
    sides = request.numbers("image_size", "crop_size", "input_size") or (224,)
    return sides[0], sides[1 if len(sides) == 2 else 0]


def _channels(request: InputsFor) -> int:
    return request.find("num_channels", "in_channels", "in_chans", "image_channels", default=3)


def _image(request: InputsFor) -> Tensor:
    return request.empty(request.batch, _channels(request), *_sides(request))


def _large_image(request: InputsFor) -> Tensor:
    return request.empty(request.batch, _channels(request), *(4 * side for side in _sides(request)))


def _colour_image(request: InputsFor) -> Tensor:
    return request.empty(request.batch, 3, *_sides(request))


def _image_after_scaling(request: InputsFor) -> Tensor:
    """Return a picture in the size that detectors scale theirs to, whatever their backbone was trained on."""
    return request.empty(request.batch, 3, 640, 640)


def _video(request: InputsFor) -> Tensor:
    frames = request.find("num_frames", "frames_per_clip", default=8)
    return request.empty(request.batch, frames, _channels(request), *_sides(request))


def _frames_as_rows(request: InputsFor) -> Tensor:
    frames = request.find("num_frames", default=8)
    return request.empty(request.batch * frames, _channels(request), *_sides(request))


def _images(request: InputsFor, count: int) -> Tensor:
    return request.empty(request.batch, count, _channels(request), *_sides(request))


def _one_image(request: InputsFor) -> Tensor:
    return _images(request, 1)


def _two_images(request: InputsFor) -> Tensor:
    return _images(request, 2)


def _tiles(request: InputsFor) -> Tensor:
    tiles = request.find("max_num_tiles", default=1)
    return request.empty(request.batch, 1, tiles, _channels(request), *_sides(request))


def _patch_nbytes(request: InputsFor) -> int:
    side = request.find("patch_size", default=14)
    return _channels(request) * side * side


def _patches(request: InputsFor) -> Tensor:
    frames = request.find("temporal_patch_size", default=1)
    return request.empty(request.batch * PATCHES * PATCHES, _patch_nbytes(request) * frames)


def _rows_of_patches(request: InputsFor) -> Tensor:
    return request.empty(request.batch, PATCHES * PATCHES, _patch_nbytes(request))


def _tiles_of_patches(request: InputsFor) -> Tensor:
    return request.empty(request.batch, 1, PATCHES * PATCHES, _patch_nbytes(request))


def _small_patches(request: InputsFor) -> Tensor:
    side = request.find("patch_size", default=14)
    return request.empty(request.batch * PATCHES * PATCHES, _channels(request), side, side)


def _blocks_of_patches(request: InputsFor) -> Tensor:
    """Return pixels, the colours last: a block is what becomes one token, and a grid counts blocks."""
    merged = request.find("spatial_merge_size", default=1)
    frames = request.find("temporal_patch_size", default=0)
    side = merged * request.find("patch_size", default=14)
    pixels = (*((frames,) if frames else ()), side, side, _channels(request))
    return request.empty(request.batch * PATCHES * PATCHES, *pixels)


def _grid(request: InputsFor) -> Tensor:
    return torch.tensor([[1, PATCHES, PATCHES]] * request.batch)


def _grid_of_two(request: InputsFor) -> Tensor:
    return torch.tensor([[PATCHES, PATCHES]] * request.batch)


def _sides_in_patches(request: InputsFor) -> Tensor:
    side = request.find("patch_size", default=14)
    return torch.tensor([[length // side for length in _sides(request)]] * request.batch)


def _sizes(request: InputsFor) -> Tensor:
    return torch.tensor([_sides(request)] * request.batch)


def _places(request: InputsFor) -> Tensor:
    rows = torch.arange(PATCHES)
    grid = torch.stack(torch.meshgrid(rows, rows, indexing="ij"), dim=-1).reshape(1, -1, 2)
    return grid.repeat(request.batch, 1, 1)


def _patch_mask(request: InputsFor) -> Tensor:
    return torch.ones(request.batch, PATCHES * PATCHES, dtype=torch.int64)


def _pixel_mask(request: InputsFor) -> Tensor:
    return torch.ones(request.batch, *_sides(request), dtype=torch.int64)


def _mask_of_images(request: InputsFor) -> Tensor:
    return torch.ones(request.batch, 1, *_sides(request), dtype=torch.bool)


def _mask_of_pictures(request: InputsFor) -> Tensor:
    return torch.ones(request.batch, request.seq, 1, dtype=torch.int64)


def _ones(request: InputsFor) -> Tensor:
    return torch.ones(request.batch, 1, dtype=torch.int64)


def _tile_mask(request: InputsFor) -> Tensor:
    return torch.ones(request.batch, 1, request.find("max_num_tiles", default=1), dtype=torch.int64)


def _states(request: InputsFor) -> Tensor:
    return request.empty(request.batch, request.seq, request.find("hidden_size", "d_model", default=64))


def _channels_by_time(request: InputsFor) -> Tensor:
    return _states(request).transpose(1, 2)


def _wave(request: InputsFor) -> Tensor:
    return request.empty(request.batch, _WAVE)


def _wave_in_channels(request: InputsFor) -> Tensor:
    channels = request.find("audio_channels", "channels", default=1)
    return request.empty(request.batch, channels, _WAVE)


def _aligned_wave(request: InputsFor) -> Tensor:
    """Return sound in whole steps of every usual hop length, which some models insist on."""
    return request.empty(request.batch, 1, 30_720)


def _row_of_aligned_wave(request: InputsFor) -> Tensor:
    return request.empty(request.batch, 30_720)


def _bins(request: InputsFor, default: int = 80) -> int:
    names = ("num_mel_bins", "feature_size", "input_feat_per_channel", "n_mels", "mel_bins", "num_mels",
             "input_feat_size", "mel_dim")  # fmt: skip
    return request.find(*names, default=default)


def _frames(request: InputsFor) -> int:
    return 2 * request.find("max_source_positions", default=1500)


def _features(request: InputsFor) -> Tensor:
    return request.empty(request.batch, _bins(request), _frames(request))


def _features_by_time(request: InputsFor) -> Tensor:
    return request.empty(request.batch, _frames(request), _bins(request))


def _features_in_a_row(request: InputsFor) -> Tensor:
    return request.empty(_bins(request), request.batch * _frames(request))


def _frame_counts(request: InputsFor) -> Tensor:
    return torch.full((request.batch,), _frames(request))


def _row_of_features(request: InputsFor) -> Tensor:
    return request.empty(request.batch, request.seq, _bins(request))


def _square_features(request: InputsFor) -> Tensor:
    return request.empty(request.batch, 1, request.find("spec_size", default=1024), _bins(request, 64))


def _spectrogram(request: InputsFor) -> Tensor:
    return request.empty(request.batch, request.find("max_length", default=1024), _bins(request, 128))


def _mask_of_features(request: InputsFor) -> Tensor:
    return torch.ones(request.batch, _frames(request), dtype=torch.int64)


def _sound_mask(request: InputsFor) -> Tensor:
    return _mask_of_features(request).bool()


def _mask_of_row(request: InputsFor) -> Tensor:
    return torch.ones(request.batch, request.seq, dtype=torch.int64)


_PICTURES: Final = (
    _image, _video, _one_image, _two_images, _patches, _rows_of_patches, _tiles, _tiles_of_patches,
    _small_patches, _colour_image, _image_after_scaling, _large_image, _frames_as_rows, _blocks_of_patches,
)  # fmt: skip
AS_PATCHES: Final = _PICTURES.index(_patches)
AS_BLOCKS: Final = _PICTURES.index(_blocks_of_patches)
PICTURES_AND_SOUND: Final[dict[str, tuple[Callable[[InputsFor], Tensor], ...]]] = {
    "aspect_ratio_ids": (_ones,),
    "aspect_ratio_mask": (_tile_mask,),
    "audio_mel": (_features_by_time,),
    "audio_mel_mask": (_sound_mask,),
    "audio_feature_lengths": (_frame_counts,),
    "chunk_sample_lengths": (_frame_counts,),
    "feature_attention_mask": (_mask_of_features,),
    "feature_lens": (_frame_counts,),
    "grid_thw": (_grid,),
    "hidden_states": (_patches, _rows_of_patches, _image, _states, _channels_by_time),
    "image": _PICTURES,
    "image_attention_mask": (_mask_of_pictures,),
    "image_grid_hw": (_grid_of_two,),
    "image_grid_thw": (_grid,),
    "image_position_ids": (_places,),
    "image_sizes": (_sizes,),
    "input_features": (
        _features, _features_by_time, _row_of_features, _square_features, _features_in_a_row,
    ),
    "input_features_mask": (_mask_of_features, _mask_of_row, _sound_mask),
    "input_values": (
        _wave, _wave_in_channels, _spectrogram, _row_of_aligned_wave, _aligned_wave,
    ),
    "mel_spectrogram": (_features, _features_by_time),
    "pixel_attention_mask": (_pixel_mask, _mask_of_images, _patch_mask),
    "pixel_position_ids": (_places,),
    "pixel_values": _PICTURES,
    "pixel_values_videos": (_video,),
    "spatial_shapes": (_grid_of_two,),
    "target_sizes": (_sides_in_patches,),
}  # fmt: skip
"""Makers by the name of the argument: the usual shape first, then others it is known to have."""
