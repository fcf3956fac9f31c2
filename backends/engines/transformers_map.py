"""transformers and accelerate: the device of every module, as the argument of ``from_pretrained``."""

from __future__ import annotations

import json

from ...ir import Diagnostic, Plan
from ..device_map import device_map_diagnostics, to_device_map
from .diffusers_parts import refused_pipeline
from .engine import Engine


def accepts(plan: Plan) -> tuple[Diagnostic, ...]:
    """Say what a map cannot hold; the parts of a pipeline are several models."""
    pipeline = refused_pipeline(plan)
    return device_map_diagnostics(plan) if pipeline is None else (pipeline,)


def emit(plan: Plan) -> str:
    """Write the call of ``from_pretrained`` with the plan's map."""
    return f"AutoModelForCausalLM.from_pretrained(FOLDER, device_map={json.dumps(to_device_map(plan))})\n"


ENGINE = Engine("transformers", "the device of every module", accepts, emit)
