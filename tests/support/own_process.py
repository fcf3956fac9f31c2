"""Runs a script of this folder in a process of its own: nothing tests hold, hide or pretend is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def run_support(*command):
    """Return what a script, named first, prints as JSON."""
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)
