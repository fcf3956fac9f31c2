"""Every rule can happen: a golden case or a unit test triggers it. Every golden text obeys the laws."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from compile_plan.compiler.passes import PASSES
from compile_plan.grammar import format_text, parse, parse_collecting, print_plan
from compile_plan.ir import RULES

TESTS = Path(__file__).parent
GOLDEN = TESTS / "golden"
EXPECTED = "".join(path.read_text(encoding="utf-8") for path in sorted(GOLDEN.rglob("*.expected")))
UNIT = "".join(
    path.read_text(encoding="utf-8") for path in sorted(TESTS.rglob("test_*.py")) if path != Path(__file__)
)
PLANS = sorted(GOLDEN.rglob("*.plan"))


@pytest.mark.parametrize("code", RULES)
def test_a_rule_is_triggered_by_a_test(code):
    constant = code.replace("-", "_").upper()
    in_golden = re.search(rf"(?:error|warning)\[{code}\]", EXPECTED) is not None
    in_unit_test = re.search(rf"[\"'\[]{code}[\"'\]]|\b{constant}\b", UNIT) is not None
    assert in_golden or in_unit_test, f"add tests/golden/rules/{code}.plan or a unit test"


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
