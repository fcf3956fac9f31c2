"""Plans over several hosts: processes that start here, each computes its units, and all get the same."""

from __future__ import annotations

from collections import Counter

import pytest
from compile_plan.compiler import load_model, verify_plan
from compile_plan.compiler.loading import call_batches
from compile_plan.grammar import parse
from compile_plan.ir import PlanError, host_of
from host_models import MODELS, layers_of, saved, tail_of
from host_process import Bare, prompt, stages, written
from hosts import run_hosts, shared_plan

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

LENGTHS, ROWS = (1, 33), 2
WIDTH, VOCABULARY, FLOAT = 32, 99, 4


def job(name, folder, shares, **more):
    plan = shared_plan(layers_of(name), shares, tail_of(name))
    return {"do": "generate", "folder": str(folder), "plan": plan, "lengths": LENGTHS, "rows": ROWS, **more}


FAST = ("llama-tied", "mixtral", "qwen3-next", "gpt2")
SHARES = (3, 2, 1)
TOKENS = 3


BARE = """plan 1
device node1/cpu
device node2/cpu
device node3/cpu
place first on node1/cpu
place scale on node2/cpu
place second on node2/cpu
place shift on node3/cpu
place last on node3/cpu
"""


def on_disk(plan):
    """Return the plan with a layer of each of two hosts on its disk."""
    for layer, host in ((1, "node1"), (4, "node2")):
        line = f"place model.layers.{layer} on {host}/"
        assert line in plan
        plan = plan.replace(f"{line}cpu", f"{line}disk run on {host}/cpu")
    return f"{plan}device node1/disk\ndevice node2/disk\n"


class Runs:
    """What three processes did, one after another in one process group, and what one process does."""

    def __init__(self, folder):
        self.models = {name: saved(name, folder / name) for name in (*FAST, "llama")}
        self.alone = {name: written(model, LENGTHS, ROWS, TOKENS) for name, model in self.models.items()}
        jobs = [job(name, folder / name, SHARES, tokens=TOKENS) for name in FAST]
        llama = job("llama", folder / "llama", SHARES, tokens=TOKENS)
        scores = {**llama, "do": "forward", "lengths": (9,)}
        jobs += [
            {**llama, "ways": (False,)},
            scores,
            {**llama, "plan": on_disk(llama["plan"]), "pretrained": True},
        ]
        visits = "place model.layers.1.mlp on node3/cpu\nplace model.layers.4.self_attn on node1/cpu\n"
        jobs += [{**llama, "plan": llama["plan"] + visits}, {"do": "bare", "plan": BARE}]
        jobs += [{"do": "batches", "plan": shared_plan("012", (1, 1, 1)), "stages": 3, "batches": 6}]
        jobs += [{**scores, "states": True}]
        jobs += [
            {**llama, "ways": (False,), "options": options, "lengths": (7,)} for options in WAYS.values()
        ]
        short = {**llama, "plan": shared_plan(layers_of("llama"), (3, 3), tail_of("llama"))}
        more = {**llama, "plan": llama["plan"].replace("node1", "node9")}
        one = {**llama, "host": "node2"}
        last = {**llama, "do": "ends"}
        own = {
            rank: [
                *jobs,
                {**llama, "options": {"cache_implementation": "static"}},
                more if rank == 1 else llama,
                {**llama, "do": "without_memory"} if rank == 2 else llama,
                {**scores, "other": 1} if rank == 1 else scores,
                short,
                one,
                {**last, "way": "killed"} if rank == 0 else last,
            ]
            for rank in range(3)
        }
        self.folder, self.names = (
            folder,
            (
                *FAST,
                "bytes",
                "scores",
                "disk",
                "visits",
                "bare",
                "batches",
                "states",
                *WAYS,
                *FAILURES,
            ),
        )
        self.ranks = run_hosts(own, 3, folder)

    def of(self, name):
        """Return what each rank saw of one job; the one that was killed saw less."""
        number = self.names.index(name)
        return [results[number] for results in self.ranks if len(results) > number]

    def codes(self, name):
        return [result.get("codes") for result in self.of(name)]


