"""diffusers: each part of a pipeline by its own call and map; for the whole it takes words, no map."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

from ...ir import Diagnostic, Phase, Plan, is_within
from ...ir.wording import in_words
from ..device_map import device_map_diagnostics, to_device_map
from .checks import cannot
from .engine import Engine

_NAME = "diffusers"
_FOLDER = "offload"
"""Where diffusers copies what its map has on disk."""


def named_parts(plan: Plan) -> tuple[str, ...]:
    """Return the names of a pipeline's parts; none for a plan of anything else."""
    found = (name for rule in plan.constraints if isinstance(rule, Phase) for name in rule.patterns)
    return tuple(name for name in dict.fromkeys(found) if name.isidentifier())


def accepts(plan: Plan) -> tuple[Diagnostic, ...]:
    """Say what diffusers would do otherwise: it moves modules by accelerate's hooks, as a map says."""
    if not named_parts(plan):
        why = "diffusers puts pipelines together from parts, each with a map of its own"
        help_ = "compile the pipeline itself, or its folder with a `model_index.json`; for one model take "
        return (cannot(_NAME, "a plan of no pipeline", why, f"{help_}`--for transformers`"),)
    return device_map_diagnostics(plan)


def emit(plan: Plan) -> str:
    """Write the calls that load each part by its map, and the pipeline from them."""
    names = named_parts(plan)
    calls = "".join(f"{name} = AutoModel.from_pretrained({_arguments(plan, name)})\n" for name in names)
    given = ", ".join(f"{name}={name}" for name in names)
    return (
        f"import torch\nfrom diffusers import AutoModel, DiffusionPipeline\n\n{calls}"
        f"pipe = DiffusionPipeline.from_pretrained(FOLDER, {given})\n"
    )


def _arguments(plan: Plan, name: str) -> str:
    places = dict(_places(plan, name))
    yes = ["FOLDER", f'subfolder="{name}"']
    dtype = _dtype(plan, name)
    yes += [f"torch_dtype=torch.{dtype}"] if dtype else []
    yes += [f'offload_folder="{_FOLDER}/{name}"'] if "disk" in places.values() else []
    return ", ".join([*yes, f"device_map={json.dumps(places)}"])


def _places(plan: Plan, name: str) -> Iterator[tuple[str, int | str]]:
    """Yield the keys of one part's map, as the part itself has them."""
    for path, place in to_device_map(plan).items():
        if is_within(path, name):
            yield path.removeprefix(name).removeprefix("."), place
        elif not path:
            yield "", place


def _dtype(plan: Plan, name: str) -> str:
    """Return what most of a part's weights are, which diffusers must be told; nothing where nobody knows."""
    tree = plan.tree
    if tree is None or tree.nbytes is None or name not in tree.module_index:
        return ""
    held: Counter[str] = Counter()
    for tensor in tree.covered(name):
        if "float" in tree.dtypes[tensor]:
            held[tree.dtypes[tensor]] += tree.nbytes[tensor]
    return dict(plan.options).get("dtype") or next((dtype for dtype, _ in held.most_common(1)), "")


def refused_pipeline(plan: Plan) -> Diagnostic | None:
    """Return the error for a pipeline's plan, for what loads one model; None for any other plan."""
    names = named_parts(plan)
    if not names:
        return None
    why = f"its parts are {in_words(names, 4)}, each with a class of its own"
    return cannot("transformers", "a plan of a pipeline", why, "use `--for diffusers`")


ENGINE = Engine(_NAME, "the device of every module of every part", accepts, emit)
