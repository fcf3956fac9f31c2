"""Inputs made from a config: every kind of input, and what an error says of the next guess."""

from __future__ import annotations

import pytest
import torch
import transformers
from compile_plan.compiler.tracing import trace_model, try_trace, verify_trace
from compile_plan.compiler.tracing.forward import try_run
from compile_plan.compiler.tracing.inputs.input_words import how_to_give, resized_inputs
from compile_plan.ir import Diagnostics
from random_cuts import random_plan
from small_models import small_model
from torch import nn

TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
PICTURE = {**TEXT, "image_size": 32, "patch_size": 8}
WORDS = {**TEXT, "num_key_value_heads": 2, "vocab_size": 100, "pad_token_id": 0}
SERIES = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
}
KINDS = {
    "pictures-in-text": ("llava", "AutoModelForImageTextToText", {
        "text_config": {"model_type": "llama", **WORDS}, "image_token_index": 90,
        "vision_config": {"model_type": "clip_vision_model", **PICTURE},
    }),
    "patches-in-text": ("qwen2_vl", "AutoModelForImageTextToText", {
        "text_config": {
            "model_type": "qwen2_vl_text", **WORDS,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
        },
        "vision_config": {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 4},
        "image_token_id": 90, "video_token_id": 91, "vision_start_token_id": 92, "vision_end_token_id": 93,
    }),
    "sound": ("wav2vec2", "AutoModel", {
        **TEXT, "conv_dim": [8, 8], "conv_stride": [5, 2], "conv_kernel": [10, 3],
        "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
    }),
    "clips": ("vivit", "AutoModel", {**TEXT, "image_size": 32, "num_frames": 4, "tubelet_size": [2, 16, 16]}),
    "pages": ("layoutlm", "AutoModel", {**TEXT, "vocab_size": 100}),
    "regions": ("lxmert", "AutoModel", {
        "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "l_layers": 1, "x_layers": 1,
        "r_layers": 1, "visual_feat_dim": 24, "vocab_size": 100,
    }),
    "series": ("time_series_transformer", "AutoModel", {
        **SERIES, "prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2],
        "num_time_features": 2,
    }),
    "series-in-channels": ("patchtst", "AutoModel", {
        "num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 8, "d_model": 16,
        "num_hidden_layers": 1, "ffn_dim": 16,
    }),
    "decisions": ("decision_transformer", "AutoModel", {
        "state_dim": 5, "act_dim": 3, "hidden_size": 16, "n_layer": 1, "n_head": 2, "vocab_size": 1,
    }),
    "codes": ("kyutai_speech_to_text", "AutoModel", {
        **WORDS, "num_codebooks": 3, "codebook_vocab_size": 50, "head_dim": 8, "ffn_dim": 64,
        "audio_pad_token_id": 48,
    }),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_of_each_kind_reach_the_model(kind):
    name, factory, fields = KINDS[kind]
    config = transformers.AutoConfig.for_model(name, **fields)
    with torch.device("meta"):
        model = getattr(transformers, factory).from_config(config).eval()
    diagnostics = Diagnostics()
    trace = try_trace(model, None, diagnostics, seq=16)
    assert trace is not None, list(diagnostics)
    assert list(diagnostics) == []
    ran = {call.module for call in trace.calls}
    tree = trace.tree
    leaves = [m for m in range(len(tree)) if tree.ends[m] == m + 1 and len(tree.tensors(m))]
    assert sum(leaf in ran for leaf in leaves) > 0.9 * len(leaves)
    assert all(verify_trace(random_plan(trace, 3, seed), trace).lawful for seed in range(4))


class Config:
    """As much of a transformers config as inputs are made from."""

    model_type = "asking"
    hidden_size = 8
    image_token_id = 7
    audio_token_id = 9
    use_cache = True


class Asking(nn.Module):
    """A model whose forward is given to it; it says what it misses as models of transformers do."""

    config = Config()

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)


def shapes_that_ran(forward, codes=()) -> dict[str, tuple[int, ...] | bool]:
    """Trace a model with this forward; return the shapes of the arguments it ran with."""

    class Model(Asking):
        pass

    Model.forward = forward
    seen: dict[str, tuple[int, ...] | bool] = {}

    def see(_module, _args, kwargs, _out):
        seen.update((name, getattr(item, "shape", item)) for name, item in kwargs.items())

    model, diagnostics = Model(), Diagnostics()
    model.register_forward_hook(see, with_kwargs=True)
    assert try_trace(model, None, diagnostics, batch=2, seq=4) is not None, list(diagnostics)
    assert [found.code for found in diagnostics] == list(codes)
    return seen


