"""Compares the ledger with what a card really takes, and runs plans under a budget that is enforced.

    python benchmarks/card_ledger.py [--only ledger|tight] [--names llama mamba ...] [--out FILE.md]

Models of `activation_peaks.py` in sizes that tell, bfloat16, random weights. First table: every model on the
card, bytes of the ledger by the most that was asked of torch's allocator, and what that reserved beyond,
which has a line of its own. Second table: plans at three budgets (everything fits to the byte; 0.7 and 0.4 of
the weights), loaded and run under `set_per_process_memory_fraction` at that budget, workspaces of libraries
included; what ran out of memory is run again without a limit. What a case raises stands in its row.
Without a card the models are small, what is alive is counted instead, and no budget is enforced.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import transformers
from compile_plan.compiler import compile_model
from compile_plan.compiler.loading import load_model, release_model
from compile_plan.ir import Plan, unit_of_tensors
from compile_plan.ir.wording import first_line
from transformers.initialization import no_init_weights

sys.path.insert(0, str(Path(__file__).parent))
from activation_peaks import KINDS, PROMPT, ROWS, RUNS, VISION, WRITTEN, built, held, real_inputs, watched

MIB = 1 << 20
DENSE = {
    "hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16, "num_key_value_heads": 4,
    "num_hidden_layers": 8, "vocab_size": 16_384, "head_dim": 64, "max_position_embeddings": 2048,
}  # fmt: skip
MIXTURE = {**DENSE, "intermediate_size": 1024, "num_hidden_layers": 6, "num_local_experts": 8}
OTHER = {"vocab_size": 16_384, "max_position_embeddings": 2048}
ON_A_CARD: dict[str, dict[str, Any]] = {
    "llama": DENSE,
    "llama, eager attention": DENSE,
    "llama, fp8": DENSE,
    "llama, 32,000 words": {**DENSE, "vocab_size": 128_000, "num_hidden_layers": 4},
    "mistral, window of 16": {**DENSE, "sliding_window": 256},
    "gemma2": {**DENSE, "vocab_size": 131_072, "num_hidden_layers": 6, "sliding_window": 256},
    "mixtral": MIXTURE,
    "mixtral, experts one by one": MIXTURE,
    "qwen3_moe": {**MIXTURE, "num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 512},
    "deepseek_v3": {
        **DENSE, "kv_lora_rank": 256, "q_lora_rank": 512, "qk_nope_head_dim": 64, "v_head_dim": 64,
        "qk_rope_head_dim": 32, "n_routed_experts": 16, "num_experts_per_tok": 4, "head_dim": 32,
        "moe_intermediate_size": 512, "num_key_value_heads": 16, "first_k_dense_replace": 1,
    },
    "gpt2": {"n_embd": 1024, "n_head": 16, "n_layer": 10, "n_positions": 2048, "vocab_size": 16_384},
    "gpt_neox": {**OTHER, "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
                 "num_hidden_layers": 10},
    "opt": {**OTHER, "hidden_size": 1024, "ffn_dim": 4096, "num_attention_heads": 16, "num_hidden_layers": 10,
            "word_embed_proj_dim": 1024},
    "t5": {"d_model": 1024, "d_ff": 4096, "d_kv": 64, "num_heads": 16, "num_layers": 6, "vocab_size": 16_384},
    "bart": {
        **OTHER, "d_model": 1024, "encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 16,
        "decoder_attention_heads": 16, "encoder_ffn_dim": 4096, "decoder_ffn_dim": 4096,
    },
    "llava": {
        "text_config": {"model_type": "llama", **DENSE},
        "vision_config": {
            "model_type": "clip_vision_model", **VISION, "hidden_size": 1024, "intermediate_size": 4096,
            "num_attention_heads": 16, "num_hidden_layers": 6, "image_size": 224, "patch_size": 14,
        },
    },
    "mamba": {"hidden_size": 2048, "num_hidden_layers": 2, "state_size": 16, "vocab_size": 16_384},
}  # fmt: skip
"""What differs from the small models."""
SLOW = ("mamba", "deepseek_v3", "mixtral, experts one by one")
"""What takes longest to trace."""
TIGHT = (1.0, 0.7, 0.4)
"""Shares of the weights a budget has room for, beside everything that is not weights."""
TIGHT_CASES = (
    *((name, "generate") for name in ON_A_CARD),
    *((name, "forward") for name in ("llama", "gemma2", "mixtral", "bart")),
)
Model = Any


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    card: bool
    rows: int
    prompt: int
    written: int

    def model(self, name: str) -> Model:
        """Return a model without values."""
        with torch.device("meta"):
            model = built(name, **(ON_A_CARD[name] if self.card else {}))
        return halved(model) if self.card else model

    def filled(self, name: str) -> Model:
        """Return the model in host memory, with values no kernel minds."""
        with no_init_weights():
            model = built(name, **(ON_A_CARD[name] if self.card else {}))
        model.tie_weights()  # left out with the values
        model = halved(model) if self.card else model
        for parameter in model.parameters():
            values = torch.randn(parameter.shape, device=here()) * 0.02
            parameter.data.copy_(values if parameter.dim() > 1 else values + 1)
        return model

    def compiled(self, name: str, kind: str, budget: int) -> Plan:
        """Return the plan for one card and a host with plenty; toys leave an allocator's segments out."""
        written = {"generate": self.written} if kind == "generate" else {"workload": kind}
        return compile_model(
            self.model(name), max_memory={"cuda:0": budget, "cpu": 1 << 40},
            rows=self.rows, prompt=self.prompt, runtime=None if self.card else 0, **written,
        )  # fmt: skip


