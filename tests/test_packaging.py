"""What is in the wheel: a folder forgotten in the list would be silently absent."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOP = ("backends", "compiler", "grammar", "ir")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = SETTINGS["tool"]["setuptools"]


def test_every_package_folder_is_listed():
    folders = {path.parent.relative_to(ROOT) for top in TOP for path in (ROOT / top).rglob("__init__.py")}
    names = {"compile_plan"} | {".".join(("compile_plan", *folder.parts)) for folder in folders}
    assert sorted(names) == SETUPTOOLS["packages"]


def test_every_python_folder_is_a_package():
    folders = {path.parent for top in TOP for path in (ROOT / top).rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("top", TOP)
def test_a_top_level_folder_is_installed_typed_under_the_namespace(top):
    assert SETUPTOOLS["package-dir"][f"compile_plan.{top}"] == top
    assert (ROOT / top / "py.typed").exists()
    assert (ROOT / ".typings" / "compile_plan" / top).resolve() == ROOT / top


def test_data_files_have_a_pattern():
    patterns = SETUPTOOLS["package-data"]
    known = {".py", *(pattern.removeprefix("*") for patterns_ in patterns.values() for pattern in patterns_)}
    files = [path for top in TOP for path in (ROOT / top).rglob("*") if path.is_file()]
    stray = [path for path in files if "__pycache__" not in path.parts and path.suffix not in known]
    assert [str(path.relative_to(ROOT)) for path in stray if path.name != "py.typed"] == []


def test_the_command_and_the_module_are_the_same():
    assert SETTINGS["project"]["scripts"]["compile-plan"] == "compile_plan.compiler.cli.command:main"
    assert (ROOT / "compiler" / "__main__.py").exists()
