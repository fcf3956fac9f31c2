"""The editor's files: the highlighting is valid and knows every keyword of the grammar."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from compile_plan.grammar.statements import FORMS, INNER_WORDS

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "editors" / "vscode"
GRAMMAR = json.loads((FOLDER / "syntaxes" / "plan.tmLanguage.json").read_text())
KEYWORDS = re.findall(
    r'^[A-Z]+(?:\.\d)?: "([a-z]+)"$', (ROOT / "grammar" / "plan.lark").read_text(), re.MULTILINE
)


def rules(node):
    """Yield every rule that matches something, includes followed once."""
    if isinstance(node, dict):
        if "match" in node:
            yield node
        for value in node.values():
            yield from rules(value)
    elif isinstance(node, list):
        for value in node:
            yield from rules(value)


def scopes(row):
    """Highlight one line as an editor does: at each place the first rule that matches there."""
    order = []
    for include in GRAMMAR["patterns"]:
        order += rules(GRAMMAR["repository"][include["include"].removeprefix("#")])
    at, found = 0, []
    while at < len(row):
        matches = [
            (match.start(), i)
            for i, rule in enumerate(order)
            if (match := re.compile(rule["match"]).search(row, at))
        ]
        if not matches:
            break
        _, first = min(matches)
        match = re.compile(order[first]["match"]).search(row, at)
        parts = order[first].get("captures", {})
        found += [(match[int(n)], part["name"]) for n, part in parts.items() if match[int(n)]]
        if "name" in order[first]:
            found.append((match[0], order[first]["name"]))
        at = max(match.end(), at + 1)
    return {word: name.removesuffix(".plan") for word, name in found}


def test_every_pattern_is_a_regular_expression_with_its_captures():
    found = list(rules(GRAMMAR))
    assert len(found) >= 10
    for rule in found:
        groups = re.compile(rule["match"]).groups
        assert all(int(number) <= groups for number in rule.get("captures", {}))
        assert "name" in rule or "captures" in rule


def test_every_include_exists():
    includes = re.findall(r'"include": "#([a-z-]+)"', json.dumps(GRAMMAR))
    assert set(includes) == set(GRAMMAR["repository"])


def test_the_keywords_here_are_those_of_the_grammar():
    assert len(KEYWORDS) > 25
    assert set(KEYWORDS) == set(FORMS) | INNER_WORDS


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_a_keyword_is_highlighted_where_it_stands(keyword):
    row = f"{keyword} x" if keyword in FORMS else f"place x {keyword} y"
    assert scopes(row)[keyword].startswith(("keyword.", "storage."))


@pytest.mark.parametrize(
    ("row", "word", "scope"),
    [
        ("place a on cuda:0  # on cpu", "cuda:0", "constant.language.device"),
        ("place a on cuda:0  # on cpu", "# on cpu", "comment.line.number-sign"),
        ("place a on node1/xpu:3", "node1/xpu:3", "constant.language.device"),
        ("device cuda:0 memory 1.5GiB", "1.5GiB", "constant.numeric"),
        ("device cuda:0 bandwidth 900GB/s", "900GB/s", "constant.numeric"),
        ('place "a on cpu" on disk', '"a on cpu"', "string.quoted.double"),
        ("place h.{0..5} on cpu", "{0..5}", "keyword.operator.wildcard"),
        ("atomic class GPT2Block", "GPT2Block", "entity.name.type.class"),
        ("module h.0 : GPT2Block 4KiB", "GPT2Block", "entity.name.type.class"),
        ("parameter w : float32[4,4] 64B", "float32", "support.type"),
    ],
)
def test_words_are_highlighted_by_what_they_are(row, word, scope):
    assert scopes(row).get(word) == scope


def test_a_path_that_is_spelled_like_a_keyword_is_none():
    assert "keyword.other" not in scopes("place model.on.run on cpu").get("model.on.run", "")
    assert scopes("place place.x on cpu")["place"] == "keyword.control"


def test_the_extension_names_files_that_exist():
    package = json.loads((FOLDER / "package.json").read_text())
    contributes = package["contributes"]
    named = [
        package["main"],
        contributes["languages"][0]["configuration"],
        contributes["grammars"][0]["path"],
    ]
    assert all((FOLDER / name).is_file() for name in named)
    json.loads((FOLDER / "language-configuration.json").read_text())
    assert contributes["grammars"][0]["scopeName"] == GRAMMAR["scopeName"]
    assert "--lsp" in (FOLDER / "extension.js").read_text()
