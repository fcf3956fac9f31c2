"""What a ledger and its seconds are for, in words for the terminal and the page."""

from __future__ import annotations

from ..ir import Plan, Prediction, Workload


def counted_workload(plan: Plan) -> Workload | None:
    """Return what the ledger is for; None where nobody said and it has weights alone."""
    work = plan.workload
    room = any(account.kv_cache or account.activations for account in plan.ledger)
    return work if work is not None and plan.ledger and (room or not work.added) else None


def workload_text(work: Workload) -> str:
    """Return what the ledger counts: ``counted for generate: 1 row, prompt 512, 128 tokens written``."""
    rows = f"{work.rows:,} row{'' if work.rows == 1 else 's'}"
    what = f"{rows}, prompt {work.prompt:,}, {work.tokens:,} tokens written" if work.prompt else (
        f"{rows} of {work.tokens:,} tokens"
    )  # fmt: skip
    return f"counted for {work.kind}: {what}{' (assumed, as nobody said)' if work.added else ''}"


def predicted_text(predicted: Prediction) -> str:
    """Return a sentence: a token and the prompt, what each waits for most, and what that is better than."""
    parts = []
    if predicted.token:
        parts.append(f"{timed_text(predicted.token)} a token{_limited(predicted.token_limit)}")
    if predicted.prompt:
        what = "prompt" if predicted.token else "a forward"
        parts.append(f"{what} {timed_text(predicted.prompt)}{_limited(predicted.prompt_limit)}")
    text = f"predicted: {', '.join(parts) or 'nothing to wait for'}"
    if not predicted.simple or not predicted.seconds or predicted.simple_seconds is None:
        return text
    times = predicted.simple_seconds / predicted.seconds
    told = f"{times:.3g}"
    # Below 1 are models of kilobytes, for which the search prices hops as in a large model.
    return f"{text}; {told} times as quick as {predicted.simple}" if times > 1 and told != "1" else text


def _limited(limit: str) -> str:
    return f" ({limit})" if limit else ""


def timed_text(value: float) -> str:
    """Return seconds as people say them: ``1.2 s``, ``44.6 ms``, ``31 us``."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.3g} us"
