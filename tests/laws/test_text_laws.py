"""The laws of the text: what is printed reads back, formatting is stable and keeps meaning and comments."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from compile_plan.grammar import format_text, parse, parse_collecting, parser, print_plan
from compile_plan.grammar.parser import parse_document
from compile_plan.grammar.ranges import fold_paths
from compile_plan.ir import Diagnostics, ModuleTree, PlanError, Source
from compile_plan.ir.patterns import expand_braces, match_paths, matches
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_strategies import bound_plans, comments, paths, plans, regular_paths, trees

relaxed = settings(max_examples=60)


@relaxed
@given(plans())
def test_a_printed_plan_reads_back_as_itself(plan):
    text = print_plan(plan)
    assert parse(text) == plan
    assert print_plan(parse(text)) == print_plan(replace(parse(text), diagnostics=()))


@relaxed
@given(bound_plans())
def test_a_module_table_reads_back_as_the_same_tree(plan):
    read = parse(print_plan(plan, with_modules=True))
    assert read == plan
    assert isinstance(read.tree, ModuleTree)
    assert read.tree == plan.tree


@relaxed
@given(
    st.lists(st.one_of(paths, regular_paths().map(lambda found: found[0] if found else "a")))
    | regular_paths()
)
def test_folded_paths_expand_in_the_same_order(found):
    folded = fold_paths(found)
    expanded = [each for item in folded for each in
                ([item.path.text] if item.path.literal else expand_braces(item.path.text))]  # fmt: skip
    assert expanded == found
    assert sum(item.count for item in folded) == len(found)


@relaxed
@given(
    trees(),
    st.lists(
        st.sampled_from(["*", "**", "a", "0", "layers", "w*t", "*_proj", "1", "weight"]),
        min_size=1,
        max_size=5,
    ),
)
def test_walking_a_tree_finds_what_matches_path_by_path(tree, names):
    pattern = ".".join(names)
    everything = [*tree.paths[1:], *tree.tensor_paths]
    if pattern in everything:
        assert match_paths(tree, pattern) == [pattern]
    else:
        assert sorted(match_paths(tree, pattern)) == sorted(p for p in everything if matches(pattern, p))


def shaken(text: str, remarks: list[str], seed: int) -> str:
    """Put comments, blank lines and blanks where they do not matter."""
    rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
    rows: list[str] = []
    for row in text.splitlines():
        while remarks and rng.random() < 0.3:
            rows += [rng.choice(["", "  ", "\t"]) + remarks.pop()]
        rows += [""] * rng.choice([0, 0, 1, 3])
        tail = f"  {remarks.pop()}" if remarks and row and "#" not in row and rng.random() < 0.3 else ""
        rows.append(f"{rng.choice(['', '   '])}{row}{rng.choice(['', '  '])}{tail}")
    return "\n".join([*rows, *remarks])


def comments_of(text: str) -> list[str]:
    document = parse_document(Source("t", text), Diagnostics())
    found = [comment for line in document.lines for comment in (*line.before, line.suffix)]
    return [comment for comment in (*found, *document.after) if comment]


@relaxed
@given(plans(), st.lists(comments, max_size=6), st.integers())
def test_formatting_is_stable_and_keeps_meaning_and_comments(plan, remarks, seed):
    text = shaken(print_plan(plan), remarks, seed)
    formatted = format_text(text)
    assert format_text(formatted) == formatted
    assert parse(formatted) == parse(text) == plan
    assert comments_of(formatted) == comments_of(text)
    assert not formatted or (formatted.strip("\n") + "\n" == formatted and "\n\n\n" not in formatted)


@given(plans())
@relaxed
def test_the_formatter_agrees_with_the_printer(plan):
    assert format_text(print_plan(plan)) == print_plan(plan)


WORDS = ["place", "on", "run", "device", "memory", "cuda:0", "cpu", "gpu7", "10GiB", "1e9", "{0..3}", "{0..999999999}",  # noqa: E501
         "{", "}", "a.b", "a..b", ".", "=", ":", "tie", "split", "atomic", "class", "together", "never", "reserve",  # noqa: E501
         "for", '"', '"x"', "\\", "#", "module", "parameter", "buffer", "transient", "shares", "float32[4]", "float32[",  # noqa: E501
         "plan", "1", "2", "model", "option", "pool", "at", "flops", "312T", "\x00", "\u2028", "unit", "demand",  # noqa: E501
         "with", "99999999999999999999999999999999999999999",
         "{a,{b,{c,d}}}", "**", "*", "é", "\ud800"]  # fmt: skip


@settings(max_examples=300)
@given(
    st.one_of(st.text(), st.lists(st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)).map("\n".join))
)
def test_any_text_is_a_plan_or_findings(text):
    plan, found = parse_collecting(text)
    assert (plan is None) == any(each.severity == "error" for each in found)
    for each in found:
        assert not set(each.message.split()) & {"DEVICE_NAME", "$END", "NUMBER", "__ANON_0", "TENSOR_TYPE"}
        assert each.at is None or 0 <= each.at.span.start <= each.at.span.end <= len(text)
    if plan is None:
        with pytest.raises(PlanError):
            parse(text)


@relaxed
@given(st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join) | plans().map(print_plan))
def test_reading_by_shape_is_reading_by_grammar(text):
    for row in text.split("\n"):
        if row.strip() and not row.startswith("#"):
            assert parser._shapes().read(row) == parser._read(row)


def test_many_random_lines_end_quickly():
    rng = random.Random(7)  # noqa: S311 - repeatable on purpose
    for _ in range(3_000):
        text = "\n".join(" ".join(rng.choices(WORDS, k=rng.randrange(7))) for _ in range(rng.randrange(5)))
        plan, found = parse_collecting(text)
        assert plan is not None or found