def halved(model: Model) -> Model:
    """Return a model in bfloat16; what is narrower stays, and what transformers loads in float32."""
    kept = [re.compile(name.replace("*", ".*")) for name in model._get_dtype_plan(torch.bfloat16)]  # noqa: SLF001
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        wide = tensor.is_floating_point() and tensor.itemsize > torch.bfloat16.itemsize
        if wide and not any(each.search(name) for each in kept):
            tensor.data = tensor.data.to(torch.bfloat16)
    return model


SMALL = Sizes(card=False, rows=ROWS, prompt=PROMPT, written=WRITTEN)
LARGE = Sizes(card=True, rows=4, prompt=512, written=WRITTEN)


def here() -> str:
    return "cuda:0" if torch.cuda.is_available() else "cpu"


def sizes_here() -> Sizes:
    return LARGE if here() != "cpu" else SMALL


# What is planned, in processes beside: tracing takes longer than running.


@dataclass(frozen=True)
class Job:
    """A model and what it is used for, with its plan for a card without end and those at budgets."""

    name: str
    kind: str
    whole: Plan
    tight: tuple[tuple[float, int, Plan | str], ...] = ()


def planned(sizes: Sizes, name: str, kind: str, shares: tuple[float, ...]) -> Job:
    """Return the plan that has everything on the card, and those at budgets that just hold shares of it."""
    plan = sizes.compiled(name, kind, 1 << 40)
    account = plan.ledger[0]
    found = list[tuple[float, int, Plan | str]]()
    for share in shares:
        budget = account.total - int((1 - share) * account.weights)
        try:
            found.append((share, budget, sizes.compiled(name, kind, budget)))
        except Exception as error:  # noqa: BLE001  a refused plan is a row of its own
            found.append((share, budget, first_line(error, 90)))
    return Job(name, kind, plan, tuple(found))


def needless(plan: Plan, least: int = MIB) -> bool:
    """Say whether a piece that is brought to the card again and again could stay there.

    What computes elsewhere is no such piece: on the card it has activations as well.
    """
    card = plan.devices[0]
    room = (card.memory or 0) - plan.ledger[0].total + plan.ledger[0].margin
    rows = zip(plan.units, unit_bytes(plan), strict=True)
    brought = [size for unit, size in rows if unit.run == card.name != unit.store and size >= least]
    return bool(brought) and min(brought) <= room


def spilled(plan: Plan) -> list[int]:
    """Return the bytes of every unit stored elsewhere."""
    away = (unit.store != plan.devices[0].name for unit in plan.units)
    return [size for size, spills in zip(unit_bytes(plan), away, strict=True) if size and spills]


def unit_bytes(plan: Plan) -> list[int]:
    """Return the bytes of every unit."""
    nbytes = [0] * len(plan.units)
    if plan.tree is not None:
        for unit, size in zip(unit_of_tensors(plan.tree, plan.units), plan.tree.nbytes or (), strict=True):
            nbytes[unit] += size if unit >= 0 else 0
    return nbytes


# What a card says.


@dataclass(frozen=True)
class Taken:
    """Peaks of a run beside what was there before the model: asked for, handed out, reserved."""

    asked: int
    allocated: int
    reserved: int


def settle() -> None:
    gc.collect()
    if here() != "cpu":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def warm() -> int:
    """Let the libraries take their workspaces; return what is reserved by then."""
    if here() == "cpu":
        return 0
    for dtype in (torch.bfloat16, torch.float32):
        one = torch.ones(256, 256, device=here(), dtype=dtype)
        torch.nn.functional.linear(one, one, one[0]), torch.bmm(one[None], one[None])
    del one
    settle()
    return torch.cuda.memory_reserved()


