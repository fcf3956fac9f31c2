"""What placing found, as diagnostics with their numbers and a change that works."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import assert_never

from ...ir import (
    ComputedInstead,
    Diagnostic,
    Finding,
    LeftEmpty,
    Plan,
    SearchEnded,
    ShortBuffer,
    Spill,
    UnlistedDisk,
    human_size,
    size_up,
)
from ...ir.rules.loading import TRAINING_WHILE_STREAMING
from ...ir.rules.placement import BUFFERS_WITHOUT_ROOM, DEVICE_LEFT_EMPTY, UNLISTED_DISK
from ...ir.rules.searching import COMPUTED_INSTEAD, SEARCH_ENDED, SPILL, STREAMING_BUFFER
from ...ir.wording import in_words
from .ways_out import ways_out


def with_findings(plan: Plan, kind: type[Finding], found: Iterable[Finding]) -> Plan:
    """Return the plan with these findings in place of those of the kind that it had."""
    others = (finding for finding in plan.findings if not isinstance(finding, kind))
    return replace(plan, findings=(*others, *found))


def said(finding: Finding, plan: Plan) -> Diagnostic:
    """Return the warning of a finding about a plan."""
    match finding:
        case LeftEmpty():
            return left_empty(finding.device, finding.nbytes)
        case UnlistedDisk():
            return _unlisted(finding)
        case ShortBuffer():
            return _short_buffer(finding)
        case Spill():
            return _spill(finding, ways_out(plan, finding))
        case ComputedInstead():
            return _computed(finding)
        case SearchEnded():
            return _ended(finding)
        case _:
            assert_never(finding)


def left_empty(device: str, nbytes: int) -> Diagnostic:
    """Return the warning for a device that holds nothing although something waited for room."""
    return Diagnostic(
        DEVICE_LEFT_EMPTY,
        f"`{device}` holds nothing: the next unit needs {human_size(nbytes)} there",
        notes=(f"{nbytes} bytes: the unit, what is tied to it, and what the device keeps free",),
        help=f"give `{device}` at least {size_up(nbytes)}",
    )


def buffers_without_room(nbytes: int) -> Diagnostic:
    """Return the warning for buffers of offloaded units that no accelerator has room for."""
    return Diagnostic(
        BUFFERS_WITHOUT_ROOM,
        f"offloaded units need {human_size(nbytes)} for their buffers, which no accelerator has left",
        notes=(f"{nbytes} bytes stay on the accelerator that runs the units",),
        help="offload them too with `--offload-buffers`, or raise an accelerator's budget",
    )


def trained_while_streamed(paths: Sequence[str]) -> Diagnostic:
    """Return the error for a plan to train by whose backward passes could not reach the weights."""
    return Diagnostic(
        TRAINING_WHILE_STREAMING,
        f"{in_words(paths, 2)} would be streamed, and are gone when a backward pass needs them",
        help="train by a plan that streams nothing: `--offload compute`, or places with no other `run on`",
    )


def say_needs(total: int, lasting: int, kept: str, peak: int) -> str:
    """Say what everything takes, and what of it is not weights where that is more than a twentieth."""
    parts = [f"{human_size(lasting)} of it {kept}"] if lasting * 20 > total else []
    parts += [f"up to {human_size(peak)} of activations beside it"] if peak * 20 > total else []
    return human_size(total) + (f" ({', '.join(parts)})" if parts else "")


def _unlisted(finding: UnlistedDisk) -> Diagnostic:
    return Diagnostic(
        UNLISTED_DISK,
        f"`{finding.device}` holds {human_size(finding.nbytes)} of the model, and nobody listed it",
        notes=(f"{finding.nbytes} bytes: accelerate falls back on a disk when everything else is full",),
        help="list `disk`, raise another budget, or use another strategy",
    )


def _short_buffer(finding: ShortBuffer) -> Diagnostic:
    return Diagnostic(
        STREAMING_BUFFER,
        f"what is streamed to `{finding.device}` needs a buffer of {human_size(finding.wanted)}, "
        f"but {human_size(finding.left)} are left",
        notes=(f"{finding.wanted} > {finding.left} bytes",),
        help=f"give `{finding.device}` {size_up(finding.wanted - finding.left)} more, or place less on it",
    )


def _spill(spill: Spill, ways: tuple[str, ...]) -> Diagnostic:
    all_of_it = say_needs(spill.needed, spill.lasting, spill.kept, spill.peak)
    outside = f"units outside {human_size(spill.smallest)} to {human_size(spill.largest)}"
    proof = [f"needs {all_of_it}, accelerators have {human_size(spill.free)} free for it"]
    if spill.largest:  # parts of units may be outside where no unit is
        proof.append(f"{outside}, largest gap left {human_size(spill.gap)}")
    unsure = () if spill.unproven is None else (f"not proven: {human_size(spill.unproven)} may be gained",)
    return Diagnostic(
        SPILL,
        f"{human_size(spill.nbytes)} of {human_size(spill.total)} fit on no accelerator",
        notes=(*proof, *unsure),
        help="\nor ".join(ways) or None,
    )


def _computed(finding: ComputedInstead) -> Diagnostic:
    what = ", ".join(f"`{path}`" if path else "what has no line of its own" for path in finding.paths[:3])
    more = f" and {len(finding.paths) - 3} more" if len(finding.paths) > 3 else ""
    one = len(finding.paths) == 1
    ruled = not finding.largest
    needs, has = human_size(finding.largest), human_size(finding.room)
    return Diagnostic(
        COMPUTED_INSTEAD,
        f"{what}{more} {'is' if one else 'are'} computed on the CPU instead of streamed",
        notes=(
            f"{human_size(finding.nbytes)} in all",
            "a rule keeps it from streaming"
            if ruled
            else f"streaming the largest takes {needs}, {has} are free",
        ),
        help="remove the `never` line, or allow computing with `--offload auto`"
        if ruled
        else f"give an accelerator {size_up(finding.largest - finding.room)} more, or allow it to be split",
    )


def _ended(finding: SearchEnded) -> Diagnostic:
    return Diagnostic(
        SEARCH_ENDED,
        f"the search was ended after {finding.seconds:g}s, before it was through",
        notes=("the plan is the best of what was known by then",),
        help="raise `--time-limit`",
    )
