"""The first three minutes of a stranger, from a fresh clone: the table of docs/index.md.

    python benchmarks/first_minutes.py

Clones this repository, makes an environment as README says and does what people do first, one step after the
other, with a clock: a first plan, a large mixture from its ``config.json``, an edit, a mistake, a question,
the report, a folder loaded in Python. Needs git and an index of packages; how long the installation takes is
mostly the index's doing. A step that does not end as it should ends the script.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
QWEN3_235B = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "head_dim": 128,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "moe_intermediate_size": 1536,
    "num_attention_heads": 64,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 94,
    "num_key_value_heads": 4,
    "torch_dtype": "bfloat16",
    "vocab_size": 151936,
}
LOAD = """
import transformers
from compile_plan.compiler import load_pretrained
tiny = transformers.LlamaConfig(hidden_size=64, intermediate_size=64, num_hidden_layers=2, vocab_size=256)
transformers.LlamaForCausalLM(tiny).save_pretrained("tiny")
load_pretrained("tiny")
"""
TWO = "cuda:0=1500MiB,cuda:1=1500MiB,cpu=64GiB"
LAB = "cuda:0=24GiB,cuda:1=12GiB,cpu=512GiB"


class Step(NamedTuple):
    """What is typed, how it must end, and what must be seen of it."""

    what: str
    command: str
    code: int = 0
    seen: str = ""


STEPS = (
    Step("install (`pip install -c constraints.txt '.[hub]'`)", "pip install -q -c constraints.txt '.[hub]'"),
    Step(
        "a first plan of the example",
        "compile-plan examples/decoder.py -o plan.msgpack",
        seen="wrote plan.msgpack",
    ),
    Step(
        "the same for two cards, as text",
        f"compile-plan examples/decoder.py --memory {TWO} -o decoder.plan",
        seen="cuda:1",
    ),
    Step(
        "a 235B mixture from its config.json, 24 + 12 GiB cards",
        f"compile-plan big --memory {LAB}",
        seen="a token",
    ),
    Step(
        "a line of our own",
        f"compile-plan examples/decoder.py --memory {TWO} --override edits.plan -o decoder.plan",
        seen="embed, head",
    ),
    Step(
        "a line with a mistake, met with the one that was meant",
        f"compile-plan examples/decoder.py --memory {TWO} --override wrong.plan",
        code=1,
        seen="`head`",
    ),
    Step("why is it there", "compile-plan decoder.plan --explain blocks.5", seen="why there"),
    Step("the report", "compile-plan plan.msgpack -o report.html", seen="report.html"),
    Step("a transformers folder made, planned and loaded in Python", "python load.py"),
)


def fresh(work: Path) -> dict[str, str]:
    """Clone the repository, make an environment beside it and what the steps read; return the variables."""
    subprocess.run(["git", "clone", "-q", ROOT, work / "clone"], check=True)
    subprocess.run([sys.executable, "-m", "venv", work / "env"], check=True)
    clone = work / "clone"
    (clone / "big").mkdir()
    (clone / "big" / "config.json").write_text(json.dumps(QWEN3_235B))
    (clone / "edits.plan").write_text("place head on cuda:1\n")
    (clone / "wrong.plan").write_text("place haed on cuda:1\n")
    (clone / "load.py").write_text(LOAD)
    path = f"{work / 'env' / 'bin'}:/usr/local/bin:/usr/bin:/bin"
    return {"PATH": path, "HOME": str(work), "COLUMNS": "80"}


def timed(step: Step, clone: Path, variables: dict[str, str]) -> float:
    """Return the seconds a step takes; ends the script where it goes another way."""
    start = time.perf_counter()
    done = subprocess.run(
        shlex.split(step.command), check=False, cwd=clone, env=variables, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    if done.returncode != step.code or step.seen not in done.stdout + done.stderr:
        sys.exit(f"$ {step.command}\nexit {done.returncode}\n{done.stdout}{done.stderr}")
    return seconds


def rows(work: Path) -> Iterator[str]:
    """Yield the table, a line as soon as it is known."""
    variables, since = fresh(work), 0.0
    yield "| step | seconds | since the clone |\n|---|---|---|"
    for step in STEPS:
        seconds = timed(step, work / "clone", variables)
        since += seconds
        yield f"| {step.what} | {seconds:.1f} | {since:.0f} |"


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as work:
        for row in rows(Path(work)):
            print(row, flush=True)


if __name__ == "__main__":
    main()
