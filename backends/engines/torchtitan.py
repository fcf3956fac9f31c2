"""torchtitan and NeMo AutoModel: ``module_fqns_per_model_part``, the modules of each stage.

NeMo names modules as transformers does. torchtitan names the children of its own model, and calls those of
a transformers model likewise; what is not listed is emptied. Both want the rotary embedding in every stage.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

from ...ir import Plan
from .checks import lines
from .engine import Engine
from .stages import placed_stack, stages_in_order, stages_of

_ROTARY = "rotary_emb"
_CALLED = {"embed_tokens": "tok_embeddings"}
"""What torchtitan calls a child of a transformers model otherwise."""


def emit_nemo(plan: Plan) -> str:
    """Write the lists with the model's own paths."""
    return _written(_stages(plan))


def emit_torchtitan(plan: Plan) -> str:
    """Write the lists with the names torchtitan knows."""
    return _written([[_called(path, _parent(plan)) for path in stage] for stage in _stages(plan)])


def _stages(plan: Plan) -> list[list[str]]:
    parent, stages = _parent(plan), stages_of(plan)
    if not parent:
        return stages
    rotary = f"{parent}.{_ROTARY}"
    return [[*(path for path in stage if path != rotary), rotary] for stage in stages]


def _parent(plan: Plan) -> str:
    """Return the module around the layers: a transformers model has one, torchtitan's own has none."""
    return placed_stack(plan).path.rpartition(".")[0]


def _called(path: str, parent: str) -> str:
    name = path.removeprefix(f"{parent}.") if parent else path
    return _CALLED.get(name, name)


def _written(stages: list[list[str]]) -> str:
    return json.dumps({"module_fqns_per_model_part": stages}, indent=2) + "\n"


def _engine(name: str, emit: Callable[[Plan], str]) -> Engine:
    return Engine(name, "modules a stage", partial(stages_in_order, name), emit, lines=lines)


ENGINES = (_engine("torchtitan", emit_torchtitan), _engine("nemo", emit_nemo))