WAYS = {
    "beams": {"num_beams": 2},
    "no cache": {"use_cache": False},
}
"""What `generate` is told beside."""
FAILURES = (
    "static cache",
    "another plan",
    "no memory",
    "other inputs",
    "too few hosts",
    "one host twice",
    "killed",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("hosts"))


@pytest.mark.parametrize("name", FAST)
def test_three_hosts_write_what_one_process_writes(runs, name):
    assert [rank.get("tokens") for rank in runs.of(name)] == [runs.alone[name]] * 3


def test_each_host_has_its_own_weights(runs):
    everything = {path for path, _ in runs.models["llama"].named_parameters()}
    here = [set(rank["here"]) for rank in runs.of("bytes")]
    assert set.union(*here) == everything
    assert sum(map(len, here)) == len(everything)
    assert {path.partition(".layers.")[2][:1] for path in here[2]} == {"5", ""}


def test_the_bytes_between_hosts_are_rows_times_length_times_width(runs):
    passes = sum(length + TOKENS - 1 for length in LENGTHS)
    states, scores = passes * ROWS * WIDTH * FLOAT, len(LENGTHS) * TOKENS * ROWS * VOCABULARY * FLOAT
    count = len(LENGTHS) * TOKENS
    first, second, third = (rank["bytes"] for rank in runs.of("bytes"))
    assert first == {"node2": [states, 0, count], "node3": [0, scores, count]}
    assert second == {"node1": [0, states, count], "node3": [states, scores, 2 * count]}
    assert third == {"node1": [scores, 0, count], "node2": [scores, states, 2 * count]}


def test_what_verifying_says_crosses_is_what_is_sent(runs):
    ids, mask = prompt(9, ROWS)
    plan = parse(shared_plan(layers_of("llama"), SHARES, tail_of("llama")))
    found = verify_plan(plan, runs.models["llama"], {"input_ids": ids, "attention_mask": mask})
    said = Counter()
    for copy in found.crossing:
        said[host_of(copy.origin), host_of(copy.target)] += copy.nbytes
    sent = {
        (f"node{rank + 1}", other): row[0]
        for rank, each in enumerate(runs.of("scores"))
        for other, row in each["bytes"].items()
        if row[0]
    }
    assert sent == said


def test_a_folder_is_loaded_with_a_layer_of_each_host_on_its_disk(runs):
    assert [rank.get("tokens") for rank in runs.of("disk")] == [runs.alone["llama"]] * 3


def test_parts_of_layers_are_visited_on_other_hosts(runs):
    assert [rank.get("tokens") for rank in runs.of("visits")] == [runs.alone["llama"]] * 3


@pytest.mark.parametrize("name", WAYS)
def test_other_ways_to_write_give_what_one_process_gives(runs, name):
    alone = written(runs.models["llama"], (7,), ROWS, TOKENS, (False,), **WAYS[name])
    assert [rank.get("tokens") for rank in runs.of(name)] == [alone] * 3


def test_what_happens_between_units_is_brought_together(runs):
    with torch.no_grad():
        expected = Bare()(torch.ones(2, 8))
    for rank in runs.of("bare"):
        torch.testing.assert_close(torch.tensor(rank["out"]), expected["out"])
        torch.testing.assert_close(torch.tensor(rank["both"]), expected["both"])
        assert rank["sizes"] == expected["sizes"]


def test_batches_in_turn_give_what_each_gives(runs):
    model, given = stages(3), [torch.full((2, 8), float(number)) for number in range(6)]
    with torch.no_grad():
        expected = torch.stack([model(batch) for batch in given])
    for rank in runs.of("batches"):
        torch.testing.assert_close(torch.tensor(rank["found"]), expected)


def test_batches_on_one_host_are_just_called():
    model, given = stages(1), [torch.ones(1, 8), (torch.zeros(1, 8),), {"x": torch.ones(1, 8)}]
    with torch.no_grad():
        expected = [model(torch.ones(1, 8)), model(torch.zeros(1, 8))]
    torch.testing.assert_close(call_batches(model, given[:2]), expected)
    torch.testing.assert_close(call_batches(model[0], given[2:]), expected[:1])


def test_the_device_of_a_model_is_a_real_one_on_every_host(runs):
    assert [rank["device"] for rank in runs.of("bytes")] == ["cpu"] * 3


