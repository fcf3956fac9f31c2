"""transformers' rules for names: a model's own are made, equal to those transformers makes, and no others."""

from __future__ import annotations

import re

import pytest
from compile_plan.compiler.loading.conversions import converted
from compile_plan.compiler.sources import name_rules
from compile_plan.compiler.sources.name_rules import rules_of_class, rules_of_model
from compile_plan.compiler.sources.renaming import Renaming, natural
from compile_plan.compiler.sources.safetensors_header import StoredTensor
from tiny_checkpoints import TINY, on_meta

table = pytest.importorskip("transformers.conversion_mapping")
rules = pytest.importorskip("transformers.core_model_loading")


def told(rule):
    """Return all a rule is, patterns as their text."""
    names = sorted({name for kind in type(rule).__mro__ for name in getattr(kind, "__slots__", ())})
    said = {name: getattr(rule, name) for name in names} | getattr(rule, "__dict__", {})
    steps = [(type(step), repr(vars(step))) for step in said.pop("operations", ())]
    return type(rule), steps, {name: getattr(value, "pattern", repr(value)) for name, value in said.items()}


@pytest.fixture
def unasked(monkeypatch):
    """Let transformers be as it is before the first question."""
    monkeypatch.setattr(table, "_checkpoint_conversion_mapping_cache", None)


def test_rules_of_every_class_are_those_transformers_makes():
    every = table._build_checkpoint_conversion_mapping()
    assert len(every) > 100
    for name, made in every.items():
        assert [told(rule) for rule in rules_of_class(name)] == [told(rule) for rule in made], name
    assert rules_of_class("nobody's") is None


@pytest.mark.usefixtures("unasked")
@pytest.mark.parametrize("name", ["mixtral", "llama", "bert"])
def test_only_what_a_model_needs_is_made(name, monkeypatch):
    model = on_meta(TINY[name])
    rules_of_model(model)  # imports, which make a few of other kinds
    made, usual = [], rules.WeightTransform.__init__

    def counted(rule, *given, **named):
        made.append(rule)
        usual(rule, *given, **named)

    monkeypatch.setattr(rules.WeightTransform, "__init__", counted)
    ours = rules_of_model(model)
    assert len(made) == len(ours) < 20
    assert table._checkpoint_conversion_mapping_cache is None  # transformers itself was not asked
    assert [told(rule) for rule in ours] == [told(rule) for rule in table.get_model_conversion_mapping(model)]


@pytest.mark.usefixtures("unasked")
def test_each_load_has_rules_of_its_own():
    model = on_meta(TINY["mixtral"])
    first, second = rules_of_model(model), rules_of_model(model)
    assert not {id(rule) for rule in first} & {id(rule) for rule in second}
    for rule in first:
        rule.rename_source_key("LayerNorm.gamma")
    assert [rule.was_used() for rule in rules_of_model(model)] == [False] * len(first)


@pytest.mark.usefixtures("unasked")
def test_rules_a_user_registered_count():
    model = on_meta(TINY["llama"])
    table.register_checkpoint_conversion_mapping(
        "llama", [rules.WeightRenaming("old_norm", "norm")], overwrite=True
    )
    table.USER_REGISTERED_MAPPINGS.discard("llama")
    assert "old_norm" in {rule.source_patterns[0] for rule in rules_of_model(model)}


@pytest.mark.usefixtures("unasked")
def test_a_release_that_makes_them_otherwise_is_asked_itself(monkeypatch):
    model = on_meta(TINY["llama"])
    wanted = [told(rule) for rule in table.get_model_conversion_mapping(model)]
    table._checkpoint_conversion_mapping_cache = None
    monkeypatch.setattr(name_rules, "_TABLE", "a name it does not have")
    name_rules._noted.cache_clear()
    try:
        assert [told(rule) for rule in rules_of_model(model)] == wanted
        known = {path: tuple(value.shape) for path, value in model.state_dict().items()}
        assert converted(model, {}, known).stored == {}
    finally:
        name_rules._noted.cache_clear()


def test_names_are_taken_in_the_order_of_their_numbers_whatever_counts_as_a_digit():
    names = ["layers.10.weight", "layers.².weight", "layers.9.weight", "layers.٣.weight"]
    stored = {name: StoredTensor(name, 0, 8, 4, "float32", (1,)) for name in names}
    found = list(converted(on_meta(TINY["llama"]), stored, {}).stored)
    assert found == ["layers.٣.weight", "layers.9.weight", "layers.10.weight", "layers.².weight"]


NUMBERS = (*range(13), 99, 100, 101, 102, 103)


def names_like(pattern):
    """Return names that a pattern may be for, alike but for a number."""
    text = re.sub(r"\\([.w])", r"\1", re.sub(r"\(\?.*?\)|[\^$?()+]|\\b", "", pattern)).replace("\\d", "*")
    text = text.replace(".*.", ".*").replace("*.", "*") if "*" in text else f"*.{text}"
    start = "" if text.startswith("*") else "model.layers.3."
    return [f"{start}{text.replace('*', f'{number}.').strip('.')}" for number in NUMBERS]


def test_what_stands_for_many_names_is_what_each_becomes():
    """One name of an expert stands for those of all, by the rules of every class transformers knows."""
    merged = []
    for name, made in table._build_checkpoint_conversion_mapping().items():
        patterns = [pattern for rule in made for pattern in rule.source_patterns]
        names = list(dict.fromkeys(other for pattern in patterns for other in names_like(pattern)))
        quick = list(Renaming(rules_of_class(name)).of(names))
        slow = Renaming(rules_of_class(name))
        assert sorted(each for same, _, _ in quick for each in same) == sorted(names)
        by_each = {each: (target, pattern) for same, target, pattern in quick for each in same}
        assert by_each == {each: slow.one(each) for each in sorted(names, key=natural)}, name
        merged += [name] if any(len(same) == len(NUMBERS) for same, _, _ in quick) else []
    assert {"mixtral", "qwen2_moe", "deepseek_v3"} <= {*merged}, merged


@pytest.mark.parametrize(
    ("pattern", "target"),
    [
        (r"experts\.1(\d*)\.up", r"some.\1"),  # only the second ten
        (r"experts\.\d\.up", "units"),  # those of one digit
        (r"experts\.(\d)\d*\.up", r"tens.\1"),
        (r"experts\.[2-4]+\.up", "some"),
        (r"experts\.\d+\.up", "all"),
    ],
)
def test_rules_that_tell_numbers_apart_are_asked_of_every_name(pattern, target):
    made = [rules.WeightRenaming(pattern, target)]
    names = [f"layers.3.experts.{number}.up" for number in NUMBERS]
    quick = {each: target for same, target, _ in Renaming(made).of(names) for each in same}
    assert quick == {each: made[0].rename_source_key(each)[0] for each in names}
    assert [*quick] == names
