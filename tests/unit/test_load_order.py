"""In which order a load to a device checks, asks for memory, sends and changes the model."""

from __future__ import annotations

import pytest
from own_process import run_support

COUNT = 60
"""Tensors of the program's model, a slot each."""
READY = 3 * 4 + 3 + 2
"""Tensors that may be ready before the first is sent: four for each of three threads, those in hand."""


@pytest.fixture(name="found", scope="module")
def _found():
    return run_support("load_order.py")


def test_bytes_are_sent_while_memory_for_others_is_still_to_be_asked_for(found):
    order = found["order"]
    assert found["right"]
    assert order.count("memory") == order.count("sent") == COUNT
    assert order[: order.index("sent")].count("memory") <= READY


def test_everything_is_matched_before_and_nothing_changes_until_all_is_there(found):
    order = found["order"]
    assert order[0] == "matched"
    assert order.index("changed") == len(order) - 1


def test_copies_come_after_what_last_used_their_memory(found):
    assert found["order"].count("marked") == COUNT
    assert "too-early" not in found["order"]


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        ("a tensor is missing", "tensor-not-in-checkpoint"),
        ("a tensor is left over", "tensor-not-in-model"),
        ("a shape differs", "wrong-shape"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_asked_of_the_device(found, failure, raised):
    told = found["failures"][failure]
    assert told == {"raised": raised, "unchanged": True, "threads": [], "happened": ["matched"]}


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        ("a file breaks in the middle", "unreadable-weights"),
        ("the card is full in the middle", "the card has no memory left"),
    ],
)
def test_what_fails_in_the_middle_leaves_the_model_as_it_was(found, failure, raised):
    told = found["failures"][failure]
    assert told.pop("happened") == ["marked", "matched", "memory", "sent"]
    assert told == {"raised": raised, "unchanged": True, "threads": []}
