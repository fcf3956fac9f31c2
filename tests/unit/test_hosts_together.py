"""Processes without a plan: they measure their machines and the road between, and the first plans for all."""

from __future__ import annotations

from pathlib import Path

import pytest
from compile_plan.grammar import parse
from host_models import saved
from host_process import written
from hosts import run_hosts

pytest.importorskip("torch")
pytest.importorskip("transformers")

LENGTHS, ROWS, TOKENS = (1, 7), 2, 2
HALF = 260 << 10
"""Bytes of a machine that holds a part of the model."""
STAND_IN = {"node2/cuda:0": "cpu"}
NAMES = (
    "calibrated",
    "kept",
    "kept without a name",
    "one machine each",
    "budgets by host",
    "a card on the second",
    "one machine for two",
    "other options",
    "too little",
    "a model in each",
)


class Runs:
    """What two processes did, one after another in one process group."""

    def __init__(self, folder):
        self.folder, self.model = folder, saved("llama", folder / "llama")
        measure = {"do": "calibrated", "folder": str(folder / "config"), "words": []}
        load = {
            "do": "generate",
            "folder": str(folder / "llama"),
            "lengths": LENGTHS,
            "rows": ROWS,
            "tokens": TOKENS,
        }
        use = {"prompt": 40, "generate": 8}
        hosts = {f"node{number}/cpu": HALF for number in (1, 2)}
        jobs = [
            measure,
            {**measure, "words": ["--save", "lab"]},
            {**measure, "words": ["--save"]},
            {**load, "do": "on_own_machine", "memory": HALF, "how": use},
            {**load, "how": {**use, "max_memory": hosts}},
            {**load, "do": "on_own_machine", "memory": HALF, "how": {**use, "devices": STAND_IN}},
            {**load, "how": use},
            {**load, "how": {**use, "max_memory": hosts}},
            {**load, "how": {**use, "max_memory": dict.fromkeys(hosts, 50 << 10)}},
            {**load, "how": {**use, "max_memory": {"cpu": "1GiB"}}},
        ]
        other = [*jobs]
        other[5] = {**jobs[5], "memory": HALF // 4, "more": {"cuda:0": HALF}}
        other[7] = {**load, "how": {**use, "max_memory": hosts, "offload": "stream"}}
        self.ranks = run_hosts({0: jobs, 1: other}, 2, folder)

    def of(self, name):
        return [results[NAMES.index(name)] for results in self.ranks]

    def codes(self, name):
        return [result.get("codes") for result in self.of(name)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("together"))


def test_what_is_measured_describes_all_hosts_and_the_road_between(runs):
    first, second = runs.of("calibrated")
    assert (first["code"], second) == (0, {"code": 0, "out": "", "err": ""})
    found = parse(first["out"])
    assert [device.name for device in found.devices] == ["node1/cpu", "node1/disk", "node2/cpu", "node2/disk"]
    assert all(device.bandwidth or device.link for device in found.devices)
    (link,) = found.links
    assert {link.a, link.b} == {"node1", "node2"}
    assert link.rate > 10**6
    assert 10**3 < link.latency < 10**10
    assert "# node1, node2 are processes of one machine" in first["out"]


def test_a_measured_cluster_is_kept_by_the_first_process_under_a_name(runs):
    assert [each["code"] for each in runs.of("kept")] == [0, 0]
    kept = Path(runs.folder, "config", "compile-plan", "machines", "lab.plan")
    assert [link.rate > 0 for link in parse(kept.read_text(encoding="utf-8")).links] == [True]
    refused = runs.of("kept without a name")
    assert [each["code"] for each in refused] == [1, 1]
    assert "error[bad-option-value]: `--save` without a name keeps what one machine is" in refused[0]["err"]


@pytest.mark.parametrize("name", ["one machine each", "budgets by host", "a card on the second"])
def test_the_first_process_plans_for_all(runs, name):
    alone = written(runs.model, LENGTHS, ROWS, TOKENS)
    assert [rank.get("tokens") for rank in runs.of(name)] == [alone, alone]
    here = [set(rank["here"]) for rank in runs.of(name)]
    assert all(here)
    assert not set.intersection(*here)
    assert set.union(*here) == {path for path, _ in runs.model.named_parameters()}


def test_the_process_of_a_machine_has_what_is_planned_for_it(runs):
    first, second = (rank["here"] for rank in runs.of("a card on the second"))
    assert len(second) > len(first)  # a card is filled first, and it is the second's


def test_processes_of_one_machine_say_what_each_has(runs):
    assert runs.codes("one machine for two") == [["hosts-and-ranks"]] * 2
    told = runs.of("one machine for two")[0]
    assert told["messages"] == ["2 processes are on one machine, and each would plan with all of it"]
    assert told["notes"] == [["they are `node1`, `node2`"]]


def test_all_ask_for_the_same_plan(runs):
    assert runs.codes("other options") == [["different-plans"]] * 2
    assert runs.of("other options")[0]["messages"] == ["`node2` asks for another plan than `node1`"]


def test_what_cannot_be_planned_is_told_to_all(runs):
    first, second = runs.of("too little")
    assert first["codes"] == ["does-not-fit"]
    assert second["codes"] == ["refused-elsewhere"]
    assert second["messages"] == ["`node1` cannot make a plan for all hosts"]
    assert second["notes"][0][0].startswith("does-not-fit: ")


def test_budgets_without_hosts_are_those_of_a_model_in_each_process(runs):
    alone = written(runs.model, LENGTHS, ROWS, TOKENS)
    everything = sorted(path for path, _ in runs.model.named_parameters())
    for rank in runs.of("a model in each"):
        assert (rank.get("tokens"), rank["here"]) == (alone, everything)
