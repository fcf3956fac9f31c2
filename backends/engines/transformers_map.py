"""transformers and accelerate: the device of every module, as the argument of ``from_pretrained``."""

from __future__ import annotations

import json

from ...ir import Plan
from ..device_map import device_map_diagnostics, to_device_map
from .engine import Engine


def emit(plan: Plan) -> str:
    """Write the call of ``from_pretrained`` with the plan's map."""
    return f"AutoModelForCausalLM.from_pretrained(FOLDER, device_map={json.dumps(to_device_map(plan))})\n"


ENGINE = Engine("transformers", "the device of every module", device_map_diagnostics, emit)
