"""Words and numbers from Python are checked before any work is done."""

import pytest
import torch
from compile_plan.compiler import PlanError, compile_model

with torch.device("meta"):
    MODEL = torch.nn.Linear(4, 4)
MEMORY = {0: "1KiB", "cpu": "1MiB"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strategy": "balancd"}, "did you mean `balanced`?"),
        ({"strategy": "zzz"}, "`sequential`"),
        ({"objective": "fewest"}, "`fewest-devices`"),
        ({"offload": "never"}, "`none`"),
        ({"margin": -1}, "from 0 on"),
        ({"kv_cache": "2 gigs"}, "`10GiB`"),
        ({"batch": 0}, "from 1 on"),
        ({"time_limit": float("nan")}, "from 0 on"),
        ({"dtype": "bflot16"}, "bfloat16"),
    ],
)
def test_a_wrong_option_is_named_with_a_way_out(options, words):
    with pytest.raises(PlanError) as caught:
        compile_model(MODEL, max_memory=MEMORY, **options)
    assert words in str(caught.value)


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(PlanError) as caught:
        compile_model(MODEL, max_memory=MEMORY, strategy="x", objective="y", batch=-3)
    assert len(caught.value.diagnostics) == 3


@pytest.mark.parametrize("spelled", ["fewest-devices", "fewest_devices"])
def test_dashes_and_underscores_are_one(spelled):
    plan = compile_model(MODEL, max_memory=MEMORY, objective=spelled)
    assert plan.outcome is not None
    assert plan.outcome.objective == "fewest-devices"
