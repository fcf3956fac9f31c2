"""Problems of few kinds: the counts found without the solver are the solver's."""

from __future__ import annotations

import subprocess
import sys
from math import inf

import pytest
from compile_plan.compiler.placing.terms import Pool
from compile_plan.compiler.search import few_kinds, outoforder
from compile_plan.compiler.search.arrange import arrange
from compile_plan.compiler.search.clock import Clock
from compile_plan.compiler.search.found import spilled_bytes
from compile_plan.compiler.search.problem import UNLIMITED, Atom, Problem, is_legal
from compile_plan.ir import Device
from hypothesis import given, settings
from hypothesis import strategies as st

NAMES = ("cuda:0", "cuda:1", "cpu", "disk")
SIZES = st.integers(0, 12)


def problem(rooms, atoms, **more):
    devices = tuple(Device(name, None) for name, room in zip(NAMES, rooms, strict=True) if room is not None)
    grains = tuple(
        Atom((i,), weight, demand, peak, stream=weight, banned=frozenset(banned))
        for i, (weight, demand, peak, banned) in enumerate(atoms)
    )
    return Problem(devices, tuple(room for room in rooms if room is not None), grains, **more)


@st.composite
def problems(draw):
    bans = st.sampled_from([(), (), (), (0,)])
    kinds = draw(st.lists(st.tuples(SIZES, st.sampled_from([0, 0, 3]), SIZES, bans), min_size=1, max_size=4))
    atoms = [kind for kind in kinds for _ in range(draw(st.integers(1, 4)))]
    second = draw(st.sampled_from([None, 10, 25, 60]))
    host = draw(st.sampled_from([UNLIMITED, 200, 5]))
    known = {"peaks": (3,) * (3 if second is None else 4), "buffers": (2,) * (3 if second is None else 4)}
    rooms = [draw(st.integers(1, 60)), second, host, UNLIMITED]
    return problem(rooms, atoms, **(known if draw(st.booleans()) else {}))


@settings(max_examples=300)
@given(problems(), st.sampled_from(["stream", "none", "any"]))
def test_as_many_bytes_stay_as_the_solver_keeps(asked, policy):
    counts = few_kinds.most_bytes_of_few(asked, policy)
    if counts is None:
        return
    places = arrange(asked, counts, by_run=False)
    solved = outoforder.most_bytes(asked, policy, Clock(inf))
    assert is_legal(asked, places)
    assert sum(atom.weight for atom in asked.atoms) - spilled_bytes(asked, places) == counts.bound
    assert solved is not None
    assert (solved.proven, solved.bound) == (True, counts.bound)


@settings(max_examples=200)
@given(problems())
def test_the_least_bytes_more_are_the_solvers(asked):
    extra = few_kinds.least_extra_of_few(asked, 0)
    if extra is not None:
        assert extra == outoforder.least_extra(asked, "none", 0, Clock(inf))


def layers(count, *more):
    return [(100, 0, 0, ())] * count + [(size, 0, 0, ()) for size in more]


@pytest.mark.parametrize(
    ("asked", "few"),
    [
        (problem([1000, None, UNLIMITED, None], layers(40, 70, 90, 3)), True),
        (problem([1000, 900, UNLIMITED, None], layers(40, 70, 90, 3)), True),
        (problem([1000, 900, 500, UNLIMITED], layers(40, 70, 90, 3)), True),
        (problem([1000, 900, 500, None], layers(40, 70, 90, 3)), False),
        (problem([1000, 900, UNLIMITED, None], layers(40, *range(50, 70))), False),
        (problem([1000, None, UNLIMITED, None], layers(9), pools=(Pool((0, 1), 500),)), False),
    ],
)
def test_what_counts_as_few(asked, few):
    assert (few_kinds.most_bytes_of_few(asked, "stream") is not None) is few


def test_of_equal_counts_the_least_restless_are_taken():
    asked = problem([300, 300, UNLIMITED, None], [(100, 0, 0, ()), *layers(4), (100, 0, 0, ())])
    counts = few_kinds.most_bytes_of_few(asked, "stream")
    assert [place.run for place in arrange(asked, counts, by_run=False)] == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("budget", ["cuda:0=3KiB", "cuda:0=2KiB,cuda:1=3KiB"])
def test_a_plain_spill_opens_no_solver(tmp_path, budget):
    table = "".join(f"module layers.{i} : Layer 512B\n" for i in range(16))
    source = tmp_path / "model.plan"
    source.write_text(
        f'plan 1\nmodel "m"\nmodule embed : Embedding 700B\nmodule layers : ModuleList\n{table}'
    )
    script = (
        "import sys; from compile_plan.compiler.cli.command import main; "
        f"code = main([{str(source)!r}, '-q', '--memory', '{budget},cpu=1GiB', '--offload', 'stream', "
        "'--objective', 'accelerator-bytes']); "
        "print(code, sorted({'numpy', 'highspy'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "0 []", ran.stderr
