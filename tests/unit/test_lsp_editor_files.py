"""The editor's files: the highlighting knows every keyword of the grammar, the extension starts the server.

That it packs is shown by `.ci/editor`, which needs what npm loads.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from compile_plan.grammar.statements import FORMS, INNER_WORDS
from lsp_session import Session

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


def test_the_packages_of_the_extension_are_locked_to_no_address():
    package, lock = (
        json.loads((FOLDER / f"{name}.json").read_text()) for name in ("package", "package-lock")
    )
    assert lock["packages"][""]["dependencies"] == package["dependencies"]
    packages = {name: each for name, each in lock["packages"].items() if name}
    assert all(each["integrity"].startswith("sha512-") for each in packages.values())
    assert not any("resolved" in each for each in packages.values())


def activate(setting=(), *, trusted=True, folder="", failure=""):
    """Activate the extension, restart and deactivate it; return what it did."""
    if shutil.which("node") is None:
        pytest.skip("the extension runs in node")
    script = ROOT / "tests" / "support" / "activate_extension.js"
    arguments = [json.dumps(setting), json.dumps(trusted), str(folder), failure]
    ran = subprocess.run(["node", script, *arguments], capture_output=True, text=True, check=True)
    return json.loads(ran.stdout)


@pytest.fixture
def folder(tmp_path):
    command = tmp_path / ".venv" / "bin" / "compile-plan"
    command.parent.mkdir(parents=True)
    command.touch()
    return tmp_path


def test_opening_a_plan_starts_a_server_that_answers(tmp_path):
    done = activate()
    assert done["started"] == [["compile-plan", "--lsp"]] * 2
    assert (done["stopped"], done["said"]) == (2, [])
    assert done["selector"] == [{"scheme": "file", "language": "plan"}]
    assert done["commands"] == ["compile-plan.restart"]
    with Session(tmp_path, arguments=done["started"][0][1:]) as session:
        assert session.open("a.plan", "plcae a on cpu\n")[0]["code"] == "unknown-keyword"


def test_the_command_is_that_of_the_setting_else_of_a_trusted_folder(folder):
    own = str(folder / ".venv" / "bin" / "compile-plan")
    assert activate(folder=folder)["started"][0] == [own, "--lsp"]
    assert activate(folder=folder, trusted=False)["started"][0] == ["compile-plan", "--lsp"]
    assert activate(["python", "-m", "x"], folder=folder)["started"][0] == ["python", "-m", "x", "--lsp"]


def test_a_command_that_is_not_there_is_said_with_what_to_install():
    (message, _) = activate(failure="spawn compile-plan ENOENT")["said"]
    assert "ENOENT" in message
    assert "pip install 'compile-plan[lsp]'" in message
