"""One process of a test of several hosts: loads models by a plan and writes what it saw.

Run as a script with the path of a JSON file: what to do, in order. The process group is the one that
plain environment variables name, as torchrun sets them.
"""

from __future__ import annotations

import gc
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
from live_bytes import LiveBytes


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


def written(model, lengths, rows, tokens, ways=(False, True), **more):
    """Return what a model writes for prompts of some lengths, greedily and sampled with a seed."""
    found = []
    for length in lengths:
        ids, mask = prompt(length, rows)
        for sampled in ways:
            torch.manual_seed(7)
            how = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": sampled, **more}
            made = model.generate(ids, attention_mask=mask, **how)
            found.append(made.tolist())
    return found


def told(model):
    """Return the bytes that went between this host and others since the last time, by host."""
    return {one.host: [one.sent, one.received, one.messages] for one in runtime_report(model).hosts}


def generate(job):
    """Load a model, and return its tokens, its bytes on the way and what of it is here."""
    plan = parse(job["plan"]) if "plan" in job else None
    host, how = job.get("host"), job.get("how", {})
    model = (
        load_pretrained(job["folder"], plan, host=host, **how)
        if plan is None or job.get("pretrained")
        else load_model(plan, built(job["folder"]), job["folder"], host=host, devices=job.get("devices"))
    )
    told(model)
    ways, options = job.get("ways", (False, True)), job.get("options", {})
    tokens = written(model, job["lengths"], job["rows"], job["tokens"], ways, **options)
    here = sorted(path for path, parameter in model.named_parameters() if not parameter.is_meta)
    return {"tokens": tokens, "bytes": told(model), "here": here, "device": str(model.device)}


def measured(job):
    """Load a model, and return the most bytes of tensors this process held while it wrote."""
    model = load_model(parse(job["plan"]), built(job["folder"]), job["folder"])
    mine = [one for one in (*model.parameters(), *model.buffers()) if not one.is_meta]
    storages = {one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in mine}
    live = LiveBytes(set(storages))
    with live:
        tokens = written(model, job["lengths"], job["rows"], job["tokens"], (False,))
    return {"tokens": tokens, "weights": sum(storages.values()), "beside": live.peak}


