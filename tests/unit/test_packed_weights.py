"""Quantised weights: each kind is equal wherever it is placed, or refused by name before anything is read."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parents[1] / "support"
WORKS = {"streamed": "equal", "resident": "equal", "host": "equal"}
REFUSED = {"streamed": "opaque-weights", "resident": "opaque-weights", "host": "equal"}


def outcomes(*kinds: str) -> dict[str, dict[str, str]]:
    command = [sys.executable, "packed_runs.py", *kinds]
    done = subprocess.run(command, capture_output=True, text=True, cwd=SUPPORT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, dict[str, str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def installed(module: str) -> bool:
    """Say so without importing it: old libraries warn of themselves."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def test_tensors_made_of_others_stream_by_what_they_are_made_of():
    found = outcomes("hand-made", "nested", "written to")
    on_disk = {"disk": "opaque-weights"}
    found["written to"] |= on_disk  # its names are not those of the checkpoint here
    assert found == dict.fromkeys(("hand-made", "nested", "written to"), WORKS | on_disk)


@pytest.mark.parametrize(
    ("modules", "kinds", "expected"),
    [
        ("torchao", ("torchao int8", "torchao float8", "torchao dynamic int8"), WORKS),
        ("optimum.quanto", ("quanto int8", "quanto int4", "quanto float8"), WORKS),
        ("bitsandbytes", ("bitsandbytes 4", "bitsandbytes 8"), REFUSED),
        ("transformers.integrations.finegrained_fp8", ("fp8",), WORKS),
        ("gguf transformers.integrations.gguf.utils", ("gguf",), WORKS),
    ],
)
def test_weights_of_a_library_are_equal_or_refused(modules, kinds, expected):
    if missing := [module for module in modules.split() if not installed(module)]:
        pytest.skip(f"{missing[0]} is not installed")
    for kind, found in outcomes(*kinds).items():
        on_disk = found.pop("disk")  # a checkpoint of plain numbers
        assert found == expected, kind
        codes = {"equal"} if "from files" in kind else {"opaque-weights", "wrong-shape", "wrong-dtype"}
        assert set(on_disk.split()) & codes, on_disk
