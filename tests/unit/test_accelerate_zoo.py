"""The drop-in against accelerate over transformers types, five budgets each."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(CONFIG_MAPPING.keys()))
def test_every_type_gets_accelerates_map(kind):
    check(kind)
