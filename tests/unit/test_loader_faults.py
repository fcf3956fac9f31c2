"""What breaks while a model is loaded, and how a loaded model runs."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from compile_plan.compiler.loading import load_model, release_model
from compile_plan.compiler.loading.moves import moved
from compile_plan.compiler.machine import pages
from compile_plan.ir import Account
from held_files import held
from rounding import same_outputs
from small_net import IDS, ON_CPU, ON_DISK, everything, meta, random_net, refused, save_in_two_shards, stored
from tiny_checkpoints import plan


@pytest.fixture(name="real")
def _real():
    return random_net()


@pytest.fixture(name="folder")
def _folder(real, tmp_path):
    return save_in_two_shards(real, tmp_path)


# What breaks


def test_a_truncated_shard_is_named(folder):
    shard = folder / "b.safetensors"
    shard.write_bytes(shard.read_bytes()[:-10])
    (found,) = refused(plan(ON_CPU), meta(), folder).values()
    assert "b.safetensors" in everything(found)


@pytest.mark.parametrize("at", [0, 7, 8, 20])
def test_a_damaged_header_is_named(folder, at):
    shard = folder / "a.safetensors"
    data = bytearray(shard.read_bytes())
    data[at] ^= 0xFF
    shard.write_bytes(data)
    assert "a.safetensors" in "".join(everything(d) for d in refused(plan(ON_CPU), meta(), folder).values())


def test_a_missing_shard_is_named(folder):
    (folder / "b.safetensors").unlink()
    assert "b.safetensors" in "".join(everything(d) for d in refused(plan(ON_CPU), meta(), folder).values())


def test_an_index_does_not_lead_out_of_its_folder(folder):
    index = folder / "model.safetensors.index.json"
    text = json.loads(index.read_text())
    text["weight_map"]["embed.weight"] = "../a.safetensors"
    index.write_text(json.dumps(text))
    found = refused(plan(ON_CPU), meta(), folder).values()
    assert "../a.safetensors" in "".join(everything(d) for d in found)


def test_a_file_that_changes_meanwhile_is_noticed(folder):
    def touch(_done, _total):
        os.utime(folder / "a.safetensors", ns=(1, 1))

    found = refused(plan(ON_CPU), meta(), folder, map_memory=False, progress=touch)
    assert "a.safetensors" in found["changed-checkpoint"].message


def test_a_failing_read_names_file_and_tensor(folder, monkeypatch):
    def broken(_descriptor, _buffers, offset):
        raise OSError(5, f"Input/output error at {offset}")

    monkeypatch.setattr(os, "preadv", broken)
    found = refused(plan(ON_CPU), meta(), folder, map_memory=False)
    assert "Input/output error" in found["unreadable-weights"].message
    assert ".safetensors" in found["unreadable-weights"].message


def test_pages_that_cannot_be_brought_are_named(real, folder, monkeypatch):
    monkeypatch.setattr(pages, "bring", lambda _address, _nbytes: False)
    found = refused(plan(ON_CPU), meta(), folder)
    assert ".safetensors" in found["unreadable-weights"].message
    assert any(f"`{name}`" in found["unreadable-weights"].message for name in stored(real))


def test_an_interrupt_ends_the_threads_and_leaves_the_model(folder):
    def interrupt(_done, _total):
        raise KeyboardInterrupt

    model = meta()
    with pytest.raises(KeyboardInterrupt):
        load_model(plan(ON_CPU), model, folder, map_memory=False, progress=interrupt)
    assert all(tensor.is_meta for tensor in model.parameters())
    assert not [t for t in threading.enumerate() if t.name.startswith("compile-plan-read")]
    assert not held(folder)


# How it runs


def half(model):
    """What `dtype` makes of a model: weights are converted, what a constructor makes is not."""
    angles = model.rope.angles
    model.to(torch.bfloat16).rope.angles = angles
    return model


def streamed(folder, *, streaming=0, **options):
    given = plan(ON_DISK)
    if streaming:
        given = replace(given, ledger=(Account("cpu", streaming=streaming),))
    return load_model(given, meta(**options), folder, dtype=torch.bfloat16)


def test_converted_disk_units_are_in_the_wanted_precision_only_while_they_run(real, folder):
    model = streamed(folder)
    expected = half(real)(IDS)
    for _ in range(3):
        assert same_outputs(model(IDS), expected)
        assert {p.dtype for p in model.parameters()} == {torch.float32}


# With too small a buffer: the largest layer, and what its parent holds itself.
@pytest.mark.parametrize(("streaming", "most"), [(100, 288 + 16), (900, 900), (10_000, 10_000)])
def test_no_more_is_held_than_the_streaming_buffer(folder, streaming, most, monkeypatch):
    model = streamed(folder, streaming=streaming)
    stream = model._compile_plan_execution.stream
    supply, held, ahead = stream.supply, [], stream._ahead

    def watch(number):
        ahead(number)
        held.append(supply.taken(torch.device("cpu")))

    monkeypatch.setattr(stream, "_ahead", watch)
    model(IDS)
    model(IDS)
    assert max(sizes[torch.device("cpu")] for sizes in supply.sizes) < max(held) <= most
    assert supply.held.total() == 0
    assert not supply.ready


def test_an_error_in_a_forward_puts_weights_back(real, folder):
    model = streamed(folder)
    with pytest.raises(IndexError):
        model(torch.tensor([[99]]))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert same_outputs(model(IDS), half(real)(IDS))


def test_released_models_have_no_hooks_and_no_thread(folder):
    model = streamed(folder)
    model(IDS)
    threads = list(model._compile_plan_execution.stream.supply._pool._threads)
    assert threads
    release_model(model)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not any(thread.is_alive() for thread in threads)


def test_loading_again_replaces_the_hooks(real, folder):
    model = streamed(folder)
    load_model(plan(ON_CPU), model, folder)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert same_outputs(model(IDS), real(IDS))


def test_whatever_holds_tensors_is_moved_and_keeps_its_type():
    class Pair(NamedTuple):
        first: torch.Tensor
        second: str

    here = torch.ones(2)
    there = torch.device("meta")
    result = moved(([here], {"a": here}, Pair(here, "x"), 3, None), there)
    assert [result[0][0].device, result[1]["a"].device, result[2].first.device] == [there] * 3
    assert isinstance(result[2], Pair)
    assert result[2].second == "x"
    assert result[3:] == (3, None)
    assert moved(here, torch.device("cpu")) is here
