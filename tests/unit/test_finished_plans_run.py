"""What is handed out runs: finished plans are replayed; what must stay whole is known without being told."""

from __future__ import annotations

import pytest
import torch
import transformers
from compile_plan.compiler import compile_model, verify_plan
from compile_plan.ir import PlanError
from small_models import small_model
from torch import nn

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2}
TEXT = {"vocab_size": 400, "num_key_value_heads": 2, **SIZES}
VISION = {"image_size": 28, "patch_size": 14, **SIZES}
OPT = {"model_type": "opt", "ffn_dim": 128, "word_embed_proj_dim": 64, **TEXT}
QFORMER = {"encoder_hidden_size": 64, "vocab_size": 100, **SIZES}
TWO_STACKS = {
    "vocab_size": 300, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
}  # fmt: skip
PICTURES = {
    "llava": {
        "text_config": {"model_type": "llama", **TEXT},
        "vision_config": {"model_type": "clip_vision_model", "projection_dim": 32, **VISION},
    },
    "paligemma": {
        "text_config": {"model_type": "gemma", "head_dim": 16, **TEXT},
        "vision_config": {"model_type": "siglip_vision_model", **VISION},
        "projection_dim": 64,
        "hidden_size": 64,
    },
    "blip-2": {
        "text_config": OPT,
        "vision_config": VISION,
        "qformer_config": QFORMER,
        "num_query_tokens": 4,
        "image_token_index": 399,
    },
}
UNLISTED = {
    "distilbert": {"dim": 64, "hidden_dim": 128, "n_heads": 4, "n_layers": 3, "vocab_size": 300},
    "electra": {"embedding_size": 32, "vocab_size": 300, **SIZES},
    "albert": {"embedding_size": 32, "vocab_size": 300, **SIZES},
    "deberta": {"vocab_size": 300, **SIZES},
    "marian": {"pad_token_id": 1, "decoder_start_token_id": 1, **TWO_STACKS},
    "pegasus": TWO_STACKS,
}


def built(name, sizes, factory) -> nn.Module:
    with torch.device("meta"):
        return factory.from_config(transformers.AutoConfig.for_model(name, **sizes)).eval()


def weights(model: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())


@pytest.mark.parametrize("name", PICTURES)
def test_models_that_see_run_wherever_their_text_stack_is_cut(name):
    model = built(name, PICTURES[name], transformers.AutoModelForImageTextToText)
    for share in (0.5, 0.8):
        first = int(weights(model) * share) + 400_000  # activations beside the weights
        budgets = {0: first, 1: first + 4_000_000, "cpu": 10**9}
        plan = compile_model(model, max_memory=budgets, example_inputs="auto")
        assert len({unit.run for unit in plan.units}) > 1
        assert verify_plan(plan, model).lawful


@pytest.mark.parametrize("name", UNLISTED)
def test_models_without_a_list_are_not_cut_inside_residuals(name):
    model = built(name, UNLISTED[name], transformers.AutoModel)
    assert not model._no_split_modules
    share = int(weights(model) * 0.6)
    plan = compile_model(model, max_memory={0: share, 1: share, "cpu": 10**9})
    assert len({unit.run for unit in plan.units}) > 1
    assert verify_plan(plan, model, seq=16).lawful


def test_an_empty_list_of_classes_cuts_no_residual():
    model = small_model("llama")
    share = int(weights(model) * 0.6)
    plan = compile_model(model, max_memory={0: share, 1: share}, no_split_module_classes=[])
    assert verify_plan(plan, model, seq=8).lawful


class Aside(nn.Module):
    """Its head is called past the unit it is in, by the model itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.stack = nn.ModuleDict({"body": nn.Linear(16, 16), "head": nn.Linear(16, 16)})
        self.pack = Pack()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pack(self.first(x)) + self.pack.head(x)


class Pack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 16)
        self.body = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def test_what_is_called_past_its_unit_runs_or_is_refused():
    x = torch.zeros(2, 16)
    for first in (2000, 3000, 4000):
        plan = compile_model(Aside(), max_memory={0: first, 1: 9000, "cpu": 99999}, example_inputs=x)
        assert verify_plan(plan, Aside(), x).lawful


class Sealed(nn.Module):
    """Neither can be visited: each reads the other's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.a(x) + x @ self.b.weight) @ self.a.weight + self.b(x)


def test_lines_that_cannot_run_are_an_error_and_the_help_works():
    x, budgets = torch.zeros(1, 16), {0: "9KiB", 1: "9KiB"}
    with pytest.raises(PlanError) as caught:
        compile_model(
            Sealed(), max_memory=budgets, example_inputs=x, overrides="place a on cuda:0\nplace b on cuda:1\n"
        )
    (found,) = caught.value.diagnostics
    assert found.code == "pin-inside-atomic"
    line = found.help.split("`")[1]
    plan = compile_model(Sealed(), max_memory=budgets, example_inputs=x, overrides=f"{line}\n")
    assert verify_plan(plan, Sealed(), x).lawful
