"""Host memory and the driver that knows it: it is told before memory goes, and its refusals stay its own."""

from __future__ import annotations

import threading
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from compile_plan.compiler.loading.blocks import Block
from compile_plan.compiler.loading.ring import SLOTS
from compile_plan.compiler.loading.slots import Slots
from compile_plan.compiler.loading.streaming.courier import Courier
from compile_plan.ir import PlanError

MAPS = Path("/proc/self/maps")
pytestmark = pytest.mark.skipif(not MAPS.exists(), reason="what is mapped is read from /proc")
OK, ALREADY = 0, 712
CARD = torch.device("cuda:3")


def mapped(address):
    ends = (line.split()[0].split("-") for line in MAPS.read_text(encoding="utf-8").splitlines())
    return any(int(first, 16) <= address < int(last, 16) for first, last in ends)


class Driver:
    """Knows memory by its address, as a card's driver does, whatever became of it."""

    def __init__(self):
        self.known, self.refused, self.late, self.lock = {}, 0, 0, threading.Lock()
        self.cards = threading.local()
        self.asked = set()

    @contextmanager
    def device(self, card):
        """Make a card the one that a thread's calls are for."""
        self.cards.now = card
        yield
        del self.cards.now

    def cudaHostRegister(self, address, nbytes, _flags):  # noqa: N802
        with self.lock:
            self.asked.add(getattr(self.cards, "now", None))
            if any(address < start + size and start < address + nbytes for start, size in self.known.items()):
                self.refused += 1
                return ALREADY
            self.known[address] = nbytes
            return OK

    def cudaHostUnregister(self, address):  # noqa: N802
        with self.lock:
            self.asked.add(getattr(self.cards, "now", None))
            self.late += not mapped(address)
            del self.known[address]
        return OK


@pytest.fixture(name="driver")
def _driver(monkeypatch):
    driver = Driver()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: driver)
    monkeypatch.setattr(torch.cuda, "device", driver.device)
    yield driver
    assert driver.asked <= {CARD}, "another card would have to give memory for the asking"


def test_the_driver_forgets_memory_before_it_goes(driver):
    block = Block(3 << 20)
    tensor, _ = block.tensor((8, 8), torch.float32)
    assert block.register(CARD)
    assert block.pinned
    del block
    assert driver.known, "a tensor in it keeps it"
    del tensor
    assert not driver.known
    assert not driver.late


def test_threads_never_meet_memory_that_was_another_s(driver):
    def work():
        for _ in range(40):
            assert Block(4 << 20).register(CARD)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (driver.refused, driver.late, driver.known) == (0, 0, {})


def test_what_is_forgotten_by_hand_is_forgotten_once(driver):
    block = Block(4096)
    assert block.register(CARD)
    block.unregister()
    block.unregister()
    assert not block.pinned
    assert block.register(CARD)
    del block
    assert not driver.known


def test_a_refusal_is_taken_from_the_driver_by_the_thread_that_had_it(driver, monkeypatch):
    asked = []

    def ones(*_shape, device):
        asked.append((device, threading.current_thread()))
        raise RuntimeError("CUDA error: part or all of the requested memory range is already mapped")

    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setattr(driver, "cudaHostRegister", lambda *_: ALREADY)
    block = Block(4096)
    assert not block.register(CARD)
    assert not block.pinned
    assert asked == [("cuda", threading.main_thread())]


def test_a_driver_that_refuses_is_asked_once_and_copies_are_right_without_it(driver, monkeypatch):
    asked = []
    monkeypatch.setattr(driver, "cudaHostRegister", lambda *given: asked.append(given) or ALREADY)
    monkeypatch.setattr(torch, "ones", lambda *_shape, **_options: None)
    source, target = torch.arange(5000.0), torch.zeros(5000)
    courier = Courier(lambda pairs: [there.copy_(here) for here, there in pairs] and None, CARD, 1024)
    courier.bring(source, target)
    assert torch.equal(source, target)
    assert len(asked) == SLOTS
    assert driver.cards.__dict__ == {}


def test_a_driver_that_cannot_be_asked_leaves_memory_as_it_is(driver, monkeypatch, capfd):
    def none_left(*_given):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(driver, "cudaHostRegister", none_left)
    monkeypatch.setattr(driver, "device", lambda _card: nullcontext())
    block = Block(4096)
    assert not block.register(CARD)
    made = Slots(4096, 2, CARD)
    assert not made.ring(1).free().block.pinned
    assert capfd.readouterr().err == ""  # no thread ends with a traceback


def test_memory_the_system_does_not_give_is_a_finding():
    with pytest.raises(PlanError) as caught:
        Block(1 << 62)
    (found,) = caught.value.diagnostics
    assert found.code == "no-memory"
    assert "4096.0PiB" in found.message
