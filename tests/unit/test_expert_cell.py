"""One cell of the expert table: the whole table is `python benchmarks/expert_table.py`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

TABLE = Path(__file__).parents[2] / "benchmarks" / "expert_table.py"


@pytest.fixture(scope="module", name="table")
def _table():
    spec = importlib.util.spec_from_file_location("expert_table", TABLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("cell", [("gpt-oss-120b", "2 x 24"), ("Qwen3-30B-A3B", "1 x 24")])
def test_the_default_is_as_quick_as_what_an_expert_writes(table, cell):
    ours, theirs, expert, _ = table.row(*cell)
    assert ours >= expert > theirs > 0
