"""The golden collector: a file under ``golden/`` whose first line says ``# run: ARGUMENTS`` is a test.

The command runs in a copy of the file's folder. ``%`` stands for the file; without one the file is the
input (a ``.run`` file is never an input). Beside it, ``NAME.expected`` holds the standard output, then
``-- stderr --``, then ``-- exit N --`` unless 0. ``pytest --update-golden`` rewrites what differs.

A first line ``# passes: LIST`` runs just these passes over the file, whatever they leave without a place;
``NAME.expected`` holds the plan that comes out, then ``-- findings --`` with what they had to say.
"""

from __future__ import annotations

import difflib
import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from extras import Module, skip_without_extra
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parent
GOLDEN = TESTS / "golden"
TRIGGERED = pytest.StashKey[set[str]]()
CACHE = pytest.StashKey[tempfile.TemporaryDirectory]()
RUN = "# run:"
HIDING = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "ZE_AFFINITY_MASK": ""}
"""What a machine with a card and a machine without one have in common; ``-m gpu`` asks for the card."""
PASSES = "# passes:"
INTERNAL_ERROR = 70


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files that differ")


def pytest_configure(config):
    if config.getoption("--update-golden") and os.environ.get("CI"):
        raise pytest.UsageError("--update-golden is for people, not for CI")
    if config.getoption("markexpr") != "gpu":
        os.environ.update(HIDING)  # before torch looks
    os.environ.setdefault(
        "OMP_NUM_THREADS", "1"
    )  # threads that wait for each other spin where cores are busy
    config.addinivalue_line("markers", "after_all: runs behind everything else, and only in a whole run")
    os.environ["XDG_CONFIG_HOME"] = str(TESTS / "no-configuration")  # rates of tests come from no machine
    config.stash[CACHE] = tempfile.TemporaryDirectory()  # removed with the run
    os.environ["XDG_CACHE_HOME"] = config.stash[CACHE].name
    config.stash[TRIGGERED] = watch_diagnostics()
    judge_no_clock()


def judge_no_clock():
    """Let no property test fail because the machine is slow: hypothesis has two clocks, both stop."""
    settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("no clock")


