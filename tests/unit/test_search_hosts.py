"""Plans over several hosts: layers one after another, weights beside what computes."""

from __future__ import annotations

from itertools import groupby

import pytest
from compile_plan.compiler import compile_model, compile_plan, verify_plan
from compile_plan.compiler.cli.verifying import verification_lines
from compile_plan.grammar import parse, print_plan
from compile_plan.ir import Demand, PlanError, host_of, unit_of_tensors, verify
from search_models import placed, plan_of, stored, tree_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def llama(layers=8, **more):
    sizes = {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 1000,
    }
    config = transformers.LlamaConfig(**{**sizes, **more})
    with torch.device("meta"):
        return transformers.LlamaForCausalLM(config)


def hosts_in_order(plan):
    """Return the hosts in execution order, each change once; what has no parameters is made everywhere."""
    units = sorted(plan.units, key=lambda unit: plan.tree.covered(unit.path).start)
    return [host for host, _ in groupby(host_of(unit.run) for unit in units if "rotary" not in unit.path)]


def beside(plan):
    return all(host_of(unit.store) == host_of(unit.run) for unit in plan.units)


def memory(*each):
    return {
        f"node{number + 1}/{kind}": size for number, kinds in enumerate(each) for kind, size in kinds.items()
    }


def test_what_fits_on_the_cards_of_two_hosts_is_cut_once():
    plan = compile_model(llama(), max_memory=memory({"cuda:0": "14MiB"}, {"cuda:0": "14MiB"}))
    assert hosts_in_order(plan) == ["node1", "node2"]


@pytest.mark.parametrize("offload", ["auto", "stream", "compute"])
def test_what_spills_stays_on_its_host(offload):
    each = {"cuda:0": "6MiB", "cpu": "6MiB"}
    plan = compile_model(llama(), max_memory=memory(each, each), offload=offload)
    assert hosts_in_order(plan) == ["node1", "node2"]
    assert beside(plan)


def test_four_hosts_are_four_stages():
    each = {"cuda:0": "6MiB", "cpu": "16MiB"}
    plan = compile_model(llama(10), max_memory=memory(each, each, each, each), objective="throughput")
    assert hosts_in_order(plan) == ["node1", "node2", "node3", "node4"]
    assert beside(plan)


def test_every_host_has_a_ledger_of_its_own():
    each = {"cuda:0": "6MiB", "cpu": "6MiB"}
    plan = compile_model(llama(), max_memory=memory(each, each))
    limit = {device.name: device.memory for device in plan.devices}
    assert {account.device for account in plan.ledger} == set(limit)
    assert all(account.total <= limit[account.device] for account in plan.ledger)


def test_a_tied_head_is_where_its_table_is():
    plan = compile_model(
        llama(tie_word_embeddings=True), max_memory=memory({"cuda:0": "12MiB"}, {"cuda:0": "12MiB"})
    )
    runs = {unit.path: unit.run for unit in plan.units}
    assert len({runs[path] for path in runs if path in {"model.embed_tokens", "lm_head"}}) == 1


def machine(link):
    names = ("node1/cuda:0", "node1/cpu", "node2/cuda:0", "node2/cpu")
    sizes = ("6MiB", "64MiB", "6MiB", "64MiB")
    lines = [f"device {name} memory {size}" for name, size in zip(names, sizes, strict=True)]
    return "\n".join(["plan 1", *lines, f"link node1 node2 rate {link}", ""])


def test_a_second_host_is_used_where_the_road_to_it_is_worth_it():
    near = compile_model(llama(), overrides=machine("100GB/s latency 100ns"))
    far = compile_model(llama(), overrides=machine("1MB/s latency 900ms"))
    assert hosts_in_order(near) == ["node1", "node2"]
    assert hosts_in_order(far) == ["node1"]


def test_weights_never_cross_the_network():
    text = (
        "plan 1\ndevice node1/cpu\ndevice node2/cuda:0\nplace ** on node2/cuda:0\n"
        "place lm_head on node1/cpu run on node2/cuda:0\n"
    )
    with pytest.raises(PlanError) as error:
        compile_model(llama(), overrides=text)
    (found,) = error.value.diagnostics
    assert found.code == "invalid-placement"
    assert found.help == "write `place lm_head on node2/cpu run on node2/cuda:0`"


def test_a_plan_over_hosts_is_read_as_it_was_written_and_planned_again_alike():
    each = {"cuda:0": "6MiB", "cpu": "6MiB"}
    plan = compile_model(llama(), max_memory=memory(each, each))
    assert parse(print_plan(plan, with_modules=True)) == plan
    again = compile_plan(plan, offload="auto")
    assert hosts_in_order(again) == ["node1", "node2"]


