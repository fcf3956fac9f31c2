"""The ledger beside what a card hands out, and plans at budgets that are enforced.

Skipped where torch finds no card. The functions are those of the benchmark; `test_card_ledger` runs them on
the CPU, where what is alive is counted instead and no budget is enforced.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import card_ledger

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no card"),
]
NAMES = ("llama", "mistral, window of 16", "mixtral", "t5")


@pytest.fixture(scope="module", name="case", params=NAMES)
def _case(request):
    card_ledger.warm()
    return request.param, card_ledger.Case(card_ledger.LARGE, request.param)


@pytest.mark.parametrize("kind", ["generate", "forward", "loss"])
def test_the_ledger_is_what_the_card_hands_out(case, kind):
    name, measured = case
    row = card_ledger.ledger_row(card_ledger.planned(card_ledger.LARGE, name, kind, ()), measured)
    assert 1.0 <= row["ratio"] <= 1.03, row


def test_plans_at_a_budget_run_within_it_and_spill_no_more_than_they_must(case):
    name, measured = case
    job = card_ledger.planned(card_ledger.LARGE, name, "generate", card_ledger.TIGHT)
    for row in card_ledger.tight_rows(job, measured):
        assert (row["said"], row["needless"]) == ("ran", False), row
