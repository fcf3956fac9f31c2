"""One process of a test of several hosts: loads models by a plan and writes what it saw.

Run as a script with the path of a JSON file: what to do, in order. The process group is the one that
plain environment variables name, as torchrun sets them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from compile_plan.compiler import load_model, load_pretrained, runtime_report
from compile_plan.compiler.loading import call_batches
from compile_plan.grammar import parse
from compile_plan.ir import PlanError


def built(folder):
    """Return the model of a folder on the meta device."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else None
    with torch.device("meta"):
        return (kind or transformers.AutoModelForCausalLM).from_config(config).eval()


def prompt(length, rows):
    """Return token ids and a mask with padding on the left of every row but the last."""
    torch.manual_seed(length)
    ids, mask = torch.randint(3, 99, (rows, length)), torch.ones(rows, length, dtype=torch.int64)
    for row in range(rows - 1):
        mask[row, : length // 3] = 0
    return ids, mask


def written(model, lengths, rows, tokens, ways=(False, True)):
    """Return what a model writes for prompts of some lengths, greedily and sampled with a seed."""
    found = []
    for length in lengths:
        ids, mask = prompt(length, rows)
        for sampled in ways:
            torch.manual_seed(7)
            made = model.generate(
                ids, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=sampled
            )
            found.append(made.tolist())
    return found


def told(model):
    """Return the bytes that went between this host and others since the last time, by host."""
    return {one.host: [one.sent, one.received, one.messages] for one in runtime_report(model).hosts}


def generate(job):
    """Load a model, and return its tokens, its bytes on the way and what of it is here."""
    way = load_pretrained if job.get("pretrained") else None
    plan = parse(job["plan"])
    host = job.get("host")
    model = (
        way(job["folder"], plan, host=host)
        if way
        else load_model(plan, built(job["folder"]), job["folder"], host=host)
    )
    told(model)
    tokens = written(model, job["lengths"], job["rows"], job["tokens"], job.get("ways", (False, True)))
    here = sorted(path for path, parameter in model.named_parameters() if not parameter.is_meta)
    return {"tokens": tokens, "bytes": told(model), "here": here, "device": str(model.device)}


def forward(job):
    """Load a model, and return the scores of one call of it, and the bytes on the way."""
    model = load_model(parse(job["plan"]), built(job["folder"]), job["folder"])
    told(model)
    ids, mask = prompt(job["lengths"][0], job["rows"])
    with torch.no_grad():
        scores = model(ids + job.get("other", 0), attention_mask=mask, **job.get("options", {})).logits
    return {"scores": scores.tolist(), "bytes": told(model)}


class Bare(torch.nn.Module):
    """A model that has tensors of its own beside its parts, and adds what different hosts computed."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.scale = torch.nn.Parameter(torch.rand(8))
        self.register_buffer("shift", torch.rand(8))
        self.first, self.second, self.last = (torch.nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        """Return a mixture of everything."""
        one = self.first(x) * self.scale
        other = self.second(x + self.shift)
        both = torch.cat([one, other]).clone()
        both[:1].add_(self.shift)
        if both.sum() > 1e9:
            raise ValueError
        return {"out": self.last(one + other), "both": both, "sizes": [one.shape[0], str(both.device)]}


def bare(job):
    """Call a model whose own tensors are on several hosts."""
    model = load_model(parse(job["plan"]), Bare())
    with torch.no_grad():
        found = model(torch.ones(2, 8))
    return {"out": found["out"].tolist(), "both": found["both"].tolist(), "sizes": found["sizes"]}


class Slow(torch.nn.Linear):
    """A layer that takes a time of its own, as if it were large."""

    def forward(self, x):
        """Compute after a while."""
        time.sleep(0.05)
        return super().forward(x)


def stages(count):
    """Return a model of equal slow layers."""
    torch.manual_seed(4)
    return torch.nn.Sequential(*(Slow(8, 8) for _ in range(count)))


def batches(job):
    """Send batches through layers on all hosts, and return the results and how long it took."""
    model = load_model(parse(job["plan"]), stages(job["stages"]))
    given = [torch.full((2, 8), float(number)) for number in range(job["batches"])]
    call_batches(model, given[:1])
    start = time.monotonic()
    found = call_batches(model, given)
    return {"found": [one.tolist() for one in found], "seconds": time.monotonic() - start}


def ends(job):
    """Load a model, then be killed, or stop, or raise, while others go on."""
    model = load_model(parse(job["plan"]), built(job["folder"]), job["folder"])
    ids, _ = prompt(7, 1)
    with torch.no_grad():
        model(ids)
        way = job.get("way")
        if way == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if way == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        start = time.monotonic()
        try:
            model(ids)
        finally:
            Path(job["clock"]).write_text(str(time.monotonic() - start), encoding="utf-8")
    return {}


def without_memory(job):
    """Load a model on a host that says it has no memory."""
    from compile_plan.compiler.loading import obstacles

    free, obstacles.free_memory = obstacles.free_memory, lambda _: 16
    try:
        return generate(job)
    finally:
        obstacles.free_memory = free


JOBS = {
    "generate": generate,
    "forward": forward,
    "bare": bare,
    "batches": batches,
    "ends": ends,
    "without_memory": without_memory,
}


def done(job):
    """Do one job; an error it may meet is its result."""
    try:
        return JOBS[job["do"]](job)
    except PlanError as error:
        return {
            "codes": [found.code for found in error.diagnostics],
            "messages": [found.message for found in error.diagnostics],
            "notes": [list(found.notes) for found in error.diagnostics],
            "help": [found.help for found in error.diagnostics],
        }


def main(path):
    """Do the jobs of a file."""
    torch.set_num_threads(1)
    given = json.loads(Path(path).read_text(encoding="utf-8"))
    results = []
    for job in given["jobs"]:
        results.append(done(job))
        Path(given["result"]).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