def test_verifying_names_what_crosses():
    model = llama()
    plan = compile_model(model, max_memory=memory({"cuda:0": "14MiB"}, {"cuda:0": "14MiB"}))
    found = verify_plan(plan, model, seq=16)
    assert found.lawful
    hidden, scores = found.crossing  # positions, masks and rotary tables are made on every host
    assert (hidden.origin, hidden.target, hidden.nbytes) == ("node1/cuda:0", "node2/cuda:0", 16 * 256 * 4)
    assert hidden.path.startswith("model.layers.")
    assert (scores.path, host_of(scores.target), scores.nbytes) == ("", "node1", 16 * 1000 * 4)
    assert [line for line in lines_of(found) if "->" in line] == [
        f"  node1 -> node2: 16.0KiB into {hidden.path}",
        "  node2 -> node1: 62.5KiB of what the call returns",
    ]


def lines_of(found):
    return ["".join(text for _, text in line) for line in verification_lines(found)]


def cluster(*speeds, road="rate 10GB/s latency 20us", kind="cuda:0"):
    """Return hosts that hold everything, with so many GB/s of memory and, in proportion, operations."""
    lines = [
        f"device node{number + 1}/{kind} memory 20GiB bandwidth {speed}GB/s flops {speed * 100}G"
        for number, speed in enumerate(speeds)
    ]
    return "\n".join(["plan 1", *lines, f"link node1 node2 rate {road.removeprefix('rate ')}", ""])


def layers_by_host(plan):
    """Return how many of the layers each host has, in the order of the hosts."""
    owner = unit_of_tensors(plan.tree, plan.units)
    tensors = [n for n, path in enumerate(plan.tree.tensor_paths) if path.endswith("o_proj.weight")]
    hosts = [host_of(plan.units[owner[n]].run) for n in tensors]
    return [hosts.count(host) for host in sorted({host_of(device.name) for device in plan.devices})]


@pytest.mark.parametrize(
    ("lines", "layers"),
    [
        (cluster(1000, 1000), [6, 6]),
        (cluster(3000, 1000), [9, 3]),
        (cluster(30, 10, kind="cpu"), [9, 3]),
        (cluster(1000, 1000, 1000, 1000), [3, 3, 3, 3]),
        (cluster(1000, 1000, road="rate 1MB/s latency 900ms"), [12, 0]),
    ],
)
def test_for_throughput_the_busiest_host_has_the_least_to_do(lines, layers):
    model = llama(12, hidden_size=2048, intermediate_size=5632, num_attention_heads=16, num_key_value_heads=4)
    plan = compile_model(model, overrides=lines, objective="throughput")
    assert layers_by_host(plan) == layers


def test_for_one_request_at_a_time_a_second_equal_host_is_left_alone():
    model = llama(12, hidden_size=2048, intermediate_size=5632, num_attention_heads=16, num_key_value_heads=4)
    assert layers_by_host(compile_model(model, overrides=cluster(1000, 1000))) == [12, 0]


def test_bytes_alone_are_not_given_up_for_whole_layers_on_one_host():
    """Cutting by hosts leaves 20 bytes out that fit; where bytes are the objective that is no answer."""
    blocks = {str(i): {"x": 11, "y": 12} for i in range(4)}
    tree = tree_of({"m0": {"a": 5, "b": 6}, "m1": blocks, "m2": 11})
    budgets = {"cuda:0": 79, "node1/cuda:1": 34, "node1/cuda:2": 16, "cpu": 1000}
    demands = (Demand(6, "m1.0.y", "kv cache"),)
    plan = placed(plan_of(tree, budgets, demands=demands), objective="accelerator-bytes", offload="stream")
    assert stored(plan)["cpu"] == 0


NARROW = (
    {"node1/cuda:1": 4},
    {"cuda:0": 0, "node1/cuda:1": 4},
    {"node1/cuda:1": 4, "node2/cuda:0": 0},
    {"node1/cuda:0": 0, "node2/cuda:0": 4},
    {"node1/cuda:0": 4, "node1/disk": 100},
    {"node1/cuda:0": 4, "node2/disk": 100},
    {"node1/cuda:0": 4, "node2/cuda:0": 0, "node2/cpu": 100},
    {"node1/cuda:0": 4, "node1/cpu": 100, "node2/disk": 100},
)


@pytest.mark.parametrize("strategy", ["auto", "accelerate", "balanced", "sequential"])
@pytest.mark.parametrize("offload", ["auto", "stream", "compute", "none"])
@pytest.mark.parametrize("memory", NARROW, ids=str)
def test_what_has_nothing_to_run_on_beside_its_store_is_homeless(memory, offload, strategy):
    model = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False))
    try:
        plan, said = compile_model(model, max_memory=memory, offload=offload, strategy=strategy), set()
    except PlanError as error:
        plan, said = None, {found.code for found in error.diagnostics}
    assert said <= {"does-not-fit", "no-usable-device"}
    assert plan is None or (beside(plan) and verify(plan) == ())
