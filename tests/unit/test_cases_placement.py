"""Reported cases of placement that waste memory elsewhere, through the whole compiler."""

from __future__ import annotations

import random

import pytest
from compile_plan.compiler import compile_model
from compile_plan.ir import Reserve, parse_size
from torch import nn

KIB = 1024


def linear(kib):
    return nn.Linear(256 * kib, 1, bias=False, device="meta")


class Flat(nn.Module):
    """Leaves of the given sizes in KiB."""

    def __init__(self, **sizes):
        super().__init__()
        for name, kib in sizes.items():
            self.add_module(name, linear(kib))


class Blk(nn.Module):
    """Two linears of 16 KiB that belong together."""

    def __init__(self):
        super().__init__()
        self.a, self.b = linear(16), linear(16)


class LM(nn.Module):
    _no_split_modules = ("Blk",)

    def __init__(self, blocks, vocab, *, tied=False):
        super().__init__()
        self.embed = nn.Embedding(vocab, 64, device="meta")
        self.blocks = nn.ModuleList(Blk() for _ in range(blocks))
        self.norm = nn.LayerNorm(64, device="meta")
        self.head = nn.Linear(64, vocab, bias=False, device="meta")
        if tied:
            self.head.weight = self.embed.weight


class Layer(nn.Module):
    """The eight large tensors of a Llama-3-8B layer, 416 MiB."""

    def __init__(self):
        super().__init__()
        for name, mib in {"q": 32, "k": 8, "v": 8, "o": 32, "gate": 112, "up": 112, "down": 112}.items():
            self.add_module(name, linear(mib * KIB))


class Llama(nn.Module):
    _no_split_modules = ("Layer",)

    def __init__(self):
        super().__init__()
        self.embed = linear(1002 * KIB)
        self.layers = nn.ModuleList(Layer() for _ in range(32))
        self.head = linear(1002 * KIB)


def kib(**budgets):
    return {name.replace("gpu", "cuda:"): size * KIB for name, size in budgets.items()}


def held(plan):
    return {account.device: (account.weights + account.buffers) / KIB for account in plan.ledger}


def where(plan):
    return {unit.path: unit.store for unit in plan.units}


def runs(plan):
    return {unit.path: unit.run for unit in plan.units}


def test_s1_fewer_bytes_than_the_fallback_are_never_kept_and_a_budget_is_named():
    model, budgets = Flat(A=2, B=1, C=3), kib(gpu0=4, cpu=6)
    plan = compile_model(model, max_memory=budgets)
    assert held(plan)["cuda:0"] >= 1
    (warning,) = [d for d in plan.diagnostics if d.code == "spill"]
    assert "+2KiB on cuda:0" in warning.help
    assert held(compile_model(model, max_memory=budgets | {"cuda:0": 6 * KIB}))["cuda:0"] == 6


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"A": 2, "B": 1, "C": 3}, {"A": "cuda:0", "B": "cuda:0", "C": "cuda:1"}),
        ({"A": 5, "B": 1, "C": 3}, {"A": "cuda:1", "B": "cuda:0", "C": "cuda:0"}),
    ],
)
def test_s2_s3_no_device_stays_empty_where_nothing_is_offloaded(sizes, expected):
    plan = compile_model(Flat(**sizes), max_memory=kib(gpu0=4, gpu1=10, cpu=6))
    assert where(plan) == expected
    assert plan.diagnostics == ()


def test_a1_d1_two_cards_filled_to_the_brim_keep_no_reserve():
    plan = compile_model(Flat(**{f"l{i}": 10 for i in range(10)}), max_memory=kib(gpu0=50, gpu1=50, cpu=1000))
    assert held(plan) == {"cuda:0": 50, "cuda:1": 50, "cpu": 0}
    assert all(account.streaming == 0 for account in plan.ledger)
    assert plan.diagnostics == ()


def test_a2_the_large_last_layer_gets_the_card_it_fits():
    model = Flat(**{f"l{i}": 10 for i in range(6)}, last=40)
    assert held(compile_model(model, max_memory=kib(gpu0=60, gpu1=40, cpu=1000))) == {
        "cuda:0": 60, "cuda:1": 40, "cpu": 0,
    }  # fmt: skip


def test_a3_a_layer_too_large_for_any_card_is_computed_on_the_cpu():
    model = Flat(big=100, **{f"l{i}": 10 for i in range(9)})
    plan = compile_model(model, max_memory=kib(gpu0=60, gpu1=60, cpu=1000))
    assert held(plan)["cpu"] == 100
    assert (where(plan)["big"], runs(plan)["big"]) == ("cpu", "cpu")


