"""Compares the predicted activation peak and KV cache with those of a real forward on the CPU.

    python benchmarks/activation_peaks.py [llama whisper ...]

Small configs of one architecture a family, float32, two rows of 24 tokens or the picture or sound the
config asks for. Measured are the storages of tensors alive during the forward, by weak references, and
the tensors of the cache it returns; the prediction runs on the meta device. Goal: within 5 %.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from compile_plan.compiler.tracing import cache_demands, example_inputs, trace_model
from compile_plan.compiler.tracing.results import cache_of
from compile_plan.ir import Diagnostics

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from live_bytes import measured_peak
from small_models import CONFIGS, small_model

GOAL = 0.05


def real_inputs(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the inputs the trace makes by itself, with memory behind them."""
    _, inputs = next(iter(example_inputs(model, None, Diagnostics(), batch=2, seq=24)))
    return {
        name: torch.zeros(value.shape, dtype=value.dtype) if value.is_meta else value
        for name, value in inputs.items()
    }


def cache_bytes(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> int:
    with torch.no_grad():
        result = model(**inputs)
    storages = {each.untyped_storage()._cdata: each.nbytes for each in cache_of(result)}  # noqa: SLF001
    return sum(storages.values())


def measure(name: str) -> bool:
    torch.manual_seed(0)
    model = small_model(name, device="cpu")
    inputs = real_inputs(model)
    trace = trace_model(model, inputs)
    predicted, measured = trace.activation_peak, measured_peak(model, inputs)
    cached = sum(demand.nbytes for demand in cache_demands(trace))
    kept = cache_bytes(model, inputs)
    print(
        f"{name:10} peak {predicted:>10,} predicted {measured:>10,} measured  {predicted / measured:.4f}   "
        f"cache {cached:>8,} predicted {kept:>8,} measured",
        flush=True,
    )
    return abs(predicted - measured) <= GOAL * measured and cached == kept


if __name__ == "__main__":
    names = sys.argv[1:] or sorted(CONFIGS)
    good = [measure(name) for name in names]
    print(f"{sum(good)} of {len(good)} within {GOAL:.0%}, their caches to the byte")