def test_a_call_gives_every_host_what_one_process_gets(runs):
    ids, mask = prompt(9, ROWS)
    with torch.no_grad():
        expected = runs.models["llama"](ids, attention_mask=mask).logits
    for rank in runs.of("scores"):
        torch.testing.assert_close(torch.tensor(rank["scores"]), expected)


def test_hidden_states_that_are_asked_for_are_those_of_one_process(runs):
    ids, mask = prompt(9, ROWS)
    with torch.no_grad():
        expected = runs.models["llama"](ids, attention_mask=mask, output_hidden_states=True).hidden_states
    for rank in runs.of("states"):
        torch.testing.assert_close([torch.tensor(one) for one in rank["states"]], list(expected))


def test_another_plan_on_one_host_is_refused_by_all(runs):
    assert runs.codes("another plan") == [["different-plans"]] * 3
    assert runs.of("another plan")[0]["messages"] == ["rank 1 has another plan than rank 0"]


def test_a_host_without_room_refuses_and_the_others_say_so(runs):
    assert runs.codes("no memory") == [["refused-elsewhere"], ["refused-elsewhere"], ["no-memory"]]
    told = runs.of("no memory")[0]
    assert told["messages"] == ["`node3` refused to load its part of the plan"]
    assert told["notes"][0][0].startswith("no-memory: `cpu` has 16B free")


def test_other_inputs_on_one_host_are_refused_by_all(runs):
    assert runs.codes("other inputs") == [["different-calls"]] * 3


def test_a_cache_of_fixed_size_is_refused(runs):
    assert runs.codes("static cache") == [["fixed-cache"]] * 3


def test_processes_are_as_many_as_hosts(runs):
    assert runs.codes("too few hosts") == [["hosts-and-ranks"]] * 3
    assert runs.of("too few hosts")[0]["messages"] == ["the plan has 2 hosts, and 3 processes were started"]


def test_each_process_is_another_host(runs):
    assert runs.codes("one host twice") == [["hosts-and-ranks"]] * 3
    assert runs.of("one host twice")[0]["messages"] == ["3 processes are `node2`"]


def test_a_killed_process_is_named_by_all_others(runs):
    found = runs.of("killed")
    assert [result["codes"] for result in found] == [["lost-host"]] * 2
    assert {result["messages"][0] for result in found} == {"the process of `node1` (rank 0) is gone"}


def test_what_the_processes_said_counts_as_said(runs, triggered_elsewhere):
    codes = {code for name in FAILURES for found in runs.codes(name) for code in found or ()}
    triggered_elsewhere |= codes
    assert codes >= {
        "different-calls",
        "different-plans",
        "fixed-cache",
        "hosts-and-ranks",
        "lost-host",
        "refused-elsewhere",
    }


def test_a_plan_of_several_hosts_takes_several_processes(tmp_path):
    model = saved("gpt2", tmp_path)
    with pytest.raises(PlanError) as error:
        load_model(parse(shared_plan(layers_of("gpt2"), (4, 2))), model)
    (found,) = error.value.diagnostics
    assert found.code == "other-host"
    assert (
        "torchrun --nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint node1:29500" in found.help
    )


def test_a_plan_of_one_named_host_is_loaded_where_the_name_is_said(tmp_path):
    model = saved("gpt2", tmp_path)
    plan = parse("plan 1\ndevice node7/cpu\nplace ** on node7/cpu\n")
    assert load_model(plan, model, host="node7") is model
    with pytest.raises(PlanError) as error:
        load_model(plan, model, host="node8")
    assert [found.code for found in error.value.diagnostics] == ["bad-option-value"]


@pytest.mark.slow
@pytest.mark.parametrize("shares", [(4, 2), (3, 2, 1), (1, 2, 2, 1), (0, 6), (2, 1, 0, 3)])
def test_every_build_runs_on_every_number_of_hosts(tmp_path, shares):
    alone, jobs = [], []
    for name in MODELS:
        alone.append(written(saved(name, tmp_path / name), LENGTHS, ROWS, 6))
        jobs.append(job(name, tmp_path / name, shares, tokens=6))
    found = run_hosts(jobs, len(shares), tmp_path)
    for number, name in enumerate(MODELS):
        for rank in range(len(shares)):
            assert found[rank][number].get("tokens") == alone[number], (name, rank, found[rank][number])