class Meter:
    """Peaks since it was made."""

    def __init__(self) -> None:
        settle()
        self._base = self._now()

    def _now(self, which: str = "current") -> tuple[int, int, int]:
        stats = torch.cuda.memory_stats()
        names = ("requested_bytes", "allocated_bytes", "reserved_bytes")
        return tuple(stats.get(f"{name}.all.{which}", 0) for name in names)  # type: ignore[return-value]

    def taken(self) -> Taken:
        peak = self._now("peak")
        return Taken(*(high - low for high, low in zip(peak, self._base, strict=True)))


def run(kind: str, model: Model, inputs: dict[str, torch.Tensor]) -> None:
    with torch.set_grad_enabled(kind == "train"):
        RUNS[kind](model, inputs)


class Case:
    """A model with values in host memory, and the inputs that go with it."""

    def __init__(self, sizes: Sizes, name: str) -> None:
        self.master = sizes.filled(name)
        model = copy.deepcopy(self.master).to(here())
        self.inputs = real_inputs(model, sizes.rows, sizes.prompt)

    def loaded(self, plan: Plan) -> Model:
        stand_in = {} if here() != "cpu" else {"devices": {"cuda:0": "cpu"}}
        return load_model(plan, copy.deepcopy(self.master), progress=False, **stand_in)

    def measured(self, kind: str, plan: Plan) -> Taken:
        """Return what a run takes with everything where a plan puts it."""
        if here() == "cpu":
            model = copy.deepcopy(self.master)
            with watched(model, held(kind, self.inputs)) as live:
                run(kind, model, self.inputs)
            weights = sum(each.nbytes for each in (*model.parameters(), *model.buffers()))
            return Taken(*[live.peak + weights] * 3)
        meter = Meter()
        model = self.loaded(plan)
        settle()
        torch.cuda.reset_peak_memory_stats()
        run(kind, model, self.inputs)
        return meter.taken()

    def survived(self, kind: str, plan: Plan, limit: int | None) -> tuple[str, int]:
        """Run a plan where no more than the limit can be reserved; also the most that was."""
        settle()
        if here() != "cpu":
            torch.cuda.reset_peak_memory_stats()
        said = "ran"
        try:
            with limited(limit):
                model = self.loaded(plan)
                run(kind, model, self.inputs)
                release_model(model)
        except torch.OutOfMemoryError:
            said = "OOM"
        except Exception as error:  # noqa: BLE001  what one case raises stands in its row
            said = first_line(error, 90)
        return said, torch.cuda.max_memory_reserved() if here() != "cpu" else 0


@contextmanager
def limited(nbytes: int | None) -> Iterator[None]:
    """Let this process reserve no more on the card."""
    if here() == "cpu" or nbytes is None:
        yield
        return
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, nbytes / total), 0)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)


# Tables.


def mib(nbytes: float) -> str:
    return f"{nbytes / MIB:.1f}"


def ledger_row(job: Job, case: Case) -> dict[str, Any]:
    account = job.whole.ledger[0]
    told = account.total - account.margin - account.runtime
    row: dict[str, Any] = {
        "model": job.name, "workload": job.kind, "told": told, "runtime": account.runtime,
        "weights": account.weights + account.buffers, "cache": account.kv_cache,
    }  # fmt: skip
    try:
        taken = case.measured(job.kind, job.whole)
    except Exception as error:  # noqa: BLE001
        return {**row, "error": first_line(error, 90)}
    return {**row, **asdict(taken), "ratio": told / taken.asked}


def ledger_line(row: dict[str, Any]) -> str:
    head = f"| {row['model']} | {row['workload']} | "
    head += " | ".join(mib(row[name]) for name in ("weights", "cache", "told"))
    if "error" in row:
        return f"{head} | {row['error']} | | | |"
    beyond = row["reserved"] - row["asked"]
    return (
        f"{head} | {mib(row['asked'])} | {mib(row['allocated'])} | {row['ratio']:.3f} |"
        f" {mib(beyond)} | {mib(row['runtime'])} |"
    )


def tight_rows(job: Job, case: Case) -> Iterator[dict[str, Any]]:
    for share, budget, plan in job.tight:
        row: dict[str, Any] = {"model": job.name, "workload": job.kind, "share": share, "budget": budget}
        if isinstance(plan, str):
            yield {**row, "said": plan}
            continue
        said, reserved = case.survived(job.kind, plan, budget)
        row |= {"away": sum(spilled(plan)), "needless": needless(plan), "said": said, "reserved": reserved}
        if said == "OOM":
            _, row["needed"] = case.survived(job.kind, plan, None)
        yield row


