"""The benchmark of the runtime on a card runs small where there is none."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_runtime.py"


def test_a_small_run_without_a_card():
    command = [sys.executable, str(SCRIPT), "--gb", "0.002", "--tools", "compile-plan"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.fullmatch(r"cpu, torch \S+, transformers \S+(, accelerate \S+)?", done.stdout.splitlines()[0])
    titles = [line.partition(" GB, ")[2] for line in done.stdout.splitlines() if " GB, " in line]
    assert titles == ["card", "half in memory", "half on disk", "experts away, 16 tokens"]
    assert sum(line.startswith("compile-plan ") for line in done.stdout.splitlines()) == 3