def most_memory():
    """Return the most bytes this process has had since it was last asked."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def process_memory(job):
    """Load a model and write with it; return by how much that made the process larger at most."""
    plan, model = parse(job["plan"]), built(job["folder"])
    gc.collect()
    most_memory()
    before = most_memory()
    model = load_model(plan, model, job["folder"], map_memory=False)
    written(model, job["lengths"], job["rows"], job["tokens"], (False,))
    return {"grown": most_memory() - before}


def on_a_card(job):
    """Do as `generate` does on a host with an accelerator that is pretended."""
    import pretend_device

    assert pretend_device.COUNT
    return generate({**job, "devices": {"node2/cuda:0": "npu:0"}})


def forward(job):
    """Load a model, and return the scores of one call of it, and the bytes on the way."""
    model = load_model(parse(job["plan"]), built(job["folder"]), job["folder"])
    told(model)
    ids, mask = prompt(job["lengths"][0], job["rows"])
    with torch.no_grad():
        found = model(ids + job.get("other", 0), attention_mask=mask, output_hidden_states=job.get("states"))
    states = [one.tolist() for one in found.hidden_states or ()]
    return {"scores": found.logits.tolist(), "states": states, "bytes": told(model)}


def card_to_card(job):
    """Do as `generate` does, as if the memory of each process were a card with a way of its own to others."""
    from compile_plan.compiler.loading.hosts import between_cards, wire

    before, between_cards.DIRECT["cpu"] = wire.card_here, "gloo"
    wire.card_here = lambda device: between_cards.Card(device.type, job["card"])
    opened = []
    connect = torch.distributed.new_group
    torch.distributed.new_group = lambda *given, **how: opened.append(how) or connect(*given, **how)
    try:
        return {**generate(job), "opened": [how["backend"] for how in opened]}
    finally:
        wire.card_here = before
        torch.distributed.new_group = connect
        del between_cards.DIRECT["cpu"]


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


def lost_itself(way):
    """Let this process be gone: killed, or silent as one without power or network is."""
    os.kill(os.getpid(), {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}[way])


def ends(job):
    """Load a model, then be killed, or stop, while others go on."""
    model = load_model(parse(job["plan"]), built(job["folder"]), job["folder"])
    ids, _ = prompt(7, 1)
    with torch.no_grad():
        model(ids)
        if job.get("way"):
            lost_itself(job["way"])
        model(ids)
    return {}


class Losing(torch.nn.Linear):
    """A layer whose process is lost while it computes."""

    way = ""

    def forward(self, x):
        """Compute, unless it is lost."""
        if self.way and not self.weight.is_meta:
            lost_itself(self.way)
        return super().forward(x)


def ends_inside(job):
    """Be killed, or stop, before the first call or inside it; the others say how long they waited."""
    torch.manual_seed(4)
    model = torch.nn.Sequential(*(Losing(8, 8) for _ in range(job["stages"])))
    load_model(parse(job["plan"]), model)
    if job.get("when") == "before":
        while len(list(Path(job["ready"]).parent.glob("ready-*"))) < job["stages"] - 1:
            time.sleep(0.05)
        lost_itself(job["way"])
    with torch.no_grad():
        if not job.get("when"):
            meta = torch.ones(2, 8, device="meta")
            torch.nn.Linear(8, 8, device="meta")(meta)  # what its first call opens is not waiting
        model[-1].way = job.get("way", "")
        Path(job["ready"]).touch()
        start = time.monotonic()
        try:
            while True:
                model(torch.ones(2, 8))
        except PlanError as error:
            return {**said(error), "seconds": time.monotonic() - start}


class Failing(torch.nn.Linear):
    """A layer that fails where it is computed, when it is told to."""

    error = None

    def forward(self, x):
        """Compute, or fail."""
        if self.error is not None and not self.weight.is_meta:
            raise self.error
        return super().forward(x)


def tried(call):
    """Return what a call gives or the error it raises, and how long it took."""
    start = time.monotonic()
    try:
        found = {"out": call().tolist()}
    except PlanError as error:
        found = said(error)
    except (RuntimeError, KeyboardInterrupt) as error:
        found = {"error": f"{type(error).__name__}: {error}"[:200]}
    return {**found, "seconds": time.monotonic() - start}


def lives_on(job):
    """Call a model that fails in one layer, catch what is raised, and call it again, in several ways."""
    torch.manual_seed(4)
    model = torch.nn.Sequential(*(Failing(8, 8) for _ in range(3)))
    load_model(parse(job["plan"]), model)
    given = torch.ones(2, 8)
    found = {}
    with torch.no_grad():
        found["before"] = tried(lambda: model(given))
        model[1].error = RuntimeError("no more memory")
        found["failing"] = tried(lambda: model(given))
        found["failing in turn"] = tried(lambda: torch.stack(call_batches(model, [given] * 8)))
        model[1].error = None
        found["after"] = tried(lambda: model(given))
        found["failing everywhere"] = tried(lambda: model(given[:, :5]))
        found["again"] = tried(lambda: model(given))
        model[1].error = KeyboardInterrupt()
        found["interrupted"] = tried(lambda: model(given))
        model[1].error = None
        found["after that"] = tried(lambda: model(given))
    return found


def never_comes(job):
    """Join the group of all processes; one ends before it loads what the others load."""
    import torch.distributed

    torch.distributed.init_process_group("gloo")
    if job.get("ends"):
        os._exit(3)
    load_model(parse(job["plan"]), torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)))
    return {}


def without_memory(job):
    """Load a model on a host that says it has no memory."""
    from compile_plan.compiler.loading import obstacles

    free, obstacles.free_memory = obstacles.free_memory, lambda _: 16
    try:
        return generate(job)
    finally:
        obstacles.free_memory = free


def on_own_machine(job):
    """Do as `generate` does, as if every process were on a machine of its own, of so many bytes."""
    from compile_plan.compiler.driver import together
    from compile_plan.compiler.loading import hosts
    from compile_plan.ir import Device

    before = hosts.machines_of, together.this_machine
    hosts.machines_of = lambda wire: tuple(map(str, range(len(wire.hosts))))
    memory = {"cpu": job["memory"], **job.get("more", {})}
    together.this_machine = lambda _: tuple(Device(*each, origin="free here") for each in memory.items())
    try:
        return generate(job)
    finally:
        hosts.machines_of, together.this_machine = before


def calibrated(job):
    """Measure all machines and the roads between them; return what is printed."""
    import contextlib
    import io

    from compile_plan.compiler.cli import calibrating
    from compile_plan.compiler.cli.command import main
    from compile_plan.compiler.loading.hosts import between
    from compile_plan.compiler.machine import calibration

    calibrating.SIZES, calibration.SECONDS = calibration.Sizes(2**20, 2**20, 128, 8), 0.01
    between.LARGEST = 2 * between.FIRST
    os.environ["XDG_CONFIG_HOME"] = job["folder"]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["--calibrate", *job["words"]])
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


JOBS = {
    "calibrated": calibrated,
    "on_own_machine": on_own_machine,
    "generate": generate,
    "forward": forward,
    "bare": bare,
    "batches": batches,
    "ends": ends,
    "ends_inside": ends_inside,
    "card_to_card": card_to_card,
    "lives_on": lives_on,
    "measured": measured,
    "process_memory": process_memory,
    "on_a_card": on_a_card,
    "never_comes": never_comes,
    "without_memory": without_memory,
}


def said(error):
    """Return what an error says."""
    return {
        "codes": [found.code for found in error.diagnostics],
        "messages": [found.message for found in error.diagnostics],
        "notes": [list(found.notes) for found in error.diagnostics],
        "help": [found.help for found in error.diagnostics],
    }


def done(job):
    """Do one job; an error it may meet is its result."""
    try:
        return JOBS[job["do"]](job)
    except PlanError as error:
        return said(error)


def main(path):
    """Do the jobs of a file."""
    torch.set_num_threads(1)
    given = json.loads(Path(path).read_text(encoding="utf-8"))
    results = []
    for job in given["jobs"]:
        results.append(done(job))
        Path(given["result"]).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    # A suite that was started in the background hands down that Ctrl-C is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(sys.argv[1])
