"""Slots that weights are sent through: made at once, known to the driver once, filled when they are free."""

from __future__ import annotations

from compile_plan.compiler.loading import slots
from compile_plan.compiler.loading.ring import SLOT, SLOTS
from compile_plan.compiler.loading.slots import Slots, slots_ahead
from own_process import run_support
from torch import device, float32, uint8

CARD = device("cuda:1")


def test_what_is_sent_late_through_small_slots_is_equal_to_the_bit():
    found = run_support("sent_loads.py")
    assert len(found) == 4
    assert set(found.values()) == {True}, found


def test_the_driver_is_told_once_for_all_threads(monkeypatch):
    told = []
    monkeypatch.setattr(slots.Block, "register", lambda block, card: told.append((block.nbytes, card)))
    made = Slots(4096, 3, CARD)
    rings = [made.ring(number) for number in range(3)]
    assert told == [(3 * SLOTS * 4096, CARD)]
    parts = [ring.free() for ring in rings for _ in range(SLOTS)]
    for number, part in enumerate(parts):
        part.memory[:] = bytes([number]) * part.nbytes
    for number, part in enumerate(parts):  # none is another's
        assert set(part.elements(uint8, 0, part.nbytes).tolist()) == {number}
        assert part.elements(float32, 8, 16).shape == (4,)


def test_devices_without_a_driver_of_cards_are_sent_from_plain_memory(monkeypatch):
    monkeypatch.delattr(slots.Block, "register")
    assert Slots(4096, 1, None).ring(0).nbytes == 4096


def test_slots_are_got_ready_where_there_is_much_to_send(monkeypatch):
    monkeypatch.setattr(slots, "sending_threads", lambda: 1)
    monkeypatch.setattr(slots.Block, "register", lambda _block, _card: True)
    assert slots_ahead([]) is None
    assert slots_ahead([(CARD, SLOT), (device("cuda:0"), SLOTS * SLOT - SLOT - 1)]) is None
    ready = slots_ahead([(CARD, SLOT), (device("cuda:0"), SLOTS * SLOT - SLOT)])
    assert ready is not None
    assert (ready.threads, ready.ring(0).nbytes) == (1, SLOT)
