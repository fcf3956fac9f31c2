"""Tracing: one forward on the meta device, and everything a plan can learn from it.

torch is imported only by what runs a forward; reading a trace needs none.
"""

from __future__ import annotations

from .apply import flows_of, quiet_trace, traced_plan, with_rules
from .corrections import corrections
from .cuts import cut_rules, must_stay_whole
from .demands import cache_demands, demands
from .forward import trace_model, try_trace
from .graph import module_graph
from .inputs.example_inputs import example_inputs
from .moments import Moments, Use, try_moments
from .peaks import Peak
from .trace import Trace
from .verify_plan import Copy, Verification, verify_plan, verify_trace

__all__ = [
    "Copy",
    "Moments",
    "Peak",
    "Trace",
    "Use",
    "Verification",
    "cache_demands",
    "corrections",
    "cut_rules",
    "demands",
    "example_inputs",
    "flows_of",
    "module_graph",
    "must_stay_whole",
    "quiet_trace",
    "trace_model",
    "traced_plan",
    "try_moments",
    "try_trace",
    "verify_plan",
    "verify_trace",
    "with_rules",
]
