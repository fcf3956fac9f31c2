"""Streaming to a card whose copies happen as late as they may: nothing is used or filled too early."""

from __future__ import annotations

import threading

import pytest
import torch
from compile_plan.compiler.loading.streaming.courier import Courier
from own_process import run_support


def test_outputs_are_equal_however_late_copies_happen():
    runs = run_support("late_runs.py")
    assert len(runs) >= 120  # circumstances are added where they are listed; none may be left out
    assert not [case for case, right in runs.items() if not right]


def test_whichever_step_of_a_forward_fails_nothing_stays_behind_and_the_next_is_right():
    runs = run_support("failing_runs.py")
    assert len(runs) == 6
    assert min(steps for steps, _ in runs.values()) > 5
    assert {case: wrong for case, (_, wrong) in runs.items() if wrong} == {}


def test_two_threads_that_use_one_ring_do_not_fill_each_others_slots():
    """What one has filled and not sent yet stays, however much the other sends meanwhile."""
    filled, over = threading.Event(), threading.Event()

    def copy(pairs):
        if threading.current_thread() is not threading.main_thread():
            filled.set()
            over.wait(0.2)  # the other one waits for its turn, so this ends by itself
        for source, target in pairs:
            target.copy_(source)

    courier = Courier(copy, nbytes=1024)
    (first, second), (there, here) = torch.rand(2, 128), torch.zeros(2, 128)
    other = threading.Thread(target=courier.bring, args=(first, there))
    other.start()
    filled.wait()
    for _ in range(4):
        courier.bring(second, here)
    over.set()
    other.join()
    assert torch.equal(there, first)
    assert torch.equal(here, second)


class Late:
    """A mark that copies what it stands for when somebody waits for it."""

    def __init__(self, under_way):
        self.under_way = under_way

    def synchronize(self):
        for source, target in self.under_way:
            target.copy_(source)
        self.under_way.clear()


def test_a_slot_whose_sending_was_interrupted_is_filled_again_when_the_copy_is_over():
    under_way, interrupts = [], [KeyboardInterrupt()]

    def copy(pairs):
        under_way.extend(pairs)
        if interrupts:
            raise interrupts.pop()
        return Late(under_way)

    courier = Courier(copy, nbytes=1024)
    (first, *others), (there, *here) = torch.rand(4, 128), torch.zeros(4, 128)
    with pytest.raises(KeyboardInterrupt):
        courier.bring(first, there)
    for source, target in zip(others, here, strict=True):
        courier.bring(source, target)
    Late(under_way).synchronize()
    assert torch.equal(there, first)
    assert torch.equal(torch.stack(here), torch.stack(others))
