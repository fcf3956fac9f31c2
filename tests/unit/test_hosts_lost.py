"""Processes that are lost: killed, silent, interrupted, or never there; the others say which, and end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from compile_plan.compiler import load_model
from compile_plan.grammar import parse
from compile_plan.ir import PlanError
from hosts import TIMEOUT, free_port, results_of, run_hosts, shared_plan, started

torch = pytest.importorskip("torch")
pulse = pytest.importorskip("compile_plan.compiler.loading.hosts.pulse")
waiter = pytest.importorskip("compile_plan.compiler.loading.hosts.waiter")

WITHIN = 10
"""Seconds in which a lost process is named."""
SLACK = 5
"""Seconds that a machine with other work may take for what takes none."""


def plan(size):
    return shared_plan([str(number) for number in range(size)], (1,) * size)


def jobs(folder, size, lost, **how):
    """Return a job for each rank: all call a model of one layer per host, one is lost."""
    made = {"do": "ends_inside", "plan": plan(size), "stages": size}
    return {
        rank: [{**made, "ready": str(folder / f"ready-{rank}"), **(how if rank == lost else {})}]
        for rank in range(size)
    }


def wait_for(what, seconds=TIMEOUT):
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def left_over(processes, lost):
    """Wait for all but the lost one to end by themselves, and return what they saw."""
    try:
        for rank, process in enumerate(processes):
            if rank != lost:
                process.wait(TIMEOUT)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [process.returncode for rank, process in enumerate(processes) if rank != lost]


def seen_by_others(folder, size, lost, **how):
    codes = left_over(started(jobs(folder, size, lost, **how), size, folder), lost)
    assert codes == [0] * (size - 1)  # and none of them fell over in its end
    return [results_of(folder, rank)[0] for rank in range(size) if rank != lost]


@pytest.mark.parametrize(
    ("size", "lost", "how"),
    [
        (3, 2, {"way": "killed"}),
        (2, 1, {"way": "stopped", "when": "before"}),
        (2, 0, {"way": "stopped", "when": "before"}),  # where the rendezvous store is
    ],
)
def test_a_lost_process_is_named_within_ten_seconds(tmp_path, size, lost, how):
    for seen in seen_by_others(tmp_path, size, lost, **how):
        assert seen["codes"] == ["lost-host"]
        assert seen["messages"] == [f"the process of `node{lost + 1}` (rank {lost}) is gone"]
        assert seen["seconds"] < WITHIN + SLACK


def test_what_a_loss_takes_to_be_known_is_under_ten_seconds():
    assert pulse.KNOWN + waiter.TICK < WITHIN


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    found = run_hosts([{"do": "lives_on", "plan": plan(3)}], 3, tmp_path_factory.mktemp("lives"))
    return [rank[0] for rank in found]


@pytest.mark.parametrize("name", ["failing", "failing in turn"])
def test_a_call_that_fails_on_one_host_is_told_to_the_others(lived, name):
    first, failing, last = (rank[name] for rank in lived)
    assert failing["error"] == "RuntimeError: no more memory"
    for other in (first, last):
        assert other["codes"] == ["failed-elsewhere"]
        assert other["messages"] == ["a call failed on `node2` (rank 1): RuntimeError: no more memory"]
        assert other["seconds"] < SLACK


def test_the_next_call_after_one_that_failed_begins_anew(lived):
    before = lived[0]["before"]["out"]
    for rank in lived:
        assert [rank[name]["out"] for name in ("before", "after", "again")] == [before] * 3


def test_what_fails_everywhere_is_everywhere_the_error_of_torch_or_told(lived):
    said = [rank["failing everywhere"] for rank in lived]
    assert "error" in said[0]
    assert all("RuntimeError" in str(one) for one in said)


def test_what_the_processes_said_counts_as_said(lived, triggered_elsewhere):
    codes = {code for rank in lived for one in rank.values() for code in one.get("codes", ())}
    triggered_elsewhere |= codes
    assert codes == {"failed-elsewhere", "lost-host"}


def test_an_interrupt_that_is_caught_leaves_nobody_waiting(lived):
    first, interrupted, last = (rank["interrupted"] for rank in lived)
    assert interrupted["error"].startswith("KeyboardInterrupt")
    assert [one["codes"] for one in (first, last)] == [["lost-host"]] * 2
    assert [one["messages"] for one in (first, last)] == [["the process of `node2` (rank 1) is gone"]] * 2
    assert [rank["after that"]["codes"] for rank in lived] == [["lost-host"]] * 3


def test_a_process_that_ended_before_it_came_is_no_reason_to_wait(tmp_path):
    job = {"do": "never_comes", "plan": plan(2)}
    processes = started({0: [job], 1: [{**job, "ends": True}]}, 2, tmp_path)
    assert left_over(processes, 1) == [0]
    assert results_of(tmp_path, 0)[0]["codes"] == ["lost-host"]


def test_processes_that_do_not_meet_say_where(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        values = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(PlanError) as error:
            load_model(parse(plan(2)), torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)))
    (found,) = error.value.diagnostics
    assert found.code == "hosts-and-ranks"
    assert found.message == f"the 2 processes do not meet at `127.0.0.1:{port}`"


def test_an_interrupted_process_ends_and_the_others_name_it(tmp_path):
    processes = started(jobs(tmp_path, 2, None), 2, tmp_path)
    wait_for(lambda: all((tmp_path / f"ready-{rank}").exists() for rank in range(2)))
    processes[0].send_signal(signal.SIGINT)
    assert left_over(processes, 0) == [0]
    assert results_of(tmp_path, 1)[0]["messages"] == ["the process of `node1` (rank 0) is gone"]
    log = (tmp_path / "log-0.txt").read_text(encoding="utf-8")
    assert log.count("Traceback") == 1
    assert log.rstrip().endswith("KeyboardInterrupt")


RUN = """
import os, torch
from pathlib import Path
from compile_plan.compiler import load_model
from compile_plan.grammar import parse
model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
load_model(parse({plan!r}), model)
Path({folder!r}, os.environ["RANK"]).write_text(str(os.getpid()))
while True:
    model(torch.ones(2, 8))
"""


def is_running(number):
    try:
        state = Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked for in /proc")
def test_an_interrupt_at_the_terminal_ends_torchrun_and_every_rank(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(RUN.format(plan=plan(2), folder=str(tmp_path)), encoding="utf-8")
    ranks = "--nnodes=1", "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={free_port()}"
    command = [sys.executable, "-m", "torch.distributed.run", *ranks, str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = tmp_path / "log.txt"
    with log.open("w", encoding="utf-8") as out:
        agent = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        files = [tmp_path / "0", tmp_path / "1"]
        wait_for(lambda: all(file.exists() and file.read_text(encoding="utf-8") for file in files))
        numbers = [int(file.read_text(encoding="utf-8")) for file in files]
        os.killpg(agent.pid, signal.SIGINT)  # as a terminal does
        agent.wait(TIMEOUT)
        wait_for(lambda: not any(map(is_running, numbers)))
    finally:
        if agent.poll() is None:
            os.killpg(agent.pid, signal.SIGKILL)
    words = log.read_text(encoding="utf-8")
    assert "terminate called" not in words
    assert words.count("Traceback") <= 5  # the agent's, and of each rank one or one and its cause
