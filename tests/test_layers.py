"""Imports only point down, heavy libraries have one door, and doors stay shut until needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter, defaultdict
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LADDER = ("ir", "grammar", "backends", "compiler")
FLOORS = (
    ("ir",),
    ("grammar",),
    ("backends",),
    ("placing", "machine", "running", "sources"),
    ("search", "accelerate", "answers"),
    ("lines", "tracing"),
    ("passes", "loading"),
    ("lsp", "driver"),
    ("cli",),
    ("",),
)
"""The folders from the bottom up, those of ``compiler/`` by their own names, its root as ``""``."""
FILES = sorted(path for top in LADDER for path in (ROOT / top).rglob("*.py"))

DOORS = {
    "accelerate": {"compiler/loading/"},
    "gguf": {"backends/engines/gguf_names.py", "compiler/sources/gguf_file.py"},
    "highspy": {"compiler/search/highs.py"},
    "lark": {"grammar/parser.py"},
    "msgpack": {"backends/msgpack_file.py"},
    "networkx": {"compiler/passes/merge_ties.py", "compiler/tracing/graph.py"},
    "rich": {"compiler/cli/terminal.py", "compiler/loading/progress.py"},
    "transformers": {
        "compiler/driver/pretrained.py",
        "compiler/driver/from_transformers.py",
        "compiler/driver/trial.py",
        "compiler/sources/config.py",
        "compiler/sources/name_rules.py",
        "compiler/sources/renaming.py",
    },
    "torch": {
        "compiler/driver/drop_in.py",
        "compiler/loading/",
        "compiler/machine/asked_layers.py",
        "compiler/machine/calibration.py",
        "compiler/machine/this_machine.py",
        "compiler/running/",
        "compiler/sources/",
        "compiler/tracing/",
    },
}
"""Which files, or folders, may import a heavy library."""


@cache
def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path):
    """Return each import of a file as an absolute dotted name, ``compile_plan.ir.names``; not for types."""
    tree = parsed(path)
    for_types = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    package = ("compile_plan", *path.relative_to(ROOT).parent.parts)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node in for_types) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*start, *((node.module,) if node.module else ())))
            names = [base] if node.module else [f"{base}.{alias.name}" for alias in node.names]
            found += [(name, node in for_types) for name in names]
    return found


def shown(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_imports_point_down(path):
    own = LADDER.index(path.relative_to(ROOT).parts[0])
    tops = {name.split(".")[1] for name, _ in imports(path) if name.startswith("compile_plan.")}
    assert {top for top in tops if LADDER.index(top) > own} == set()


def folder(parts):
    """Return the folder on the floors that a file or an imported name belongs to."""
    inside = len(parts) > 1 and (ROOT / "compiler" / parts[1]).is_dir()
    return parts[0] if parts[0] != "compiler" else parts[1] if inside else ""


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_every_folder_stands_on_lower_ones(path):
    """Those of one floor do not know each other; an import for types or inside a function counts too."""
    floor = {name: height for height, names in enumerate(FLOORS) for name in names}
    own = folder(path.relative_to(ROOT).parts)
    used = {folder(name.split(".")[1:]) for name, _ in imports(path) if name.startswith("compile_plan.")}
    assert {name for name in used - {own} if floor[name] >= floor[own]} == set()


def test_no_file_imports_itself_through_others():
    names = {
        shown(path).removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in FILES
    }
    graph = {
        name: {used for each, _ in imports(path) if (used := _file(each, names)) and used != name}
        for name, path in names.items()
    }
    list(TopologicalSorter(graph).static_order())  # raises `CycleError` with the files


def _file(dotted, names):
    parts = dotted.split(".")[1:] if dotted.startswith("compile_plan.") else []
    ways = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((way for way in ways if way in names), None)


def test_a_file_name_stands_once():
    counts = Counter(path.name for path in (ROOT / "compiler").rglob("*.py"))
    assert {name for name, count in counts.items() if count > 1} <= {"__init__.py", "__main__.py"}


FACES = {"infer_auto_device_map", "load_model", "runtime_report", "verify_plan"}
"""What the root of ``compiler/`` offers under the name of what it opens."""
SPOKEN = {"accepts", "emit", "lines", "read"}
"""What every engine's file answers to."""


def test_a_public_name_is_defined_once():
    where = defaultdict(set)
    for path in FILES:
        for node in parsed(path).body:
            spoken = path.parent.name == "engines" and getattr(node, "name", "") in SPOKEN
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not (spoken or node.name.startswith("_")):
                where[node.name].add(shown(path))
    twice = {name: sorted(paths) for name, paths in where.items() if len(paths) > 1}
    assert {name: paths for name, paths in twice.items() if name not in FACES} == {}


@pytest.mark.parametrize("path", [*FILES, *sorted((ROOT / "tests").rglob("*.py"))], ids=shown)
def test_nothing_imports_a_second_copy(path):
    assert {name for name, _ in imports(path) if name.split(".")[0] in LADDER} == set()


@pytest.mark.parametrize("library", DOORS)
def test_a_heavy_library_comes_in_by_its_door(library):
    users = {
        shown(path)
        for path in FILES
        if any(name.split(".")[0] == library and not typing for name, typing in imports(path))
    }
    assert {user for user in users if not user.startswith(tuple(DOORS[library]))} == set()


HEAVY = ("torch", "transformers", "accelerate", "highspy", "networkx", "numpy", "rich.console")


def loaded_by(code):
    """Return which heavy modules a fresh interpreter has loaded after running the code."""
    probe = (
        f"import sys\n{code}\nprint(*[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return run.stderr.splitlines()[-1].split()


@pytest.mark.parametrize(
    "code",
    [
        "import compile_plan.ir, compile_plan.grammar, compile_plan.backends, compile_plan.compiler",
        "from compile_plan.compiler.cli.command import main; main(['--help'])",
        "from compile_plan.compiler.cli.command import main; main(['--explain-code', 'tie-across-devices'])",
        "from compile_plan.compiler.cli.command import main; main(['--memory', 'x'])",
    ],
    ids=["imports", "help", "explain-code", "usage-error"],
)
def test_what_needs_no_heavy_library_loads_none(code):
    assert loaded_by(code) == []


def test_text_to_text_loads_no_torch(tmp_path):
    plan = tmp_path / "small.plan"
    plan.write_text('plan 1\nmodel "m"\n\ndevice cpu memory 1GiB\n\nplace . on cpu\n')
    arguments = [str(plan), "-o", str(tmp_path / "o.msgpack")]
    code = f"from compile_plan.compiler.cli.command import main; main({arguments!r})"
    assert "torch" not in loaded_by(code)
    assert (tmp_path / "o.msgpack").exists()
