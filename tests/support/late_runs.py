"""What is streamed to a card whose copies happen as late as they may: `python late_runs.py`.

Prints one JSON object: for each circumstance, and for a driver that knows memory after a while or not at
all, whether the outputs were those of the plain model. What fills a slot pauses before it is sent, so that
threads that fill the same one would be seen.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import late_card
import rows_runs
import streamed_runs
import torch
from compile_plan.compiler.loading import blocks

NOT_HERE = ("forked", "late_copies")


def pausing(register):
    """Fill slots slowly."""

    def registered(block, card):
        late_card.pause()
        return register(block, card)

    return registered


def by_rows():
    """Yield whether experts, and tables that are looked up, arrived as they are."""
    with tempfile.TemporaryDirectory() as name:
        rows_runs.built("mixtral").save_pretrained(name, save_original_format=True)
        for case, got in rows_runs.cases("mixtral", "hub", Path(name)):
            yield f"rows, {case}", got["equal"] and got["resting"]


def whole():
    """Yield whether weights that come whole arrived as they are."""
    for case in streamed_runs.CASES:
        for store in streamed_runs.STORES if case.__name__ not in NOT_HERE else ():
            yield f"{case.__name__}, {store}", streamed_runs.outcome(case, store) == "equal"


def main():
    torch.set_num_threads(1)
    blocks.Block.register = pausing(blocks.Block.register)
    found = {}
    for driver in (late_card.slowly, late_card.refusing):
        blocks._known = driver
        with torch.no_grad():
            cases = [(case, right) for way in (by_rows, whole) for case, right in way()]
        found |= {f"{case}, {driver.__name__}": right for case, right in cases}
    print(json.dumps(found))  # noqa: T201  the program's result


if __name__ == "__main__":
    main()
