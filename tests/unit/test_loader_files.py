"""Files that change under the loader, before, while and after it reads them; and that it gives them back."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compile_plan.compiler.loading import load_model, release_model
from compile_plan.compiler.machine import pages
from compile_plan.compiler.sources.checkpoint import read_checkpoint
from compile_plan.ir import Diagnostics, Model, PlanError, Unit
from held_files import held
from rounding import same_outputs
from safetensors.torch import save_file
from small_net import IDS, ON_CPU, everything, meta, random_net, refused, save_in_two_shards, stored
from tiny_checkpoints import DEVICES, plan

MIXED = (ON_CPU, Unit("layers.1", "disk", "cpu"))


@pytest.fixture(name="real")
def _real():
    return random_net()


@pytest.fixture(name="folder")
def _folder(real, tmp_path):
    return save_in_two_shards(real, tmp_path)


def rewrite(path: Path) -> None:
    """Write the same bytes again, in place."""
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(1, 1))


def replace_file(path: Path) -> None:
    """Put another file with the same bytes and times under the name."""
    other, times = path.with_suffix(".new"), path.stat()
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 4)


def late(change, folder):
    """Return a `materialize` that changes a file: it is called after all checks and before the reading."""

    def materialize(_path, _tensor):
        change(folder / "a.safetensors")

    return materialize


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("change", [rewrite, replace_file, cut])
def test_a_file_that_changes_between_check_and_reading_is_noticed(folder, change, mapped):
    found = refused(plan(ON_CPU), meta(), folder, map_memory=mapped, materialize=late(change, folder))
    assert list(found) == ["changed-checkpoint"]
    assert "a.safetensors" in found["changed-checkpoint"].message
    assert "`embed.weight`" in found["changed-checkpoint"].message


@pytest.mark.parametrize("change", [rewrite, cut])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_file_that_changes_while_units_are_served_from_it_stops_the_forward(folder, change, dtype):
    model = load_model(plan(*MIXED), meta(), folder, dtype=dtype)
    model(IDS)
    change(folder / "b.safetensors")
    for _ in range(2):
        with pytest.raises(PlanError) as caught:
            model(IDS)
        (found,) = caught.value.diagnostics
        assert found.code == "changed-checkpoint"
        assert "b.safetensors" in found.message
        assert "`layers.1." in found.message
    stream = model._compile_plan_execution.stream
    assert stream.supply.held.total() == 0
    assert all(one.users == 0 for site in stream.sites for one in site.streamed)


def test_pages_a_file_has_lost_are_noticed_before_they_are_touched(folder):
    """The check of size and time is passed, the file is cut, and then its pages are asked for."""
    model = load_model(plan(*MIXED), meta(), folder)
    (site,) = model._compile_plan_execution.stream.sites
    site.check()
    os.truncate(folder / "b.safetensors", 0)
    with pytest.raises(PlanError) as caught:
        site.streamed[0].copy()
    assert [found.code for found in caught.value.diagnostics] == ["changed-checkpoint"]


def unknown_advice(*_):
    ctypes.set_errno(errno.EINVAL)
    return -1


@pytest.mark.parametrize("system", [None, unknown_advice], ids=["no-advice", "older-linux"])
def test_where_the_system_takes_no_advice_pages_come_when_they_are_touched(real, folder, system, monkeypatch):
    monkeypatch.setattr(pages, "_call", lambda *_: system)
    model = load_model(plan(*MIXED), meta(), folder)
    assert same_outputs(model(IDS), real(IDS))


def test_what_is_in_the_files_pages_is_in_memory_when_the_model_is_loaded(folder, monkeypatch):
    brought, bring = [], pages.bring
    monkeypatch.setattr(pages, "bring", lambda at, nbytes: brought.append((at, nbytes)) or bring(at, nbytes))
    model = load_model(plan(*MIXED), meta(), folder)
    expected = {p.data_ptr(): p.nbytes for n, p in model.state_dict().items() if "layers.1." not in n}
    assert dict(brought) == expected


def test_a_file_may_be_replaced_or_removed_while_units_are_served_from_it(real, folder):
    model = load_model(plan(*MIXED), meta(), folder)
    (folder / "other").write_bytes(b"something else")
    (folder / "other").replace(folder / "a.safetensors")
    (folder / "b.safetensors").unlink()
    assert same_outputs(model(IDS), real(IDS))


REWRITTEN = {
    "wrong-shape": ("layers.1.up.weight", torch.zeros(3), "stored is [3] in `model.safetensors`"),
    "wrong-dtype": ("layers.1.up.weight", torch.zeros(16, 8, dtype=torch.int32), "in `model.safetensors`"),
    "tensor-not-in-checkpoint": ("layers.1.up.weight", None, "model.safetensors` lacks 1 tensors"),
    "tensor-not-in-model": ("another.weight", torch.zeros(3), "`another.weight` in `model.safetensors`"),
}


@pytest.mark.parametrize("code", REWRITTEN)
def test_a_checkpoint_rewritten_since_planning_is_refused_by_file_and_tensor(real, tmp_path, code):
    name, value, where = REWRITTEN[code]
    tensors = {**stored(real)}
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    read, _ = read_checkpoint(path, Diagnostics())
    given = replace(read, devices=DEVICES, units=(ON_CPU,), constraints=())
    given = replace(given, model=Model("net", read.tree.digest))
    assert same_outputs(load_model(given, meta(), path)(IDS), real(IDS))
    tensors = {key: old for key, old in tensors.items() if key != name}
    save_file(tensors if value is None else {**tensors, name: value}, path)
    found = refused(given, meta(), path)
    assert list(found) == [code]
    assert f"`{name}`" in everything(found[code])
    assert where in everything(found[code])


def prefetchers():
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("compile-plan")]
    return [thread for thread in ours if not thread.name.endswith(("-wire", "-pulse"))]  # those of hosts


@pytest.mark.parametrize("release", [True, False])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_dropped_model_leaves_no_file_and_no_thread(folder, release, dtype):
    model = load_model(plan(*MIXED), meta(), folder, dtype=dtype)
    model(IDS)
    assert held(folder)
    assert prefetchers()
    if release:
        release_model(model)
    del model
    gc.collect()
    assert not held(folder)
    for thread in prefetchers():
        thread.join(timeout=60)
    assert not prefetchers()


def test_a_released_model_keeps_only_the_pages_it_is_in(folder):
    model = load_model(plan(*MIXED), meta(), folder)
    model(IDS)
    release_model(model)
    gc.collect()
    assert not prefetchers()
    shard = str(folder / "b.safetensors")
    assert len([line for line in held(folder) if line == shard]) <= 1  # the map's own


def slowly(at, nbytes, bring=pages.bring):
    time.sleep(0.05)
    return bring(at, nbytes)


@pytest.mark.parametrize("reads", [pages.bring, slowly])
def test_a_forward_that_failed_leaves_nothing_behind(folder, reads, monkeypatch):
    model = load_model(plan(*MIXED), meta(), folder)
    monkeypatch.setattr(pages, "bring", reads)  # what was brought ahead is still being read when it fails
    rewrite(folder / "b.safetensors")
    with pytest.raises(PlanError):
        model(IDS)
    del model
    gc.collect()
    assert not held(folder)
    for thread in prefetchers():
        thread.join(timeout=60)
    assert not prefetchers()
