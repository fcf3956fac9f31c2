"""The benchmark that a card runs, run small: what it compares with is what is alive on the CPU."""

from __future__ import annotations

import argparse
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


def test_what_matters_most_comes_first():
    names, kinds = ["llama", "mamba"], list(card_ledger.KINDS)
    rows = card_ledger.wanted(argparse.Namespace(names=names, kinds=kinds, only=None))
    order = ["train" if each.kind == "train" else "tight" if each.shares else "ledger" for each in rows]
    assert order == ["ledger"] * 6 + ["tight"] * 3 + ["train"] * 2
    only = card_ledger.wanted(argparse.Namespace(names=names, kinds=kinds, only="tight"))
    assert {each.shares for each in only} == {card_ledger.TIGHT}


def test_the_tables_name_twelve_architectures_and_sixty_tight_cases():
    assert len(card_ledger.ON_A_CARD) >= 12
    assert len(card_ledger.TIGHT_CASES) * len(card_ledger.TIGHT) >= 60


@pytest.mark.parametrize("kind", ["generate", "loss"])
def test_a_model_in_eight_bits_has_its_rows(kind):
    job = card_ledger.planned(card_ledger.SMALL, "llama, fp8", kind, ())
    row = card_ledger.ledger_row(job, card_ledger.Case(card_ledger.SMALL, "llama, fp8"))
    assert 1.0 <= row["ratio"] <= 1.03


def test_what_is_narrower_than_half_stays():
    model = card_ledger.halved(card_ledger.built("llama, fp8"))
    assert {str(each.dtype) for each in model.parameters()} == {"torch.bfloat16", "torch.float8_e4m3fn"}
