"""What the language promises: 10,000 lines well under a second, an import of tens of milliseconds.

Times are of the processor, so that a busy machine does not change them.

python benchmarks/language.py [LINES]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from compile_plan.compiler.lsp import check, complete, hover
from compile_plan.grammar import format_text, parse, print_plan

CLOCK = "import time; t = time.process_time(); import compile_plan.grammar as g; "
SHOW = "print(time.process_time() - t)"


def median_time(run: Callable[[], object], times: int = 5) -> float:
    """Return the median of several runs, in milliseconds."""
    taken = []
    for _ in range(times):
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    return statistics.median(taken) * 1000


def in_new_process(code: str, times: int = 7) -> float:
    """Return the median of what a program prints in processes of its own, in milliseconds."""
    outputs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
        for _ in range(times)
    ]
    return statistics.median(map(float, outputs)) * 1000


def override_lines(count: int) -> str:
    """Write lines as people do: a path, a device, now and then a comment or a streamed unit."""
    rows = []
    for i in range(count):
        run = " run on cuda:0" if i % 7 == 0 else ""
        note = f"  # expert {i}" if i % 5 == 0 else ""
        rows.append(f"place model.layers.{i // 100}.experts.{i % 100} on cuda:{i % 4}{run}{note}")
    return "\n".join(rows) + "\n"


def table(layers: int, experts: int) -> str:
    """Write the module table of a mixture of experts."""
    devices = "".join(f"device cuda:{i} memory 80GiB\n" for i in range(4))
    return (
        f"{devices}module model.layers.{{0..{layers - 1}}} : Layer\n"
        f"module model.layers.{{0..{layers - 1}}}.experts.{{0..{experts - 1}}} : Expert 1MiB\n"
    )


def main() -> None:
    """Measure and print."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("lines", type=int, nargs="?", default=10_000)
    count = reader.parse_args().lines
    text = override_lines(count)
    plan = parse(text)
    model = parse(table(max(1, -(-count // 100)), 100))
    some = "".join(text.splitlines(keepends=True)[:200])
    typed = f"{some}place model.layers.0."
    rows = {
        "import the grammar": in_new_process(CLOCK + SHOW),
        "import and parse one line": in_new_process(f"{CLOCK}g.parse('place a on cpu'); {SHOW}"),
        f"parse {count:,} lines": median_time(lambda: parse(text)),
        f"print {count:,} places": median_time(lambda: print_plan(plan)),
        f"format {count:,} lines": median_time(lambda: format_text(text)),
        "editor: check 200 lines": median_time(lambda: check(some, companion=model)),
        f"editor: check {count:,} lines": median_time(lambda: check(text, companion=model), 3),
        "editor: complete a path": median_time(lambda: complete(typed, len(typed), model)),
        "editor: hover over a path": median_time(lambda: hover(some, 10, model)),
    }
    for what, taken in rows.items():
        print(f"{what:<30} {taken:9.1f} ms")


if __name__ == "__main__":
    main()
