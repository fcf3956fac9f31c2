"""What is streamed rests pinned, as the plan's host has it counted; a driver that refuses is said to."""

from __future__ import annotations

import pytest
import torch
from command import run_command
from compile_plan.backends import write_plan
from compile_plan.compiler import compile_model
from compile_plan.compiler.loading import blocks
from compile_plan.compiler.loading.pinning import Pinning, pinned_first, refused_by_driver, tiers_of
from compile_plan.compiler.loading.streaming.site import Site
from compile_plan.compiler.loading.streaming.streamed import Streamed
from compile_plan.compiler.placing.tiers import pinned_bytes
from compile_plan.ir import Unit
from tiny_checkpoints import plan
from torch import nn

CARD = torch.device("cuda:0")
NBYTES = 4096


class Driver:
    """Registers blocks up to a limit."""

    def __init__(self, limit):
        self.left, self.taken = limit, []

    def register(self, block):
        if block.nbytes > self.left:
            return False
        self.left -= block.nbytes
        self.taken.append(block)
        return True


@pytest.fixture(name="driver")
def _driver(monkeypatch):
    driver = Driver(1 << 30)
    monkeypatch.setattr(blocks.Block, "register", lambda block, _card: driver.register(block))
    monkeypatch.setattr(blocks.Block, "pinned", property(lambda block: block in driver.taken))
    return driver


def site(number, device=CARD):
    block = blocks.Block(NBYTES)
    tensor, _ = block.tensor((NBYTES // 4,), torch.float32)
    one = Streamed(tensor, tensor, device, torch.float32, None, block=block)
    return Site(f"layers.{number}", nn.Identity(), [one])


def pinned(sites, seldom=()):
    pinning = Pinning(pinned_first(sites, seldom), CARD)
    pinning._thread.join()
    return pinning


def test_all_that_is_streamed_is_pinned_at_its_size(driver):
    sites = [site(number) for number in range(4)]
    pinning = pinned(sites)
    (tier,) = tiers_of(sites)
    assert (tier.device, tier.pinned, tier.pageable, tier.files) == ("cuda:0", 4 * NBYTES, 0, 0)
    assert refused_by_driver([tier], pinning) == []
    assert len(driver.taken) == 4


def test_what_moves_most_often_is_pinned_first(driver):
    sites = [site(number) for number in range(5)]
    driver.left = 3 * NBYTES
    pinned(sites, seldom=(0, 2))
    assert driver.taken == [sites[number].streamed[0].block for number in (1, 3, 4)]


def test_a_driver_that_takes_no_more_is_a_finding(driver):
    sites = [site(number) for number in range(4)]
    driver.left = NBYTES
    pinning = pinned(sites)
    tiers = tiers_of(sites)
    assert (tiers[0].pinned, tiers[0].pageable) == (NBYTES, 3 * NBYTES)
    (found,) = refused_by_driver(tiers, pinning)
    assert found.code == "not-pinned"
    assert "12.0KiB are streamed to `cuda:0`" in found.message
    assert "it took 4.0KiB" in found.message
    assert refused_by_driver(tiers, None) == []  # a device whose driver is not asked


def test_the_host_has_its_pinned_bytes_counted(tmp_path):
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(6)))
    compiled = compile_model(model, max_memory={0: "66KiB", "cpu": "1MiB"}, offload="stream")
    streamed = [unit for unit in compiled.units if unit.store != unit.run]
    assert streamed
    each = 4 * (64 * 64 + 64)
    assert pinned_bytes(compiled) == {"cpu": len(streamed) * each}
    (account,) = (one for one in compiled.ledger if one.device == "cpu")
    assert account.weights == len(streamed) * each  # part of the weights, nothing beside them
    write_plan(compiled, tmp_path / "p.msgpack")
    told = run_command([str(tmp_path / "p.msgpack"), "--explain", "cpu"])
    assert "of its weights: they are streamed to accelerators" in told.out
    assert pinned_bytes(plan(Unit("", "cpu", "cpu"))) == {}