def test_a4_order_is_kept_where_it_can_be_and_broken_where_it_must_be():
    model = Flat(a=30, b=40, c=10, d=10, e=10)
    kept = compile_model(model, max_memory=kib(gpu0=70, gpu1=45, cpu=1000))
    assert held(kept) == {"cuda:0": 70, "cuda:1": 30, "cpu": 0}
    assert kept.outcome.hops == 1
    broken = compile_model(model, max_memory=kib(gpu0=60, gpu1=45, cpu=1000))
    assert held(broken) == {"cuda:0": 60, "cuda:1": 40, "cpu": 0}
    assert broken.outcome.hops == 2
    assert "no order-keeping placement fits" in broken.outcome.notes[0]


def test_a5_untied_head_and_embedding_use_two_cards_under_balance():
    budgets = kib(gpu0=2000, gpu1=2000, gpu2=2000, gpu3=2000, cpu=9000)
    plan = compile_model(LM(8, 4000), max_memory=budgets, objective="balance")
    assert held(plan)["cpu"] == 0
    assert sum(size > 0 for size in held(plan).values()) >= 2


def test_a6_tied_head_and_embedding_stay_together_and_blocks_go_elsewhere():
    budgets = kib(gpu0=2000, gpu1=2000, gpu2=2000, gpu3=2000, cpu=9000)
    plan = compile_model(LM(8, 4000, tied=True), max_memory=budgets, objective="balance")
    places = where(plan)
    assert places["embed"] == places["head"]
    assert {store for path, store in places.items() if path.startswith("blocks")}.isdisjoint(
        {places["embed"]}
    )


def test_a7_a_first_card_with_room_for_all_takes_all():
    plan = compile_model(LM(32, 100), max_memory=kib(gpu0=2400, gpu1=300, gpu2=250, cpu=9000))
    assert where(plan) == {"": "cuda:0"}


def test_a8_llama_fits_twelve_four_and_four():
    budgets = {0: "12GiB", 1: "4GiB", 2: "4GiB", "cpu": "64GiB"}
    plan = compile_model(Llama(), max_memory=budgets)
    assert held(plan)["cpu"] == 0


def test_a10_fewest_devices_takes_the_one_card_that_holds_it():
    plan = compile_model(
        Llama(), max_memory={0: "3GiB", 1: "24GiB", "cpu": "64GiB"}, objective="fewest-devices"
    )
    assert where(plan) == {"": "cuda:1"}


@pytest.mark.parametrize(("cards", "share"), [(2, 0.75), (4, 0.4)])
def test_a13_all_but_the_giant_embedding_is_on_cards(cards, share):
    model = Flat(embed=800, **{f"l{i}": 10 for i in range(20)})
    budgets = {i: int(share * 1000) * KIB for i in range(cards)} | {"cpu": 9000 * KIB}
    plan = compile_model(model, max_memory=budgets)
    assert held(plan)["cpu"] == 800
    assert runs(plan)["embed"] == "cpu"


@pytest.mark.parametrize("room", [1.02, 1.1, 1.25, 1.5, 2.0])
def test_a15_what_fits_in_order_never_spills(room):
    chance = random.Random(round(room * 100))  # noqa: S311  # seeded on purpose
    for _ in range(12):
        model = LM(chance.randint(8, 40), chance.randint(50, 3000))
        sizes = [model.embed.weight.nbytes, *[32 * KIB] * len(model.blocks), 512, model.head.weight.nbytes]
        cuts = sorted(chance.sample(range(1, len(sizes)), chance.randint(1, 3)))
        parts = [sum(sizes[a:b]) for a, b in zip([0, *cuts], [*cuts, len(sizes)], strict=True)]
        chance.shuffle(parts)
        budgets = {i: int(part * room) + 1 for i, part in enumerate(parts)} | {"cpu": 10**9}
        plan = compile_model(model, max_memory=budgets)
        assert held(plan)["cpu"] == 0
        assert plan.diagnostics == ()


def test_c9_devices_of_one_pool_share_its_memory():
    from compile_plan.ir import Device
    from search_models import leaves, placed, plan_of

    devices = (
        Device("mps", 60, pool="unified", pool_memory=80),
        Device("cpu", 70, pool="unified", pool_memory=80),
    )
    plan = placed(plan_of(leaves(**{f"l{i}": 10 for i in range(8)}), devices))
    assert sum(account.total for account in plan.ledger) <= 80
    over = placed(plan_of(leaves(**{f"l{i}": 10 for i in range(9)}), devices))
    assert [d.code for d in over.diagnostics] == ["does-not-fit"]