def watch_diagnostics():
    """Return a set that collects the code of every diagnostic made outside the tests themselves."""
    from compile_plan.ir import Diagnostic

    codes, make, tests = set(), Diagnostic.__init__, f"{TESTS}{os.sep}"

    def noting(self, rule, *arguments, **more):
        if not sys._getframe(1).f_code.co_filename.startswith(tests):
            codes.add(rule.code)
        make(self, rule, *arguments, **more)

    Diagnostic.__init__ = noting
    return codes


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from shared_fixtures import SharedFixtures  # xdist is there whenever it asks

    return SharedFixtures(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Move `after_all` tests behind the rest; in a partial run they have nothing to judge."""
    judges = [item for item in items if item.get_closest_marker("after_all")]
    others = [item for item in items if item not in judges]
    reason = None
    if hasattr(config, "workerinput"):
        reason = "each worker of xdist sees its own tests only; run without -n"
    elif not set(TESTS.rglob("test_*.py")) <= {item.path for item in items}:
        reason = "only a run of all tests can tell"
    for judge in judges if reason else ():
        judge.add_marker(pytest.mark.skip(reason=reason))
    items[:] = others + judges


@pytest.fixture
def triggered(request):
    """The codes of the diagnostics compile-plan made so far in this run."""
    return frozenset(request.config.stash[TRIGGERED])


@pytest.fixture
def triggered_elsewhere(request):
    """A set that takes the codes of the diagnostics that processes of a test's own made."""
    return request.config.stash[TRIGGERED]


def pytest_pycollect_makemodule(module_path, parent):
    return Module.from_parent(parent, path=module_path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup():
    try:
        return (yield)
    except ModuleNotFoundError as error:
        skip_without_extra(error)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    try:
        return (yield)
    except ModuleNotFoundError as error:
        skip_without_extra(error)
        raise


def pytest_collect_file(file_path, parent):
    if not file_path.is_relative_to(GOLDEN):
        return None
    if file_path.suffix == ".expected":
        cases = [
            path for path in file_path.parent.glob(f"{glob_escaped(file_path.stem)}.*") if arguments_of(path)
        ]
        return None if cases else GoldenFile.from_parent(parent, path=file_path)
    return GoldenFile.from_parent(parent, path=file_path) if arguments_of(file_path) else None


def glob_escaped(stem):
    return "".join(f"[{char}]" if char in "*?[" else char for char in stem)


def arguments_of(path):
    """Return the command line a case asks for, or None when the file is no case."""
    if path.suffix == ".expected":
        return None
    with path.open(encoding="utf-8", errors="replace") as file:
        first = file.readline()
    if first.startswith(PASSES):
        return [PASSES, first.removeprefix(PASSES).strip()]
    if not first.startswith(RUN):
        return None
    words = shlex.split(first.removeprefix(RUN))
    if path.suffix == ".run" or "%" in words:
        return [path.name if word == "%" else word for word in words]
    return [path.name, *words]


class GoldenFile(pytest.File):
    def collect(self):
        yield GoldenCase.from_parent(self, name=self.path.stem)


class GoldenCase(pytest.Item):
    def runtest(self):
        arguments = arguments_of(self.path)
        expected = self.path.with_suffix(".expected")
        if arguments is None:
            raise GoldenError(f"{expected.name} has no case beside it; delete it")
        alone = arguments[0] == PASSES
        actual = after_passes(arguments[1], self.path) if alone else outcome(arguments, self.path.parent)
        known = expected.read_text(encoding="utf-8") if expected.exists() else None
        if actual == known:
            return
        if self.config.getoption("--update-golden"):
            expected.write_text(actual, encoding="utf-8")
            return
        if known is None:
            raise GoldenError(f"{expected.name} is missing; run pytest --update-golden and read it")
        changes = difflib.unified_diff(
            known.splitlines(), actual.splitlines(), "expected", "actual", lineterm=""
        )
        raise GoldenError("\n".join(changes))

    def repr_failure(self, excinfo, style=None):
        if isinstance(excinfo.value, GoldenError):
            command = shlex.join(["compile-plan", *(arguments_of(self.path) or [])])
            return f"{self.path}\n$ {command}\n{excinfo.value}"
        return super().repr_failure(excinfo, style)

    def reportinfo(self):
        return self.path, 0, f"golden: {self.path.relative_to(GOLDEN)}"


class GoldenError(Exception):
    """A golden case whose output is not what its file says."""


def after_passes(names, path):
    """Run a list of passes over a file and return what an ``.expected`` file holds."""
    from compile_plan.compiler.cli.pass_list import read_passes
    from compile_plan.compiler.passes.pipeline import run_passes
    from compile_plan.grammar import parse, print_plan
    from compile_plan.ir import Diagnostics, PlanError

    found = Diagnostics()
    passes = read_passes(names, found)
    found.raise_errors()
    plan = run_passes(parse(path.read_text(encoding="utf-8"), name=path.name), passes, found)
    text = print_plan(plan, with_modules=True)
    return text + (f"-- findings --\n{PlanError(found)}\n" if len(found) else "")


def outcome(arguments, folder):
    """Run the command in a copy of the folder and return what an ``.expected`` file holds."""
    from command import run_command

    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, folder.name)
        shutil.copytree(folder, copy)
        result = run_command(arguments, cwd=copy)
    if result.code == INTERNAL_ERROR:
        raise GoldenError(f"a bug of ours is no golden result:\n{result.err}")
    text = result.out
    if result.err:
        text += f"-- stderr --\n{result.err}"
    if result.code:
        text += f"-- exit {result.code} --\n"
    return text
