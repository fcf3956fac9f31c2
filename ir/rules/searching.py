"""Rules of the exact search: what does not fit, and why."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule, Severity

DOES_NOT_FIT: Final = Rule(
    "does-not-fit",
    Severity.ERROR,
    "the listed devices cannot hold the model",
    """\
No legal placement exists on the devices that are listed: together they have too little memory, a
unit that must stay whole is larger than any of them, or `--offload none` forbids what would work.

    device cuda:0 memory 4GiB
    device cpu memory 4GiB
    # the model needs 12GiB

The notes say what is needed and what is there, the help names one change that is enough. A disk is
used only when it is listed: add `device disk at "offload/"`. It only stores: a plan needs `cpu` or an
accelerator to compute.""",
)
PLACEMENT_NOT_FOUND: Final = Rule(
    "placement-not-found",
    Severity.ERROR,
    "the search gave up: it found no placement and could not prove that there is none",
    """\
The search is bounded by the work it does, so that every machine gives the same plan. Budgets that are
almost too small, with many rules and many units of different sizes, can be more than that work allows.

    device cuda:0 memory 4GiB
    device cpu memory 4GiB
    # the model needs 7.99GiB, and no two units are alike

More room on any device, a few pins, or fewer rules make it easy again.""",
)
SEARCH_ENDED: Final = Rule(
    "search-ended",
    Severity.WARNING,
    "the clock ended the search before it was through",
    """\
The search ends by itself after a bounded number of steps, the same on every machine. `--time-limit` ends it
sooner: what was not solved by then is left out, and the plan is the best of what was known. On a slower or
busier machine that may be another plan.

    compile-plan model.py --memory cuda:0=10GiB,cpu=64GiB --time-limit 0.1

Raise the limit. `--time-limit 0` asks for the simple plan and says nothing.""",
)
SPILL: Final = Rule(
    "spill",
    Severity.WARNING,
    "some units fit on no accelerator",
    """\
Not everything fits on the accelerators, in any order. The units that spill are stored on the CPU or
on a disk and streamed to an accelerator when they are needed, or computed where they are stored.

    device cuda:0 memory 4GiB
    device cpu memory 64GiB
    # the model needs 6GiB

The notes are the proof: what is needed, what is free, the largest unit outside and the largest gap
left. The help names the smallest change of one budget with which nothing spills.""",
)
STREAMING_BUFFER: Final = Rule(
    "streaming-buffer",
    Severity.WARNING,
    "a device has too little room left for what is streamed to it",
    """\
A unit that is stored elsewhere is copied to the device that runs it just before it runs. That copy
needs as many bytes as the largest unit streamed there, and they are not free.

    device cuda:0 memory 4GiB
    place model.layers.{0..9} on cuda:0              # 3.9GiB
    place model.layers.{10..19} on cpu run on cuda:0 # 0.4GiB each

Strategy `auto` keeps room for the buffer. A written plan, or one made by another tool, may not.""",
)

ALL: Final = (DOES_NOT_FIT, PLACEMENT_NOT_FOUND, SEARCH_ENDED, SPILL, STREAMING_BUFFER)
