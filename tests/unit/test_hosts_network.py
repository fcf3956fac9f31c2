"""Two network namespaces are two hosts: what crosses the interface between them is what the plan says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest
from host_models import layers_of, saved, tail_of
from host_process import written
from hosts import run_hosts, shared_plan

pytest.importorskip("torch")
pytest.importorskip("transformers")

NAMES = [f"cp{os.getpid()}-{number}" for number in (1, 2)]
ENDS = [f"cp{os.getpid() % 100000}{letter}" for letter in "ab"]
ADDRESSES = ["10.213.7.1", "10.213.7.2"]
LENGTH, WIDTH, WORDS, FLOAT = 120, 32, 4000, 4
CHATTER = 400_000
"""Bytes of rendezvous, signs of life and headers that are allowed beside."""


def ip(*words, check=True):
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True).stdout


def joined():
    """Join two namespaces by a cable; raise where the system does not allow it."""
    for name in NAMES:
        ip("netns", "add", name)
    ip("link", "add", ENDS[0], "type", "veth", "peer", "name", ENDS[1])
    for name, end, address in zip(NAMES, ENDS, ADDRESSES, strict=True):
        ip("link", "set", end, "netns", name)
        ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
        ip("-n", name, "link", "set", end, "up")
        ip("-n", name, "link", "set", "lo", "up")


@pytest.fixture
def cable():
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` here")
    try:
        joined()
        yield
    except (subprocess.CalledProcessError, OSError):
        pytest.skip("namespaces take rights that this user does not have")
    finally:
        for name in NAMES:
            ip("netns", "del", name, check=False)


def sent(number):
    """Return the bytes that have left one end of the cable."""
    found = json.loads(ip("-n", NAMES[number], "-j", "-s", "link", "show", ENDS[number]))
    return found[0]["stats64"]["tx"]["bytes"]


@pytest.mark.usefixtures("cable")
def test_two_namespaces_exchange_hidden_states_and_one_row_of_scores(tmp_path):
    name = "llama-many-words"
    alone = written(saved(name, tmp_path / "model"), (LENGTH,), 1, 2, (False,))
    job = {
        "do": "generate",
        "folder": str(tmp_path / "model"),
        "plan": shared_plan(layers_of(name), (4, 2), tail_of(name)),
        "lengths": (LENGTH,),
        "rows": 1,
        "tokens": 2,
        "ways": (False,),
    }
    results = run_hosts(
        [job],
        2,
        tmp_path,
        prefix=[["ip", "netns", "exec", name] for name in NAMES],
        address=ADDRESSES[0],
        more=[{"GLOO_SOCKET_IFNAME": end} for end in ENDS],
    )
    first, second = (ranks[0] for ranks in results)
    assert first.get("tokens") == second.get("tokens") == alone
    states, scores = (LENGTH + 1) * WIDTH * FLOAT, 2 * WORDS * FLOAT
    assert first["bytes"]["node2"][:2] == [states, scores]
    assert states <= sent(0) < states + CHATTER
    assert scores <= sent(1) < scores + CHATTER
    assert scores + CHATTER < LENGTH * WORDS * FLOAT
