"""The benchmark that a card runs, run small: what it compares with is what is alive on the CPU."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from compile_plan.ir import Unit

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import card_ledger


@pytest.fixture(scope="module", name="job")
def _job():
    return card_ledger.planned(card_ledger.SMALL, "llama", "generate", (1.0, 0.4))


@pytest.fixture(scope="module", name="case")
def _case():
    return card_ledger.Case(card_ledger.SMALL, "llama")


def test_a_row_of_the_ledger(job, case):
    row = card_ledger.ledger_row(job, case)
    assert 1.0 <= row["ratio"] < 1.1
    assert f"{row['ratio']:.3f}" in card_ledger.ledger_line(row)


def test_rows_of_tight_budgets(job, case):
    whole, less = card_ledger.tight_rows(job, case)
    assert (whole["said"], whole["away"]) == (less["said"], 0) == ("ran", 0)
    assert less["away"] > 0
    assert whole["budget"] > less["budget"]


def test_what_a_case_raises_stands_in_its_row(job, case):
    broken = replace(job.whole, units=(Unit("nowhere", "cuda:0", "cuda:0"),))
    rows = card_ledger.tight_rows(replace(job, tight=((1.0, 5, broken), (0.5, 4, "refused"))), case)
    assert [row["said"].partition(":")[0] for row in rows] == ["PlanError", "refused"]


def test_a_piece_that_fits_need_not_be_elsewhere(job):
    plan = job.tight[1][2]
    card, *others = plan.devices
    wider = replace(
        plan, devices=(replace(card, memory=card.memory + max(card_ledger.spilled(plan))), *others)
    )
    assert card_ledger.needless(wider, least=1)
    full = replace(plan, devices=(replace(card, memory=plan.ledger[0].total), *others))
    assert not card_ledger.needless(full, least=1)
    assert not card_ledger.needless(job.whole, least=1)
