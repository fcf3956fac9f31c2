"""Writes down what a card's allocator was asked for while a plan runs at its budget, and what it reserved.

    python benchmarks/card_history.py --out FOLDER [--cases "llama|forward|0.4" ...]

Cases are those of `card_ledger.py`. One file each, `NAME-KIND-SHARE.json.gz`: budget, what was said, and the
events of `torch.cuda.memory` in order, `[action, address, bytes, stream, where]`: what a simulator of the
allocator is compared with.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from compile_plan.ir.wording import first_line

sys.path.insert(0, str(Path(__file__).parent))
from card_ledger import Case, mib, planned, sizes_here, warm

CASES = (
    "llama|generate|1.0", "llama|forward|0.4", "llama, eager attention|generate|1.0",
    "mistral, window of 16|generate|0.7", "gpt_neox|generate|1.0", "bart|generate|0.4", "llava|generate|0.4",
)  # fmt: skip
_ENTRIES = 400_000


def events() -> list[list[Any]]:
    """Return what happened since recording began."""
    rows = torch.cuda.memory._snapshot()["device_traces"][0]  # noqa: SLF001
    return [
        [row["action"], row.get("addr", 0), row["size"], row.get("stream", 0), where(row.get("frames", ()))]
        for row in rows
    ]


def where(frames: Any) -> str:
    """Return the innermost line that is not torch's."""
    own = (
        f"{Path(each['filename']).name}:{each['line']}"
        for each in frames
        if "/torch/" not in each["filename"]
    )
    return next(own, "")


def recorded(case: str, models: dict[str, Case]) -> dict[str, Any]:
    """Run one case at its budget with everything the allocator does written down."""
    name, kind, share = case.split("|")
    job = planned(sizes_here(), name, kind, (float(share),))
    _, budget, plan = job.tight[0]
    if isinstance(plan, str):
        return {"case": case, "budget": budget, "said": plan}
    if name not in models:
        models.clear()  # before the next one is made
        models[name] = Case(sizes_here(), name)
    before = torch.cuda.memory_reserved()
    torch.cuda.memory._record_memory_history(  # noqa: SLF001
        context="alloc", stacks="python", max_entries=_ENTRIES, clear_history=True
    )
    said, reserved = models[name].survived(kind, plan, budget)
    found = events()
    torch.cuda.memory._record_memory_history(None)  # noqa: SLF001
    account = plan.ledger[0]
    return {
        "case": case, "budget": budget, "said": said, "reserved": reserved, "before": before,
        "counted": account.total - account.runtime, "runtime": account.runtime, "events": found,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="*", default=list(CASES))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"{mib(warm())} MiB before any model")
    models: dict[str, Case] = {}
    for case in arguments.cases:
        try:
            row = recorded(case, models)
        except Exception as error:  # noqa: BLE001  the other cases go on
            print(f"{case}: {first_line(error, 200)}", flush=True)
            continue
        name = re.sub(r"[^a-z0-9.]+", "-", case)
        with gzip.open(arguments.out / f"{name}.json.gz", "wt") as file:
            json.dump(row, file)
        print(
            f"{case}: {row['said']}, {mib(row['budget'])} MiB, {len(row.get('events', ()))} events",
            flush=True,
        )


if __name__ == "__main__":
    main()