def test_an_argument_that_is_named_as_missing_is_added():
    def forward(self, input_ids=None, bbox=None):
        if bbox is None:
            message = "You have to specify `bbox`"
            raise ValueError(message)
        return self.layer(torch.zeros(input_ids.shape[1], 8, device=input_ids.device) + bbox.sum())

    assert shapes_that_ran(forward) == {"input_ids": (2, 4), "bbox": (2, 4, 4)}


def test_an_argument_that_was_none_where_the_code_failed_is_added():
    def inner(mask, table):
        return (
            table
            + mask.sum()
        )  # fmt: skip

    def forward(self, input_ids, attention_mask=None):
        return self.layer(inner(attention_mask, torch.zeros(8, device=input_ids.device)))

    assert shapes_that_ran(forward) == {"input_ids": (2, 4), "attention_mask": (2, 4)}


def test_of_two_arguments_that_exclude_each_other_one_is_taken_away():
    def forward(self, input_ids=None, pixel_values=None, input_features=None):
        if input_features is not None and pixel_values is not None:
            message = "You cannot specify both pixel_values and input_features at the same time"
            raise ValueError(message)
        return self.layer(torch.zeros(8, device=input_ids.device) + pixel_values.sum())

    assert set(shapes_that_ran(forward)) == {"input_ids", "pixel_values"}


def test_an_argument_that_is_to_be_none_is_taken_away():
    """What it is given instead is seen where the code fails without."""

    def forward(self, input_ids=None, inputs_embeds=None):
        """Compute.

        Args:
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`): rows.

        """
        if input_ids is not None:
            message = "`input_ids` is expected to be `None`"
            raise ValueError(message)
        return self.layer(inputs_embeds)

    assert shapes_that_ran(forward) == {"inputs_embeds": (2, 4, 8)}


@pytest.mark.parametrize(("frames", "grid"), [(2, False), (0, False), (0, True)])
def test_pixels_are_given_in_blocks_with_the_colours_last(frames, grid):
    class Blocks(Config):
        patch_size, spatial_merge_size, num_channels = 4, 2, 3
        temporal_patch_size = frames or None

    def pictures(self, pixel_values):
        rest = pixel_values.shape[1:]
        if rest != (*((frames,) if frames else ()), 8, 8, 3):
            message = f"shape {tuple(rest)} is invalid"
            raise RuntimeError(message)
        return self.layer(torch.zeros(8, device=pixel_values.device) + pixel_values.sum())

    def with_grid(self, pixel_values, image_grid_thw):
        assert pixel_values.shape[0] == image_grid_thw.prod(-1).sum()
        return pictures(self, pixel_values)

    class Model(Asking):
        config = Blocks()
        main_input_name = "pixel_values"
        forward = with_grid if grid else pictures

    diagnostics = Diagnostics()
    assert try_trace(Model(), None, diagnostics) is not None, list(diagnostics)


def test_a_spectrogram_has_the_bins_of_the_config():
    class Model(Asking):
        class config(Config):  # noqa: N801  # as transformers names it
            mel_dim, max_source_positions = 6, 4

        def forward(self, mel_spectrogram):
            assert mel_spectrogram.shape == (1, 6, 8)
            return self.layer(mel_spectrogram)

    diagnostics = Diagnostics()
    assert try_trace(Model(), None, diagnostics) is not None, list(diagnostics)


def test_a_text_gets_as_many_tokens_as_a_picture_has_features():
    def forward(self, input_ids=None, pixel_values=None):
        marked = (input_ids == 7).sum()
        if marked != 20 or pixel_values is None:
            message = f"Image features and image tokens do not match, tokens: {marked}, features: 20"
            raise ValueError(message)
        return self.layer(torch.zeros(8, device=input_ids.device))

    assert shapes_that_ran(forward)["input_ids"] == (2, 12)


def test_a_text_whose_sounds_are_counted_gets_the_tokens_of_each():
    """As qwen2_audio does: one token of a sound would be stretched, in the way of before."""

    def forward(self, input_ids=None, input_features=None):
        marked = (input_ids == 9).sum()
        if marked < 4:
            message = (
                f"The number of audio tokens is tensor([{marked}, 0]) while the number of audio given to"
            )
            raise ValueError(f"{message} the model is 2. This prevents correct indexing")
        if marked != 20 or input_features is None:
            message = f"Audio features and audio tokens do not match, tokens: {marked}, features: 20"
            raise ValueError(message)
        return self.layer(torch.zeros(8, device=input_ids.device))

    assert shapes_that_ran(forward)["input_ids"] == (2, 12)


