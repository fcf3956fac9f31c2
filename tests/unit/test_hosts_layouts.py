"""Plans in which hosts have nothing to run, or everything, or cards: all write what one process writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from compile_plan.compiler import compile_model
from compile_plan.grammar import print_plan
from host_models import layers_of, saved, tail_of
from host_process import written
from hosts import run_hosts, shared_plan

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
between_cards = pytest.importorskip("compile_plan.compiler.loading.hosts.between_cards")
Card = between_cards.Card

LENGTHS, ROWS, TOKENS, GREEDY = (1, 7), 2, 2, (False,)
NAMES = ("llama", "llama-tied", "gpt2", "mixtral", "llama-large")
HOSTS = "plan 1\n" + "".join(f"device node{number}/cpu\n" for number in (1, 2, 3))
SHARED = {
    "no layers on the first": ("gpt2", (0, 4, 2), "node3"),
    "no layers in the middle": ("llama-tied", (3, 0, 3), "node3"),
    "nothing in the middle": ("llama", (4, 0, 2), "node3"),
    "nothing on the last": ("mixtral", (2, 4, 0), "node2"),
    "only the first works": ("llama-tied", (6, 0, 0), "node1"),
    "all layers on the last": ("llama", (0, 0, 6), "node3"),
}
"""A model, the layers of each host, and who has what follows them; the first has the tables."""
WHOLE = {
    "the whole model on the last": "place . on node3/cpu\n",
    "all but the head on the first": "place . on node3/cpu\nplace model on node1/cpu\n",
    "a stack and some of its layers": "place . on node3/cpu\nplace model on node1/cpu\n"
    "place model.layers.{2..3} on node2/cpu\n",
}
"""Plans that name what is around layers as one."""
CARD = f"""{HOSTS}device node2/cuda:0 memory 1GiB
device node2/disk
place ** on node1/cpu
place model.layers.2 on node2/cpu run on node2/cuda:0
place model.layers.3 on node2/disk run on node2/cuda:0
place model.layers.4 on node2/cuda:0
place model.norm on node3/cpu
place lm_head on node3/cpu
"""
"""A card with a layer, and one streamed to it from memory and from disk."""
LONG = {"lengths": (64,), "rows": 2, "tokens": 4}
FEW = 12_000
"""Bytes of ids, masks and lengths that generating keeps beside what a model computes."""
PROCESS = 16 << 20
"""Bytes a process takes beside its tensors: scratch of four threads, what the allocator keeps, messages."""
MADE = 32
"""Bytes of rotary frequencies, which every host makes."""


def shared(name, shares, tail):
    """Return a plan in which some host has no layers, or nothing at all."""
    plan = shared_plan(layers_of(name), shares)
    return plan + "".join(f"place {path} on {tail}/cpu\n" for path in tail_of(name))


def with_ledger(model, memory="10MiB"):
    """Return a compiled plan of three hosts, with the ledger of each."""
    lines = shared_plan(layers_of("llama"), (3, 2, 1), tail_of("llama"))
    lines = "".join(line for line in lines.splitlines(keepends=True) if not line.startswith("device"))
    memory = {f"node{number}/cpu": memory for number in (1, 2, 3)}
    use = {"rows": LONG["rows"], "prompt": LONG["lengths"][0], "generate": LONG["tokens"]}
    return compile_model(model, max_memory=memory, overrides=lines, **use)


class Runs:
    """What three processes did, one after another in one process group, and what one process writes."""

    def __init__(self, folder):
        models = {name: saved(name, folder / name) for name in NAMES}
        self.alone = {name: written(model, LENGTHS, ROWS, TOKENS, GREEDY) for name, model in models.items()}
        self.books = with_ledger(models["llama"])
        self.large = with_ledger(models["llama-large"], "200MiB")
        plans = {name: (build, shared(build, *how)) for name, (build, *how) in SHARED.items()}
        plans |= {name: ("llama", HOSTS + lines) for name, lines in WHOLE.items()}
        how = {"lengths": LENGTHS, "rows": ROWS, "tokens": TOKENS, "ways": GREEDY}
        jobs = {
            name: {"do": "generate", "folder": str(folder / build), "plan": plan, **how}
            for name, (build, plan) in plans.items()
        }
        llama = jobs["nothing in the middle"]
        jobs["memory"] = {**llama, "do": "measured", "plan": print_plan(self.books), **LONG}
        large = {"folder": str(folder / "llama-large"), "plan": print_plan(self.large)}
        jobs["process"] = {**jobs["memory"], **large, "do": "process_memory"}
        cards = {**llama, "do": "card_to_card", "plan": shared("llama", (3, 2, 1), "node3")}
        jobs["by host memory"] = {**cards, "do": "generate"}
        own = {
            rank: [
                *jobs.values(),
                {**cards, "card": str(rank)},
                {**cards, "card": "the same"},
                {**llama, "plan": CARD, "do": "on_a_card" if rank == 1 else "generate"},
            ]
            for rank in range(3)
        }
        self.names = [*jobs, "own cards", "one card", "card"]
        self.ranks = run_hosts(own, 3, folder)

    def of(self, name):
        return [results[self.names.index(name)] for results in self.ranks]

    def tokens(self, name):
        return [rank.get("tokens") for rank in self.of(name)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("layouts"))


@pytest.mark.parametrize("name", SHARED)
def test_hosts_without_layers_or_with_nothing_write_the_same(runs, name):
    assert runs.tokens(name) == [runs.alone[SHARED[name][0]]] * 3


@pytest.mark.parametrize("name", [*WHOLE, "card"])
def test_units_around_layers_and_cards_of_one_host_write_the_same(runs, name):
    assert runs.tokens(name) == [runs.alone["llama"]] * 3


def test_a_host_computes_on_its_card_what_is_streamed_to_it(runs):
    assert [rank["device"] for rank in runs.of("card")] == ["cpu", "npu:0", "cpu"]


def test_each_host_holds_what_its_ledger_says(runs):
    accounts = {account.device: account for account in runs.books.ledger}
    for number, held in enumerate(runs.of("memory"), 1):
        account = accounts[f"node{number}/cpu"]
        assert held["weights"] == account.weights + account.buffers + (0 if number == 1 else MADE)
        assert account.total * 0.9 < held["weights"] + held["beside"] < account.total + FEW


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak of a process")
def test_each_process_grows_by_what_its_ledger_says(runs):
    accounts = {account.device: account for account in runs.large.ledger}
    for number, held in enumerate(runs.of("process"), 1):
        account = accounts[f"node{number}/cpu"]
        assert account.weights * 0.9 < held["grown"] < account.total + PROCESS


def test_tensors_go_from_card_to_card_where_each_host_has_one(runs):
    for name, opened in (("own cards", ["gloo"]), ("one card", [])):
        assert runs.tokens(name) == [runs.alone["llama"]] * 3
        assert [rank["opened"] for rank in runs.of(name)] == [opened] * 3
        assert [rank["bytes"] for rank in runs.of(name)] == [
            rank["bytes"] for rank in runs.of("by host memory")
        ]


@pytest.mark.parametrize(
    ("cards", "backend"),
    [
        ([("cuda", "a"), ("cuda", "b")], "nccl"),
        ([("cuda", "a"), ("cuda", "a")], None),  # two processes on one card
        ([("cuda", "a"), ("", "")], None),  # one has no card, or torch no NCCL
        ([("", ""), ("", "")], None),
    ],
)
def test_the_way_between_hosts_is_chosen_by_their_devices(cards, backend):
    assert between_cards.backend_between([Card(*card) for card in cards]) == backend


def test_a_process_without_a_card_tells_of_none():
    assert between_cards.card_here(torch.device("cpu")) == Card("", "")
