"""Sets of paths in words: just these paths, in as few words as a stack allows."""

from __future__ import annotations

import re

import pytest
from compile_plan.grammar.path_sets import fold_set
from compile_plan.ir.patterns import expand_braces
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_strategies import paths, regular_paths


@pytest.mark.parametrize(
    ("paths", "patterns"),
    [
        ([f"h.{i}" for i in range(12)], [("h.{0..11}", 12)]),
        ([f"h.{i}" for i in range(0, 40, 2)], [("h.{0..38..2}", 20)]),
        ([f"h.{i}" for i in range(94) if i not in {7, 40}], [("h.{0..93} except {7,40}", 92)]),
        ([f"h.{i}" for i in range(94) if i != 40], [("h.{0..39}", 40), ("h.{41..93}", 53)]),
        ([f"h.{i}" for i in (1, 2, 5, 9, 17, 18, 40)], [("h.{1,2,5,9,17,18,40}", 7)]),
        (["h.0", "h.2", "h.3", "x"], [("h.{0,2,3}", 3), ("x", 1)]),
        ([f"l.{i}.e.{j}" for i in (3, 4) for j in range(3)], [("l.{3,4}.e.{0..2}", 6)]),
        ([f"l.{i}.{'ab'[i % 2]}" for i in range(8)], [("l.{0..6..2}.a", 4), ("l.{1..7..2}.b", 4)]),
        (["a.0.x", "a.1.x", "a.0.y"], [("a.0.{x,y}", 2), ("a.1.x", 1)]),
        (["h.01", "h.02", ""], [("the whole model", 1), ("h.01", 1), ("h.02", 1)]),
        (["a.my layer", "a.b"], [("a.my layer", 1), ("a.b", 1)]),
        (["l.0.e.0", "l.0.e.1", "l.1.e.0"], [("l.0.e.{0,1}", 2), ("l.1.e.0", 1)]),
        ([f"l.{i}.{n}" for i in range(3) for n in ("q", "k")], [("l.{0..2}.{q,k}", 6)]),
        (
            [f"l.{i}.e.{j}" for i in range(3) for j in range(0, 99, 3)],
            [("l.{0..2}.e.{0..96..3}", 99)],
        ),
        (["a", "a.b"], [("a", 1), ("a.b", 1)]),
    ],
)
def test_regular_stacks_become_ranges_with_steps_and_exceptions(paths, patterns):
    assert [(each.text, each.count) for each in fold_set(paths)] == patterns


def named_by(text):
    """Return the paths a set's words name, what is excepted left out."""
    pattern, _, exceptions = text.partition(" except ")
    absent = set(expand_braces(exceptions)) if exceptions else set()
    return [path for path in expand_braces(pattern) if not absent & set(path.split("."))]


NAMES = st.one_of(st.integers(0, 30).map(str), st.sampled_from(["a", "b", "layers", "07"]))
PATHS = st.lists(st.lists(NAMES, min_size=1, max_size=3).map(".".join), min_size=1, max_size=40)


@settings(max_examples=60)
@given(regular_paths(), st.lists(paths, max_size=4))
def test_stacks_among_others_are_the_same_paths(stack, others):
    given_paths = list(dict.fromkeys((*stack, *others)))
    found = fold_set(given_paths)
    assert sum(each.count for each in found) == len(given_paths)
    named = [path for each in found for path in ([each.text] if each.count == 1 else named_by(each.text))]
    assert sorted(named) == sorted(path or "the whole model" for path in given_paths)


@given(PATHS)
def test_the_words_name_just_these_paths_and_count_them(paths):
    found = fold_set(paths)
    assert sum(each.count for each in found) == len(set(paths))
    texts = [each.text for each in found if " except " not in each.text]
    named = {path for text in texts for path in expand_braces(text)}
    assert named <= set(paths)


@given(st.sets(st.integers(0, 60), min_size=1))
def test_the_words_for_numbers_mean_those_numbers(numbers):
    found = [path for each in fold_set(f"h.{n}" for n in numbers) for path in named_by(each.text)]
    assert sorted(int(re.sub(r"\D", "", path)) for path in found) == sorted(numbers)
