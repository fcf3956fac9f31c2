"""What a machine has: torch's answer, the tool's answer, control groups, and devices that fail."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest
from compile_plan.compiler.machine.host_memory import available_memory
from compile_plan.compiler.machine.this_machine import POOL, cards_of_tool, cards_of_torch, this_machine
from compile_plan.ir import Diagnostics

MIB = 1 << 20


def fake_torch(kind, free, integrated=(), recommended=0):
    """A torch whose device ``i`` answers ``free[i]``, or raises it."""

    def mem_get_info(index):
        if isinstance(free[index], Exception):
            raise free[index]
        return free[index], 10 * free[index]

    module = SimpleNamespace(
        mem_get_info=mem_get_info,
        get_device_properties=lambda index: SimpleNamespace(is_integrated=index in integrated),
    )
    current = None if kind is None else SimpleNamespace(type=kind)
    accelerator = SimpleNamespace(current_accelerator=lambda: current, device_count=lambda: len(free))
    mps = SimpleNamespace(recommended_max_memory=lambda: recommended, driver_allocated_memory=lambda: 3)
    return SimpleNamespace(accelerator=accelerator, mps=mps, get_device_module=lambda _: module)


def test_this_machine_has_host_memory_and_no_disk():
    diagnostics = Diagnostics()
    devices = this_machine(diagnostics)
    assert devices[-1].name == "cpu"
    assert 0 < devices[-1].memory <= psutil.virtual_memory().total
    assert "disk" not in {device.name for device in devices}
    assert all(device.origin for device in devices)


def test_every_card_gets_its_free_memory():
    cards = cards_of_torch(fake_torch("xpu", [100, 200]), 1000, Diagnostics())
    assert [(card.name, card.memory, card.pool) for card in cards] == [
        ("xpu:0", 100, None),
        ("xpu:1", 200, None),
    ]


def test_a_card_that_fails_to_answer_is_left_out_and_named():
    diagnostics = Diagnostics()
    error = RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA")
    cards = cards_of_torch(fake_torch("cuda", [100, error, 300]), 1000, diagnostics)
    assert [card.name for card in cards] == ["cuda:0", "cuda:2"]
    (finding,) = diagnostics
    assert finding.code == "skipped-device"
    assert finding.message == "`cuda:1` is left out: CUDA error: out of memory"


def test_a_driver_that_raises_leaves_the_host():
    def fails():
        raise RuntimeError

    torch = SimpleNamespace(accelerator=SimpleNamespace(current_accelerator=fails))
    diagnostics = Diagnostics()
    assert cards_of_torch(torch, 1000, diagnostics) == []
    assert [d.message for d in diagnostics] == ["`accelerators` is left out: RuntimeError"]


def test_a_machine_without_cards_is_silent():
    diagnostics = Diagnostics()
    assert cards_of_torch(fake_torch(None, []), 1000, diagnostics) == []
    assert not list(diagnostics)


def test_an_integrated_card_shares_one_pool_with_the_host():
    (card,) = cards_of_torch(fake_torch("cuda", [73], integrated={0}), 127, Diagnostics())
    assert (card.memory, card.pool, card.pool_memory) == (73, POOL, 127)


def test_an_integrated_card_never_offers_more_than_the_host_has():
    (card,) = cards_of_torch(fake_torch("cuda", [500], integrated={0}), 127, Diagnostics())
    assert card.memory == 127


def test_mps_shares_one_pool_with_the_host():
    (device,) = cards_of_torch(fake_torch("mps", [0], recommended=103), 500, Diagnostics())
    assert (device.name, device.memory, device.pool, device.pool_memory) == ("mps", 100, POOL, 500)


TWO = "0, GPU-aaaa, H100, 100\n1, GPU-bbbb, H100, 200\n"


@pytest.mark.parametrize(
    ("visible", "memories"),
    [
        (None, [100, 200]),
        ("1,0", [200, 100]),
        ("1", [200]),
        ("GPU-bb", [200]),
        ("", []),
        ("-1", []),
        ("0,7,1", [100]),
        ("GPU-", []),
    ],
)
def test_the_tool_shows_the_cards_cuda_would_show(visible, memories):
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    cards = cards_of_tool(TWO, environment, Diagnostics())
    assert [(card.name, card.memory) for card in cards] == [
        (f"cuda:{i}", memory * MIB) for i, memory in enumerate(memories)
    ]


def test_unlike_cards_are_numbered_by_cuda_alone():
    listing = "0, GPU-a, H100, 100\n1, GPU-b, A100, 200\n"
    assert cards_of_tool(listing, {}, Diagnostics()) is None
    by_bus = cards_of_tool(listing, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, Diagnostics())
    assert [card.memory for card in by_bus] == [100 * MIB, 200 * MIB]


def test_where_the_tool_does_not_know_a_card_torch_is_asked():
    diagnostics = Diagnostics()
    assert cards_of_tool("0, GPU-a, H100, [N/A]\n1, GPU-b, H100, 7\n", {}, diagnostics) is None
    assert list(diagnostics) == []


def test_words_instead_of_a_list_are_no_answer():
    assert cards_of_tool("NVIDIA-SMI has failed\n", {}, Diagnostics()) is None


def group(root, version, limit, used, cached=0):
    (root / "proc/self").mkdir(parents=True)
    if version == 2:
        (root / "proc/self/cgroup").write_text("0::/jobs/one\n")
        folder, names = root / "sys/fs/cgroup/jobs", ("memory.max", "memory.current")
    else:
        (root / "proc/self/cgroup").write_text("5:cpu:/\n4:memory:/jobs/one\n")
        folder, names = root / "sys/fs/cgroup/memory/jobs", ("memory.limit_in_bytes", "memory.usage_in_bytes")
    folder.mkdir(parents=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_an_outer_group_counts(tmp_path, version):
    group(tmp_path, version, limit=10 * MIB, used=4 * MIB, cached=MIB)
    memory, origin = available_memory(tmp_path)
    assert memory == 7 * MIB
    assert "control group" in origin


@pytest.mark.parametrize(("version", "limit"), [(1, 2**63 - 4096), (2, "max")])
def test_a_group_without_a_limit_has_what_the_machine_has(tmp_path, version, limit):
    group(tmp_path, version, limit=limit, used=5)
    memory, origin = available_memory(tmp_path)
    assert memory > 10 * MIB
    assert "this machine" in origin


def test_a_group_that_is_full_leaves_nothing(tmp_path):
    group(tmp_path, 2, limit=MIB, used=2 * MIB)
    assert available_memory(tmp_path)[0] == 0


def test_no_groups_at_all_is_fine(tmp_path):
    assert available_memory(tmp_path)[0] > 0
