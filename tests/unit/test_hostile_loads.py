"""Loading to devices under whatever a checkpoint holds and whatever happens meanwhile."""

from __future__ import annotations

import sys

import pytest
from own_process import run_support

RAISED = {
    "a copy fails": "RuntimeError",
    "there is no memory for slots": "no-memory",
    "Ctrl-C while copying": "KeyboardInterrupt",
    "Ctrl-C while slots are got ready": "KeyboardInterrupt",
}


@pytest.fixture(name="found", scope="module")
def _found():
    return run_support("hostile_loads.py")


def test_every_shape_of_checkpoint_arrives_to_the_bit(found):
    assert len(found["shapes"]) == 21
    assert set(found["shapes"].values()) == {True}, found["shapes"]


def test_several_loads_at_once_do_not_meet(found):
    assert found["several at once"] is True


@pytest.mark.skipif(sys.platform != "linux", reason="open files are counted in /proc")
def test_a_load_that_fails_leaves_nothing_behind_and_the_next_is_right(found):
    assert found["failures"] == {title: [raised, [], [], True] for title, raised in RAISED.items()}
