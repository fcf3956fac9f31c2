"""Documentation is run: commands in ``console`` blocks, ``python`` and ``plan`` blocks, docstrings.

Every document gets a folder of its own with a copy of ``examples/``. A block whose info string has a
second word (``plan edits.plan``) is first written to a file of that name. In expected output a line
``...`` stands for any lines. ``<!-- not run: REASON -->`` in the line before leaves a block out.
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from command import run_command
from compile_plan.compiler.passes import PASSES
from compile_plan.compiler.passes.pipeline import run_passes
from compile_plan.grammar import parse, print_plan
from compile_plan.ir import Diagnostics

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "grammar" / "language.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = sorted(
    path for top in ("ir", "grammar", "backends", "compiler") for path in (ROOT / top).rglob("*.py")
)
FENCE = re.compile(
    r"^(?P<before>[^\n]*\n)?```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"\]\((?!https?:)(?P<path>[^)#\s]*)#?(?P<anchor>[^)\s]*)\)")
TIME = re.compile(r"\d[\d.]*(?= (?:us|ms|s)\b)")
NOT_OURS = ("pip ", "git ", "python3 -m venv", ". ", "cd ", "bash ")


def shown(path):
    return path.relative_to(ROOT).as_posix()


@dataclass
class Block:
    kind: str
    file: str
    body: str
    line: int


def blocks(path):
    """Yield the fenced blocks that are to be run."""
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        if "<!-- not run:" in (match["before"] or ""):
            continue
        kind, _, file = match["info"].strip().partition(" ")
        yield Block(kind, file.strip(), match["body"], text.count("\n", 0, match.start("info")) + 1)


@pytest.mark.parametrize("path", DOCUMENTS, ids=shown)
def test_the_examples_of_a_document_work(path, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    names = {"__name__": "__docs__"}
    for block in blocks(path):
        if block.file:
            (tmp_path / block.file).write_text(block.body, encoding="utf-8")
        try:
            run_block(block, names)
        except Exception as error:
            error.add_note(f"{shown(path)}:{block.line}: ```{block.kind}")
            raise


def links(path):
    """Yield the file and the anchor of every relative link outside the fenced blocks."""
    for match in LINK.finditer(FENCE.sub("", path.read_text(encoding="utf-8"))):
        yield (path.parent / match["path"]).resolve() if match["path"] else path, match["anchor"]


def anchors(path):
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=shown)
def test_links_lead_somewhere(path):
    for target, anchor in links(path):
        assert target.exists(), f"{shown(path)} links to {target}"
        assert not anchor or anchor in anchors(target), f"{shown(path)} links to #{anchor} of {target}"


def test_every_document_is_linked_from_the_readme():
    assert {*DOCUMENTS} - {ROOT / "README.md"} == {
        target for target, _ in links(ROOT / "README.md") if target.suffix == ".md"
    }


def run_block(block, names):
    match block.kind:
        case "console":
            for command, expected in commands(block.body):
                check_command(command, expected)
        case "python" if not block.file:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block.body, f"line {block.line}", "exec"), names)  # noqa: S102
        case "plan" if not block.file:
            parse(block.body, name=f"line {block.line}")
        case _:
            pass


def commands(body):
    """Yield each ``$ command`` of a block with the output shown below it; a backslash joins lines."""
    for part in re.split(r"^\$ ", body.replace("\\\n", ""), flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        yield command.strip(), expected.strip("\n")


def check_command(command, expected):
    if command.startswith(NOT_OURS):
        return
    code, output = run_line(command.partition("  #")[0].rstrip())
    should_fail = "error[" in expected
    assert (code != 0) == should_fail or code == 3, f"$ {command}\nexit {code}\n{output}"
    if expected:
        assert matches(expected, output), f"$ {command}\n--- documented\n{expected}\n--- actual\n{output}"


def run_line(command):
    if command.startswith("compile-plan ") and not set(command) & set("|<>&;$"):
        result = run_command(shlex.split(command)[1:])
        return result.code, result.err + result.out
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    return run.returncode, run.stderr + run.stdout


def matches(expected, output):
    """Say whether the output is as documented; a line ``...`` stands for any lines, or none.

    Predicted times are within 3 %: transformers' versions differ by a few of the kernels they launch.
    """
    lines = (TIME.split(line.rstrip()) for line in expected.splitlines())
    pattern = "".join(
        "(?:.*\n)*" if parts == ["..."] else r"(\d[\d.]*)".join(map(re.escape, parts)) + "\n"
        for parts in lines
    )
    actual = "".join(f"{line.rstrip()}\n" for line in output.strip("\n").splitlines())
    found = re.fullmatch(pattern, actual)
    told = map(float, TIME.findall(expected))
    return found is not None and [*map(float, found.groups())] == [
        pytest.approx(each, rel=0.03) for each in told
    ]


@pytest.mark.parametrize(
    ("expected", "output", "same"),
    [
        ("a\nb", "a\nb\n", True),
        ("a\n...\nd", "a\nb\nc\nd", True),
        ("a\n...\nd", "a\nd", True),
        ("a\n...", "a\nb", True),
        ("a\n...\nd", "a\nb\ndd", False),
        ("a.c", "abc", False),
        ("took 25.3 ms, 2 s", "took 25 ms, 2.05 s", True),
        ("took 25.3 ms, 2 s", "took 25 ms, 2.1 s", False),
        ("took 25.3 ms", "took 25.3 s", False),
    ],
)
def test_documented_output_is_compared_line_by_line(expected, output, same):
    assert matches(expected, output) is same


def sections(docstring):
    """Return the Before and After programs of a pass's docstring."""
    before, after = re.split(r"^ *After:\n", docstring.partition("Before:\n")[2], flags=re.MULTILINE)
    return dedented(before), dedented(after)


def dedented(text):
    lines = [line for line in text.splitlines() if line.startswith("    ") or not line.strip()]
    return "\n".join(line.removeprefix("    ") for line in lines).strip("\n") + "\n"


@pytest.mark.parametrize("name", PASSES)
def test_the_docstring_of_a_pass_is_true(name):
    module = importlib.import_module(PASSES[name].__module__)
    before, after = sections(module.__doc__)
    diagnostics = Diagnostics()
    result = run_passes(parse(before, name="Before"), [PASSES[name]()], diagnostics)
    assert diagnostics.errors == ()
    assert written(parse(written(result))) == written(parse(after, name="After"))


def written(plan):
    return print_plan(plan, with_modules=True)


def test_every_pass_is_in_the_table():
    folder = ROOT / "compiler" / "passes"
    defined = {
        item.value.value
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        for item in node.body
        if isinstance(item, ast.AnnAssign)
        and ast.unparse(item.target) == "name"
        and isinstance(item.value, ast.Constant)
    }
    assert defined == set(PASSES)
    assert {name.replace("-", "_") for name in PASSES} <= {path.stem for path in folder.glob("*.py")}


def test_docstring_examples_work():
    for path in MODULES:
        if ">>> " in path.read_text(encoding="utf-8"):
            name = ".".join(("compile_plan", *path.relative_to(ROOT).with_suffix("").parts))
            assert doctest.testmod(importlib.import_module(name)).failed == 0, name


def test_every_rule_has_a_page_of_its_own():
    from compile_plan.ir import RULES

    assert {path.stem for path in (ROOT / "ir" / "rules" / "pages").iterdir()} == {*RULES}
    for rule in RULES.values():
        assert rule.summary, rule.code
        assert len(rule.page.split()) >= 15, rule.code
        assert rule.summary[0].islower() or rule.summary.startswith("`"), rule.code
        assert not rule.summary.endswith("."), rule.code
