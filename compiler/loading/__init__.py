"""The loader: a plan, a model and a checkpoint in; a model that runs as planned out."""

from __future__ import annotations

from .execution import Execution
from .load import load_model
from .reading import Progress
from .rebuilding import Materialize
from .runtime_report import RuntimeReport, runtime_report
from .schedule import call_batches

release_model = Execution.release

__all__ = [
    "Materialize",
    "Progress",
    "RuntimeReport",
    "call_batches",
    "load_model",
    "release_model",
    "runtime_report",
]