def test_sound_is_as_many_tokens_of_a_text_as_it_has_features():
    config = transformers.Qwen2AudioConfig(
        text_config={"model_type": "qwen2", **WORDS}, audio_token_id=90,
        audio_config={
            "model_type": "qwen2_audio_encoder", "d_model": 32, "encoder_layers": 1, "num_mel_bins": 8,
            "encoder_attention_heads": 4, "encoder_ffn_dim": 32, "max_source_positions": 8,
        },
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.Qwen2AudioForConditionalGeneration(config).eval()
    ran = try_run(model, None, Diagnostics(), batch=2, seq=3)
    assert ran.kwargs["input_ids"].shape == (2, 1 + 4 + 1)
    assert ran.kwargs["input_ids"].eq(90).sum() == 2 * 4


def test_tokens_of_a_model_without_books_of_codes_are_never_codes():
    def forward(self, input_ids=None):
        if input_ids.dim() == 2:
            message = "Sequence length must be less than max_position_embeddings"
            raise ValueError(message)
        return self.layer(torch.zeros(8, device=input_ids.device))

    class Model(Asking):
        class config(Config):  # noqa: N801  # as transformers names it
            class vision_config(Config):  # noqa: N801
                num_channels, image_size = 3, 32

    Model.forward, diagnostics = forward, Diagnostics()
    assert try_trace(Model(), None, diagnostics) is None
    assert [each.code for each in diagnostics] == ["trace-failed"]


@pytest.mark.parametrize("layer", [nn.Linear(12, 8), nn.LayerNorm(12), lambda rows: rows + torch.zeros(12)])
def test_features_of_the_wrong_width_get_the_right_one(layer):
    def forward(self, query_embeds):
        made = layer(query_embeds)
        return self.layer(made.sum() + torch.zeros(8, device=query_embeds.device))

    assert shapes_that_ran(forward) == {"query_embeds": (2, 4, 12)}


def test_features_get_the_axes_the_code_takes_apart():
    def forward(self, noise_embeds):
        batch, _, rows, width = noise_embeds.shape
        return self.layer(noise_embeds.reshape(batch * rows, width))

    assert shapes_that_ran(forward) == {"noise_embeds": (2, 1, 4, 8)}


def test_shapes_are_read_from_the_documentation():
    def forward(self, states, marks, count: int):
        return self.layer(states.sum(-1)[..., None] + marks[0] * count)

    forward.__doc__ = """Run.

    Args:
        states (`torch.FloatTensor` of shape `(batch_size, 3, config.hidden_size)`):
            What is seen.
        marks (`torch.LongTensor` of shape `(num_questions, hidden_size)`):
            What is asked.
    """
    assert shapes_that_ran(forward) == {"states": (2, 3, 8), "marks": (1, 8), "count": 1}


def test_a_forward_without_its_cache_is_said():
    def forward(self, input_ids, use_cache=None):
        if use_cache is not False:
            message = "no"
            raise TypeError(message)
        return self.layer(torch.zeros(8, device=input_ids.device))

    ran = shapes_that_ran(forward, codes=["traced-without-cache"])
    assert ran == {"input_ids": (2, 4), "use_cache": False}


def test_a_cache_that_is_switched_off_by_the_user_is_not():
    diagnostics = Diagnostics()
    inputs = {"input_ids": torch.zeros(1, 4, dtype=torch.int64), "use_cache": False}
    trace = try_trace(small_model("llama"), inputs, diagnostics)
    assert trace is not None
    assert not trace.cache
    assert list(diagnostics) == []


def test_pictures_come_in_the_models_dtype():
    model = small_model("vit").to(torch.bfloat16)
    widths = {trace_value.width for trace_value in trace_model(model).values[-4:]}
    assert widths == {2}


def test_what_to_give_names_the_arguments_in_the_shape_of_the_first_layer():
    class Net(nn.Module):
        def __init__(self, first):
            super().__init__()
            self.first = first

        def forward(self, pixels, mask=None):
            return self.first(pixels if mask is None else mask)

    layers = {
        "float32[1,64]": nn.Linear(64, 8),
        "float32[1,3,224,224]": nn.Conv2d(3, 8, 3),
        "int64[1,128]": nn.Embedding(10, 8),
    }
    for shape, layer in layers.items():
        assert how_to_give(Net(layer)) == f'--inputs "pixels={shape}"'


def test_inputs_in_another_size_are_the_models_own():
    inputs = (torch.zeros(2, 64), torch.zeros(2, 9, dtype=torch.int64))
    assert resized_inputs(inputs, batch=4, seq=None) == '--inputs "float32[4,64], int64[4,9]"'
    named = {"x": torch.zeros(2, 64)}
    assert resized_inputs(named, batch=None, seq=8) == '--inputs "x=float32[2,8]"'
