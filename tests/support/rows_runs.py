"""Mixtures and tables streamed by rows, on a pretended accelerator and on the host.

`python rows_runs.py` prints one JSON object: for each circumstance whether the outputs were those of the
plain model, and what the rows did.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pretend_device
import torch
import transformers as hf
from compile_plan.compiler.loading import load_model
from compile_plan.ir import Account, Cache, Device, Model, Plan, Unit

assert pretend_device.COUNT
NAMES = {"cuda:0": torch.device("npu:0")}
DEVICES = (Device("cuda:0", None), Device("cpu", None), Device("disk", None))
EXPERTS, CHOSEN, LAYERS, WIDTH = 8, 2, 2, 32
COMMON = {
    "vocab_size": 96, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_experts_per_tok": CHOSEN,
}  # fmt: skip
KINDS = {
    "mixtral": lambda: hf.MixtralForCausalLM(
        hf.MixtralConfig(**COMMON, num_local_experts=EXPERTS, intermediate_size=48)
    ),
    "qwen3_moe": lambda: hf.Qwen3MoeForCausalLM(
        hf.Qwen3MoeConfig(**COMMON, head_dim=8, num_experts=EXPERTS, moe_intermediate_size=16)
    ),
    "gpt_oss": lambda: hf.GptOssForCausalLM(
        hf.GptOssConfig(**COMMON, head_dim=8, num_local_experts=EXPERTS, intermediate_size=16)
    ),
}
TOKENS = torch.arange(1, 9)[None]
ROW = 4 * (48 * WIDTH * 3)
"""Bytes of one expert of the first kind."""


def built(kind, implementation="eager"):
    torch.manual_seed(0)
    model = KINDS[kind]().eval()
    model.set_experts_implementation(implementation)
    return model


def plan_of(store, run, *, cache=0, streaming=0, table=False):
    """Everything on the accelerator but the experts (and the table), which stream by rows."""
    units = [Unit("", run, run)]
    units += [Unit(f"model.layers.{i}.mlp.experts", store, run, by_rows=True) for i in range(LAYERS)]
    units += [Unit("model.embed_tokens", store, run, by_rows=True)] * table
    ledger = (Account(run, streaming=streaming),) if streaming else ()
    caches = (Cache(cache, ("**.experts",), run),) if cache else ()
    return Plan(Model("mixture"), DEVICES, units=tuple(units), ledger=ledger, caches=caches)


def outcome(kind, folder, plan, *, implementation="eager", dtype=None):
    real = built(kind, implementation)
    if dtype is not None:
        real = real.to(dtype)
    with torch.device("meta"):
        model = KINDS[kind]().eval()
    model.set_experts_implementation(implementation)
    load_model(plan, model, folder, devices=NAMES, dtype=dtype)
    assert not any(t.is_meta for t in (*model.parameters(), *model.buffers()))
    tolerance = 1e-5 if dtype is None else 1e-10
    right = [
        torch.allclose(model(input_ids=ids).logits, real(input_ids=ids).logits, atol=tolerance)
        for _ in range(2)
        for ids in (TOKENS, TOKENS[:, :1], TOKENS[:, 3:5])
    ]
    execution = model._compile_plan_execution
    tallies = [rows.site.tally for rows in execution.rows]
    return {
        "equal": all(right),
        "by rows": len(execution.rows),
        "hits": sum(tally.hits for tally in tallies),
        "misses": sum(tally.misses for tally in tallies),
        "whole": sum(tally.calls for tally in tallies),
        "ahead": len(execution.stream.supply.ready),
        "resting": all(one.used is None for site in execution.stream.sites for one in site.streamed),
        "experts": sorted({rows.site.module.__dict__.get("num_experts", EXPERTS) for rows in execution.rows}),
    }


def cases(kind, layout, folder):
    """Yield the circumstances of a kind in a layout, each with its outcome."""
    cache = LAYERS * 4 * ROW
    for store in ("cpu", "disk"):
        yield store, outcome(kind, folder, plan_of(store, "cuda:0"))
        if kind != "mixtral" or layout != "hub":
            continue
        yield f"{store}, cached", outcome(kind, folder, plan_of(store, "cuda:0", cache=cache))
        yield f"{store}, in turns", outcome(kind, folder, plan_of(store, "cuda:0", streaming=4 * ROW))
        yield f"{store}, one at a time", outcome(kind, folder, plan_of(store, "cuda:0", streaming=1))
        yield f"{store}, table", outcome(kind, folder, plan_of(store, "cuda:0", table=True))
        for how in ("batched_mm", "grouped_mm"):
            plan = plan_of(store, "cuda:0", cache=cache)
            yield f"{store}, {how}", outcome(kind, folder, plan, implementation=how)
    if kind == "mixtral":
        yield "disk to cpu", outcome(kind, folder, plan_of("disk", "cpu"))
        plan = plan_of("disk", "cpu", cache=1 << 20)
        yield "disk to cpu, converted", outcome(kind, folder, plan, dtype=torch.float64)


def main():
    torch.set_num_threads(1)
    found = {}
    for kind in KINDS:
        for layout in ("hub", "own"):
            with tempfile.TemporaryDirectory() as name, torch.no_grad():
                built(kind).save_pretrained(name, save_original_format=layout == "hub")
                rows = cases(kind, layout, Path(name))
                found |= {f"{kind}, {layout}, {case}": got for case, got in rows}
    print(json.dumps(found))  # noqa: T201  the program's result


if __name__ == "__main__":
    main()
