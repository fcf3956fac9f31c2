"""Streaming in which one step fails, whichever it is: `python failing_runs.py`.

A step is what may fail on a card or be broken off: a copy before it is asked for or after, memory that is not
there, a wait, a tensor that is lent or put back. Prints one JSON object: for each circumstance how many steps
there were, and those after which the next forwards were wrong or something stayed behind.
"""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path

import late_card
import rows_runs
import streamed_runs
import torch
from compile_plan.compiler.loading import load_model
from compile_plan.compiler.loading.streaming import carrier, courier, lanes, loan, rows, site, streamed
from compile_plan.compiler.loading.streaming.arena import Arena

assert late_card.COMPUTING
STEPS = {
    (lanes.CudaLane, "copy"): True,
    (lanes.CudaLane, "join"): True,
    (courier.Courier, "_send"): True,
    (Arena, "take"): False,
    (carrier, "outside"): True,
    (rows, "outside"): True,
    (site.Load, "is_current"): True,
    (streamed.Streamed, "lend"): True,
    (loan.Loan, "begin"): True,
    (streamed.Streamed, "copy"): True,
}
"""With whether it may fail when it is done: what was taken by then is nobody's."""
MOST = 400


class Failure:
    """Lets the n-th step from now on fail, before it happens or after."""

    def __init__(self):
        self.left, self.late = 0, False

    def put_on(self, owner, name, *, after):
        done = getattr(owner, name)

        @functools.wraps(done)
        def step(*args, **kwargs):
            self.left -= 1
            fails = self.left == 0
            if fails and not (self.late and after):
                raise torch.OutOfMemoryError
            made = done(*args, **kwargs)
            if fails:
                raise torch.OutOfMemoryError
            return made

        setattr(owner, name, step)


def left_behind(model):
    """Return what a forward that is over should not leave."""
    stream = model._compile_plan_execution.stream
    supply = stream.supply
    ahead = sum(1 for load, _ in supply.ready.values() for cargo in load.cargo if cargo.lot is not None)
    taken = sum(len(each.arena._taken) for each in supply._carriers.values())
    lent = [one for each in stream.sites for one in each.streamed if one.used is not None or one.users]
    changed = [rows for rows in model._compile_plan_execution.rows if rows._owner or rows._loan]
    return taken - ahead, supply.held.total(), len(lent), len(changed)


def tried(failure, model, right):
    """Return how many steps a forward has, and after which of them something was wrong."""
    wrong = []
    for late in (False, True):
        for number in range(1, MOST):
            failure.left, failure.late = number, late
            try:
                good = right()
            except torch.OutOfMemoryError:
                good = True
            fired, failure.left = failure.left <= 0, 0
            if not (good and right() and not any(left_behind(model))):
                wrong.append((number, late, left_behind(model)))
            if not fired:
                break
    return number, wrong[:9]


def whole(failure):
    for store, streaming in (("cpu", 1 << 20), ("disk", 1), ("disk", 1 << 20)):
        with tempfile.TemporaryDirectory() as folder:
            real, model = streamed_runs.pair(store, Path(folder), streaming=streaming)
            right = functools.partial(streamed_runs.same, real, model)
            yield f"whole, {store}, {streaming}", tried(failure, model, right)


def by_rows(failure, folder):
    real = rows_runs.built("mixtral")
    real.save_pretrained(folder, save_original_format=True)
    ids = rows_runs.TOKENS[:, :4]
    expected = real(input_ids=ids).logits
    cached, in_turns = {"cache": rows_runs.LAYERS * 4 * rows_runs.ROW}, {"streaming": 4 * rows_runs.ROW}
    for store, options in (("cpu", cached), ("disk", cached), ("disk", in_turns)):
        with torch.device("meta"):
            model = rows_runs.KINDS["mixtral"]().eval()
        model.set_experts_implementation("eager")
        load_model(rows_runs.plan_of(store, "cuda:0", **options), model, folder, devices=rows_runs.NAMES)

        def right(model=model):
            return torch.allclose(model(input_ids=ids).logits, expected, atol=1e-5)

        yield f"rows, {store}, {next(iter(options))}", tried(failure, model, right)


def main():
    torch.set_num_threads(1)
    failure = Failure()
    for (owner, name), after in STEPS.items():
        failure.put_on(owner, name, after=after)
    with torch.no_grad(), tempfile.TemporaryDirectory() as name:
        found = dict(whole(failure)) | dict(by_rows(failure, Path(name)))
    print(json.dumps(found))  # noqa: T201  the program's result


if __name__ == "__main__":
    main()
