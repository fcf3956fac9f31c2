"""Every rule can happen: some test made compile-plan say it. Every golden text obeys the laws of text."""

from __future__ import annotations

from pathlib import Path

import pytest
from compile_plan.compiler.passes import PASSES
from compile_plan.grammar import format_text, parse, parse_collecting, print_plan
from compile_plan.ir import RULES

TESTS = Path(__file__).parent
GOLDEN = TESTS / "golden"
PLANS = sorted(GOLDEN.rglob("*.plan"))


@pytest.mark.after_all
def test_every_rule_was_triggered_by_a_test(triggered):
    assert sorted(set(RULES) - triggered) == []


def test_a_golden_rule_case_shows_its_own_rule():
    wrong = [
        path.name
        for path in sorted((GOLDEN / "rules").glob("*.expected"))
        if f"[{path.stem}]" not in path.read_text(encoding="utf-8")
    ]
    assert wrong == []


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_has_golden_cases(name):
    assert list((GOLDEN / "passes" / name).glob("*.expected"))


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.relative_to(GOLDEN).as_posix())
def test_formatting_a_golden_text_is_stable_and_keeps_meaning_and_comments(path):
    text = path.read_text(encoding="utf-8")
    plan, found = parse_collecting(text, name=path.name)
    if plan is None or any(diagnostic.severity == "error" for diagnostic in found):
        pytest.skip("the text is wrong on purpose")
    formatted = format_text(text)
    assert format_text(formatted) == formatted
    assert parse(formatted) == plan
    assert comments(formatted) == comments(text)
    assert parse(print_plan(plan, with_modules=True)) == plan


def comments(text):
    return [line.partition("#")[2].strip() for line in text.splitlines() if "#" in line]