def test_c12_the_order_of_unequal_cards_does_not_change_what_fits():
    model = Flat(**{f"l{i}": 10 for i in range(36)})
    for budgets in (kib(gpu0=240, gpu1=120, cpu=1000), kib(gpu0=120, gpu1=240, cpu=1000)):
        assert held(compile_model(model, max_memory=budgets))["cpu"] == 0


def test_d2_the_reserve_is_the_largest_streamed_unit_not_the_largest():
    model = Flat(big=40, **{f"l{i}": 10 for i in range(4)})
    plan = compile_model(model, max_memory=kib(gpu0=70, cpu=1000), offload="stream")
    (card,) = [account for account in plan.ledger if account.device == "cuda:0"]
    assert (card.weights, card.streaming) == (60 * KIB, 10 * KIB)


def test_d3_a_reserve_for_logits_has_its_line_on_the_device():
    logits = 128 * 200_000 * (2 + 4)
    reserve = Reserve(logits, "cuda:1", "logits")
    budgets = {0: parse_size("1GiB"), 1: parse_size("1GiB"), "cpu": parse_size("8GiB")}
    plan = compile_model(LM(8, 4000), max_memory=budgets, reserves=(reserve,))
    assert [account.activations for account in plan.ledger] == [0, logits, 0]


def test_d4_headroom_of_the_head_card_is_kept_and_nothing_spills():
    layers = Flat(**{f"l{i}": 660 for i in range(30)}, head=510)  # 20,310 KiB
    room, headroom = 13_100 * KIB, 4_104 * KIB
    for card in ("cuda:0", "cuda:1"):
        reserve = Reserve(headroom, card, "logits of a training step")
        plan = compile_model(layers, max_memory={0: room, 1: room, "cpu": room * 9}, reserves=(reserve,))
        accounts = {account.device: account for account in plan.ledger}
        assert accounts[card].reserve == headroom
        assert all(accounts[name].total <= room for name in ("cuda:0", "cuda:1"))
        assert held(plan)["cpu"] == 0


def test_cache_reserve_and_margin_of_the_command_have_their_ledger_lines(tmp_path):
    from command import run_command
    from compile_plan.backends import read_plan

    script = tmp_path / "model.py"
    script.write_text(
        "from torch import nn\nmodel = nn.Sequential(*(nn.Linear(256, 10, bias=False) for _ in range(8)))\n"
    )
    target = tmp_path / "plan.msgpack"
    memory = ["--memory", "cuda:0=64KiB,cuda:1=64KiB,cpu=1MiB"]
    kept = ["--kv-cache", "16KiB", "--reserve", "cuda:0=3KiB", "--margin", "1KiB"]
    done = run_command([str(script), "-o", str(target), *memory, *kept])
    assert done.code == 0, done.err
    first, second, host = read_plan(target).ledger
    assert first.kv_cache + second.kv_cache + host.kv_cache == 16 * KIB
    assert (first.reserve, second.reserve) == (3 * KIB, 0)
    assert (first.margin, second.margin, host.margin) == (KIB, KIB, 0)


def test_offload_none_is_refused_with_a_change_that_works():
    from compile_plan.ir import PlanError

    model = Flat(A=2, B=1, C=3)
    with pytest.raises(PlanError) as caught:
        compile_model(model, max_memory=kib(gpu0=4, cpu=60), offload="none")
    assert "+2KiB on cuda:0" in caught.value.diagnostics[0].help
    assert compile_model(model, max_memory=kib(gpu0=6, cpu=60), offload="none").diagnostics == ()


def test_a_cpu_that_is_too_small_is_refused_with_a_change_that_works():
    from compile_plan.ir import PlanError

    model = Flat(**{f"l{i}": 10 for i in range(10)})
    with pytest.raises(PlanError) as caught:
        compile_model(model, max_memory=kib(gpu0=50, cpu=20))
    assert caught.value.diagnostics[0].help == "+40KiB on cpu, or list `disk`"
    assert held(compile_model(model, max_memory=kib(gpu0=50, cpu=60)))["cpu"] == 60


def test_a_listed_disk_takes_what_the_cpu_cannot():
    plan = compile_model(
        Flat(**{f"l{i}": 10 for i in range(10)}),
        max_memory={0: 50 * KIB, "cpu": 20 * KIB, "disk": "1GiB"},
        offload="stream",
    )
    assert held(plan) == {"cuda:0": 40, "cpu": 20, "disk": 40}


def test_streamed_layers_are_spread_between_resident_ones():
    budgets = kib(gpu0=80, cpu=1000)
    plan = compile_model(Flat(**{f"l{i}": 10 for i in range(12)}), max_memory=budgets, offload="stream")
    stores = list(where(plan).values())
    assert stores.count("cpu") == 5
    clusters = "".join("s" if store == "cpu" else "r" for store in stores)
    assert "sss" not in clusters
