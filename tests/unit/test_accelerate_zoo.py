"""The drop-in against accelerate over transformers types, five budgets each."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
from compile_plan.compiler import compile_model
from compile_plan.compiler.lines.option_lines import STRATEGIES
from transformers import CONFIG_MAPPING

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from zoo_sweep import compare, models, requests

logging.getLogger("accelerate").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore")
QUICK = (
    "albert", "bart", "bert", "bigbird_pegasus", "blenderbot", "canine", "clip", "ctrl", "deberta",
    "distilbert", "electra", "fnet", "gpt2", "gpt_neo", "llama", "mamba", "mbart", "mixtral",
    "mpnet", "opt", "pegasus", "roberta", "t5", "vit", "whisper", "xlnet",
)  # fmt: skip

SILENT = (
    "albert", "bart", "bert", "clip", "deberta", "distilbert", "gpt2", "llama", "mamba", "mpnet", "opt",
    "roberta", "t5", "vit", "whisper",
)  # fmt: skip


def check(kind):
    built = list(models([kind]))
    if not built:
        pytest.skip("does not build from its default config")
    for _, model in built:
        for request in requests(model):
            assert compare(request) in {"same", "accelerate invalid"}, request.max_memory


@pytest.mark.parametrize("kind", QUICK)
def test_a_usual_type_gets_accelerates_map(kind):
    check(kind)


@pytest.mark.parametrize("kind", SILENT)
def test_every_strategy_is_silent_about_a_usual_type_that_fits(kind):
    [(_, model)] = models([kind])
    total = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    for strategy in STRATEGIES:
        for cards in (1, 3):
            budgets = dict.fromkeys(range(cards), 2 * total) | {"cpu": total}
            plan = compile_model(model, max_memory=budgets, strategy=strategy)
            assert plan.diagnostics == (), (strategy, cards)
            assert {unit.run for unit in plan.units} <= {f"cuda:{i}" for i in range(cards)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(CONFIG_MAPPING.keys()))
def test_every_type_gets_accelerates_map(kind):
    check(kind)
