"""What is in the wheel: a folder forgotten in the list would be silently absent. What may be released."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import version
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


SOURCES = ("pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE", "constraints.txt")
LITTER = ("tests/test_a.py", "shared/notes.md", "compiler/passes/__pycache__/a.pyc", "ir/b.pyc")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return a copy of the sources among what may lie around in a folder people work in."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        shutil.copy(ROOT / name, folder)
    for top in (*TOP, "compile_plan"):
        shutil.copytree(ROOT / top, folder / top, ignore=shutil.ignore_patterns("__pycache__"))
    for name in LITTER:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    return folder


def built(source, what):
    if int(version("setuptools").partition(".")[0]) < 77:
        pytest.skip("what builds the package is older than it asks for")
    program = f"from setuptools import build_meta; build_meta.build_{what}('dist')"
    subprocess.run([sys.executable, "-c", program], cwd=source, capture_output=True, check=True)
    (found,) = (source / "dist").glob("*.whl" if what == "wheel" else "*.tar.gz")
    return found


def modules(folder):
    return {path.relative_to(folder).as_posix() for top in TOP for path in (folder / top).rglob("*.py")}


def test_the_wheel_holds_the_package_and_nothing_else(source):
    names = set(zipfile.ZipFile(built(source, "wheel")).namelist())
    tops = {name.split("/")[0] for name in names}
    assert tops == {"compile_plan", next(top for top in tops if top.endswith(".dist-info"))}
    files = {name.removeprefix("compile_plan/") for name in names if name.startswith("compile_plan/")}
    assert {name for name in files if name.endswith(".py")} == modules(ROOT) | {"__init__.py"}
    assert {Path(name).suffix for name in files} == {".py", ".typed", ".json", ".lark", ".md"}
    assert {f"{top}/py.typed" for top in TOP} | {"py.typed"} <= files
    assert not any("__pycache__" in name or name.endswith(".pyc") for name in files)


def test_python_started_in_the_clone_finds_what_is_installed(source, tmp_path):
    shutil.unpack_archive(built(source, "wheel"), tmp_path, "zip")
    program = (
        "import sys; sys.path[:] = ['', *sys.argv[1:]]; import compile_plan.ir as ir; print(ir.__file__)"
    )
    here = [part for part in sys.path if part]
    ran = subprocess.run(  # -S: without the finders of an editable installation
        [sys.executable, "-S", "-c", program, str(tmp_path), *here],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.strip() == str(tmp_path / "compile_plan" / "ir" / "__init__.py"), ran.stderr


def test_the_source_distribution_holds_what_the_wheel_is_built_from(source):
    with tarfile.open(built(source, "sdist")) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()} - {""}
    tops = {name.partition("/")[0] for name in names}
    ours = {*TOP, "compile_plan", "compile_plan.egg-info"}
    assert tops <= {*ours, *SOURCES, "PKG-INFO", "setup.cfg"}
    assert modules(ROOT) <= names
    assert not any("__pycache__" in name or name.endswith(".pyc") for name in names)


def test_what_the_tests_pin_is_allowed_and_pinned_once():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    pinned = [re.split("==", line)[0] for line in lines]
    assert len(pinned) == len(set(pinned))
    extras = SETTINGS["project"]["optional-dependencies"].values()
    asked = [*SETTINGS["project"]["dependencies"], *(each for extra in extras for each in extra)]
    assert {re.split(r"[\[<>=; ]", each)[0] for each in asked} <= set(pinned)


@pytest.fixture
def repository(tmp_path):
    """Return a repository with what a release looks at, one commit."""
    if shutil.which("git") is None:
        pytest.skip("a release is a tag of git")
    for name in ("pyproject.toml", "CHANGELOG.md", ".ci/release", "editors/vscode/package.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    return tmp_path


def git(folder, *arguments):
    who = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder):
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "a commit")


def refused(folder):
    ran = subprocess.run(["bash", ".ci/release"], cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    return ran.stderr


def test_a_release_is_refused_until_tag_changelog_and_versions_agree(repository):
    number = SETTINGS["project"]["version"]
    assert f"git tag v{number}" in refused(repository)
    (repository / "new.txt").touch()
    assert "the tree has changes" in refused(repository)
    commit(repository)
    git(repository, "tag", "v9.9.9")
    assert f"git tag v{number}" in refused(repository)
    changes = repository / "CHANGELOG.md"
    changes.write_text(f"## [{number}9] - 2026-01-01\n")
    commit(repository)
    git(repository, "tag", f"v{number}")
    assert f"no line `## [{number}] - YYYY-MM-DD`" in refused(repository)
    changes.write_text(f"## [{number}] - 2026-01-01\n")
    package = repository / "editors" / "vscode" / "package.json"
    package.write_text(package.read_text().replace(number, "9.9.9"))
    commit(repository)
    git(repository, "tag", "-f", f"v{number}")
    assert "editors/vscode/package.json has another version" in refused(repository)
