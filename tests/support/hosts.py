"""Starting the processes of several hosts, and plans that share out the layers of tiny models."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "host_process.py"
TIMEOUT = 600
"""Seconds after which a hanging test ends; no test waits for it when all is well."""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def started(jobs, size, folder, *, prefix=(), address="127.0.0.1", more=()):
    """Start one process per host; ``jobs`` has a list for each rank, or one for all."""
    port, processes = free_port(), []
    for rank in range(size):
        own = jobs[rank] if isinstance(jobs, dict) else jobs
        paths = folder / f"jobs-{rank}.json", folder / f"result-{rank}.json"
        paths[0].write_text(json.dumps({"jobs": own, "result": str(paths[1])}), encoding="utf-8")
        environment = {
            **os.environ,
            "RANK": str(rank),
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": address,
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",
            **(more[rank] if more else {}),
        }
        command = [*(prefix[rank] if prefix else ()), sys.executable, str(SCRIPT), str(paths[0])]
        log = (folder / f"log-{rank}.txt").open("w", encoding="utf-8")
        processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        log.close()
    return processes


def run_hosts(jobs, size, folder, **how):
    """Run one process per host to its end, and return the results of each job by rank."""
    processes = started(jobs, size, folder, **how)
    try:
        for process in processes:
            process.wait(TIMEOUT)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [results_of(folder, rank) for rank in range(size)]


def results_of(folder, rank):
    path = folder / f"result-{rank}.json"
    assert path.exists(), (folder / f"log-{rank}.txt").read_text(encoding="utf-8")[-3000:]
    return json.loads(path.read_text(encoding="utf-8"))


def shared_plan(layers, shares, tail=(), *, device="cpu", more=""):
    """Return a plan of as many hosts as there are shares: layers as shared, the tail on the last."""
    hosts = [f"node{number + 1}" for number in range(len(shares))]
    lines = ["plan 1", *(f"device {host}/{device}" for host in hosts), f"place ** on {hosts[0]}/{device}"]
    left = iter(layers)
    for host, share in zip(hosts, shares, strict=True):
        lines += [f"place {next(left)} on {host}/{device}" for _ in range(share)]
    lines += [f"place {path} on {hosts[-1]}/{device}" for path in tail]
    return "\n".join(lines) + f"\n{more}"