def tight_line(row: dict[str, Any]) -> str:
    head = f"| {row['model']} | {row['workload']} | {row['share']} | {mib(row['budget'])} | {row['said']} |"
    if "reserved" not in row:
        return f"{head} | | |"
    short = f"{mib(row['needed'] - row['budget'])}" if "needed" in row else ""
    spill = f"{mib(row['away'])}{' NEEDLESS' if row['needless'] else ''}"
    return f"{head} {spill} | {mib(row['reserved'])} | {short} |"


HEADS = {
    "ledger": "| model | use | weights | cache | ledger | asked | allocated | ratio | beyond | counted |",
    "tight": "| model | workload | share | budget | | away | reserved | short by |",
}


def summary(rows: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    ratios = [row["ratio"] for row in rows["ledger"] if "ratio" in row]
    if ratios:
        inside = sum(1.0 <= ratio <= 1.03 for ratio in ratios)
        span = f"{min(ratios):.3f} to {max(ratios):.3f}"
        yield f"ledger / asked {span}, {inside} of {len(ratios)} in 1.00-1.03"
    if rows["tight"]:
        ran = sum(row["said"] == "ran" for row in rows["tight"])
        spare = sum(row.get("needless", False) for row in rows["tight"])
        yield f"{ran} of {len(rows['tight'])} tight cases ran, {spare} spill what they need not"


@dataclass(frozen=True)
class Wanted:
    """Rows to make: one of a ledger, or those of tight budgets."""

    name: str
    kind: str
    shares: tuple[float, ...] = ()


def wanted(arguments: argparse.Namespace) -> list[Wanted]:
    """Return what is to be made, the most important first: a card may be gone before the end.

    Ledgers of what is written, read and compared, then tight budgets, then training.
    """
    cases = [Wanted(name, kind) for name in arguments.names for kind in arguments.kinds]
    tight = [Wanted(each.name, each.kind, TIGHT) for each in cases if (each.name, each.kind) in TIGHT_CASES]
    trained = [each for each in cases if each.kind == "train"]
    ledgers = [each for each in cases if each not in trained]
    if arguments.only is not None:
        return tight if arguments.only == "tight" else [*ledgers, *trained]
    return [*ledgers, *tight, *trained]


def started(rows: list[Wanted], sizes: Sizes, pool: ProcessPoolExecutor) -> list[tuple[Wanted, Future[Job]]]:
    """Start planning in the order of the rows; what takes longest to trace goes ahead."""
    ahead = sorted(rows, key=lambda each: each.name not in SLOW)
    futures = {each: pool.submit(planned, sizes, each.name, each.kind, each.shares) for each in ahead}
    return [(each, futures[each]) for each in rows]


def tables(arguments: argparse.Namespace, sizes: Sizes) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {"ledger": [], "tight": []}
    case = None
    with ProcessPoolExecutor(arguments.processes, get_context("spawn")) as pool:
        for row, future in started(wanted(arguments), sizes, pool):
            try:
                job = future.result()
                if case is None or case[0] != job.name:
                    case = None  # before the next one is made
                    case = job.name, Case(sizes, job.name)
            except Exception as error:  # noqa: BLE001  the other cases go on
                print(f"not planned: {row.name}, {row.kind}: {first_line(error, 90)}", flush=True)
                continue
            if not row.shares:
                rows["ledger"].append(ledger_row(job, case[1]))
                print(ledger_line(rows["ledger"][-1]), flush=True)
            for tight in tight_rows(job, case[1]):
                rows["tight"].append(tight)
                print(tight_line(tight), flush=True)
            if arguments.out:
                save(arguments.out, rows)
    return rows


def save(out: Path, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Keep what is known so far: a card may be gone before the end."""
    out.write_text(f"{report(rows)}\n", encoding="utf-8")
    out.with_suffix(".json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


def report(rows: dict[str, list[dict[str, Any]]]) -> str:
    lines = [f"{torch.__version__=!s}, transformers {transformers.__version__}; MiB"]
    for name, line in (("ledger", ledger_line), ("tight", tight_line)):
        if rows[name]:
            head = HEADS[name]
            lines += ["", head, "|---" * (head.count("|") - 1) + "|", *map(line, rows[name])]
    return "\n".join([*lines, "", *summary(rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("ledger", "tight"), help="one of the tables")
    parser.add_argument("--names", nargs="*", default=list(ON_A_CARD), choices=list(ON_A_CARD))
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
    parser.add_argument("--processes", type=int, default=max(1, min(12, (os.cpu_count() or 2) - 2)))
    parser.add_argument("--out", type=Path, help="write the tables here, the figures beside as .json")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    sizes, start = sizes_here(), time.perf_counter()
    print(f"{here()}: workspaces of libraries reserve {mib(warm())} MiB before any model", flush=True)
    rows = tables(arguments, sizes)
    print(report(rows), f"{time.perf_counter() - start:.0f} s", sep="\n")


if __name__ == "__main__":
    main()
