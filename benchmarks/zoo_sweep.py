"""Compare the drop-in with accelerate over transformers types: ``python benchmarks/zoo_sweep.py [COUNT]``.

Every type is built from its default config on the meta device and planned at five budgets; the table
that comes out is the one in docs/zoo.md.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from compile_plan.compiler.driver.drop_in import infer_auto_device_map
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from device_maps import accelerates_map, faults
from module_strategies import Request

SHARES = ((1.2,), (0.55, 0.55), (0.3, 0.3, 0.6), (0.1, 0.4), (0.05,))


def requests(model: nn.Module) -> Iterator[Request]:
    """Yield the five requests of a model."""
    total = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    for index, shares in enumerate(SHARES):
        memory: dict[int | str, int] = {i: int(total * share) for i, share in enumerate(shares)}
        options = {
            "no_split_module_classes": list(getattr(model, "_no_split_modules", None) or ()),
            "dtype": None,
            "special_dtypes": None,
            "fallback_allocation": index % 2 == 1,
        }
        yield Request(model, {**memory, "cpu": 2 * total}, options)


def models(names: list[str]) -> Iterator[tuple[str, nn.Module]]:
    """Yield the types that build from their default config."""
    from transformers import CONFIG_MAPPING, AutoModel

    for name in names:
        try:
            with torch.device("meta"):
                model = AutoModel.from_config(CONFIG_MAPPING[name](), dtype=torch.bfloat16)
        except Exception:  # noqa: BLE001  # what does not build by default is not in the sweep
            continue
        yield name, model


def compare(request: Request) -> str:
    """Return how the two maps of one request relate."""
    theirs = accelerates_map(request)
    ours = infer_auto_device_map(request.model, **request.arguments)
    if faults(request, ours):
        return "ours invalid"
    if theirs is None or faults(request, theirs):
        return "accelerate invalid"
    return "same" if ours == theirs else "different"


def main() -> None:
    """Print the table."""
    from transformers import CONFIG_MAPPING

    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    names = sorted(CONFIG_MAPPING.keys())
    step = max(1, len(names) // int(sys.argv[1])) if len(sys.argv) > 1 else 1
    counts: Counter[str] = Counter()
    built = 0
    for name, model in models(names[::step]):
        built += 1
        for request in requests(model):
            result = compare(request)
            counts[result] += 1
            if result in {"different", "ours invalid"}:
                print(f"{name}: {result} at {request.max_memory}", flush=True)
    print(
        "| types | cases | same | accelerate invalid | different | ours invalid |\n|---|---|---|---|---|---|"
    )
    kinds = ("same", "accelerate invalid", "different", "ours invalid")
    print(f"| {built} | {counts.total()} | {' | '.join(str(counts[kind]) for kind in kinds)} |")


if __name__ == "__main__":
    main()
