"""Options people bring from other tools: those that mean one thing here are understood, others pointed to."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final


def _as_memory(value: str) -> list[str]:
    """Read ``{0: "10GiB", "cpu": "60GiB"}``, as Python and JSON write it, or our own list."""
    try:
        given = ast.literal_eval(value) if value.lstrip().startswith("{") else None
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        given = None
    if not isinstance(given, dict):
        return ["--memory", value]
    return ["--memory", ",".join(f"{key}={size}" for key, size in given.items())]


_STRATEGIES: Final = frozenset({"auto", "balanced", "balanced_low_0", "sequential"})


def _as_strategy(value: str) -> list[str]:
    """Read one of accelerate's words; a file of places is an override."""
    return ["--strategy" if value in _STRATEGIES else "--override", value]


_UNDERSTOOD: Final[Mapping[str, Callable[[str], list[str]]]] = {
    "--max-memory": _as_memory,
    "--memory": _as_memory,
    "--device-map": _as_strategy,
    "--torch-dtype": lambda value: ["--dtype", value],
    "--no-split-module-classes": lambda value: ["--no-split", value],
    "--max-model-len": lambda value: ["--cache-tokens", value],
    "--ctx-size": lambda value: ["--cache-tokens", value],
}
_MEMORY: Final = "say it for each device: `--memory cuda:0={0},cpu=64GiB`"
_DRY: Final = "a plan is all that is made, and without `-o` nothing is written: leave it out"
_QUANTISED: Final = (
    "plan the quantised checkpoint itself, or see what it would take: `--dtype bfloat16,int8,int4`"
)
_CARDS: Final = "list the cards: `--memory cuda:{{0..7}}=80GiB`"
_ROWS: Final = "say how many sequences there are at once: `--rows {0}`"
_POINTED: Final[Mapping[str, tuple[str, str]]] = {
    "--gpu-memory": (_MEMORY, "24GiB"),
    "--max-gpu-memory": (_MEMORY, "24GiB"),
    "--gpu-split": (_MEMORY, "24GiB"),
    "--vram": (_MEMORY, "24GiB"),
    "--cpu-memory": ("say it for each device: `--memory cuda:0=24GiB,cpu={0}`", "64GiB"),
    "--gpu-memory-utilization": ("keep bytes free instead: `--margin 2GiB`", ""),
    "--dry-run": (_DRY, ""),
    "--load-in-4bit": (_QUANTISED, ""),
    "--load-in-8bit": (_QUANTISED, ""),
    "--gpus": (_CARDS, ""),
    "--num-gpus": (_CARDS, ""),
    "--tensor-parallel-size": (_CARDS, ""),
    "--pipeline-parallel-size": (_CARDS, ""),
    "--n-gpu-layers": ("give the card's bytes, the layers follow: `--memory cuda:0=24GiB,cpu=64GiB`", ""),
    "-ngl": ("give the card's bytes, the layers follow: `--memory cuda:0=24GiB,cpu=64GiB`", ""),
    "--tensor-split": ("give each card's bytes: `--memory cuda:0=24GiB,cuda:1=12GiB`", ""),
    "-ts": ("give each card's bytes: `--memory cuda:0=24GiB,cuda:1=12GiB`", ""),
    "--override-tensor": ("write `place **.experts on cpu` in a file: `--override edits.plan`", ""),
    "--cpu-offload-gb": ("list the host's memory: `--memory cuda:0=24GiB,cpu=64GiB`", ""),
    "--offload-folder": (
        'list a disk: `--memory cpu=16GiB,disk`, and its folder as `device disk at "DIR"`',
        "",
    ),
    "--model": ("name the model without an option: `compile-plan {0}`", "model.py"),
    "-m": ("name the model without an option: `compile-plan {0}`", "model.py"),
    "--json": ("write `--format json`", ""),
    "--verbose": ("`--all` shows every unit and warning", ""),
    "-v": ("`--all` shows every unit and warning", ""),
    "--batch-size": (_ROWS, "4"),
    "--max-batch-size": (_ROWS, "4"),
    "--max-num-seqs": (_ROWS, "4"),
    "--context": ("write `--cache-tokens {0}`", "8192"),
}


def translated(argv: Sequence[str]) -> list[str]:
    """Return a command line with what is understood of other tools in our own words."""
    return list(_translated(argv))


def _translated(argv: Sequence[str]) -> Iterator[str]:
    words = iter(argv)
    for word in ("--override-tensor" if word == "-ot" else word for word in words):  # not `-o t`
        option, equals, value = word.partition("=")
        read = _UNDERSTOOD.get(option.replace("_", "-")) if option.startswith("--") else None
        if read is None:
            yield word
            continue
        found = value if equals else next(words, None)
        yield from [option] if found is None else read(found)


def pointer(option: str, value: str) -> str | None:
    """Return what to write here for an option of another tool; None for one that is nobody's."""
    known = _POINTED.get(option if option in _POINTED else option.replace("_", "-"))
    return None if known is None else known[0].format(value or known[1])
