"""An oracle for device maps that knows nothing of how they are made."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

import accelerate
import torch
from accelerate.utils import modeling
from torch import nn

if TYPE_CHECKING:
    from module_strategies import Request


def accelerates_map(request: Request) -> dict[str, int | str] | None:
    """Return accelerate's map, its tie groups in tree order as some hash seed has them; None: a crash."""
    original = modeling.find_tied_parameters
    order = {name: i for i, (name, _) in enumerate(request.model.named_parameters(remove_duplicate=False))}

    def ordered(model: nn.Module, **more: object) -> list[list[str]]:
        return sorted(original(model, **more), key=lambda group: min(map(order.__getitem__, group)))

    modeling.find_tied_parameters = ordered
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return dict(accelerate.infer_auto_device_map(request.model, **request.arguments))
    except (IndexError, AttributeError, ValueError, KeyError, TypeError):
        return None
    finally:
        modeling.find_tied_parameters = original


def faults(request: Request, device_map: Mapping[str, int | str]) -> set[str]:
    """Return what is wrong with a map: tensors without a place, torn ties, budgets exceeded."""
    found: set[str] = set()
    places: dict[int, set[int | str]] = defaultdict(set)
    used: dict[int | str, Fraction] = defaultdict(Fraction)
    seen: set[tuple[str, int]] = set()
    for kind, named in (
        ("parameter", request.model.named_parameters(remove_duplicate=False)),
        ("buffer", request.model.named_buffers(remove_duplicate=False)),
    ):
        for name, tensor in named:
            device = _place(device_map, name)
            if device is None:
                found.add("missing")
                continue
            if kind == "parameter":
                places[id(tensor)].add(device)
            if (kind, id(tensor)) not in seen:
                seen.add((kind, id(tensor)))
                used[device] += _nbytes(name, tensor, request)
    if any(len(devices) > 1 for devices in places.values()):
        found.add("torn tie")
    limits = {device: limit for device, limit in request.max_memory.items() if device != "disk"}
    if any(nbytes > limits.get(device, nbytes) for device, nbytes in used.items()):
        found.add("over budget")
    return found


def _place(device_map: Mapping[str, int | str], name: str) -> int | str | None:
    parts = name.split(".")
    for end in range(len(parts), -1, -1):
        path = ".".join(parts[:end])
        if path in device_map:
            return device_map[path]
    return None


def _nbytes(name: str, tensor: torch.Tensor, request: Request) -> Fraction:
    """Count as accelerate does: a bool is a bit, floats shrink to the wanted dtype."""
    special = (request.options["special_dtypes"] or {}).get(name)
    wanted = request.options["dtype"]
    own = Fraction(modeling.dtype_byte_size(tensor.dtype))
    if special is not None:
        own = Fraction(modeling.dtype_byte_size(special))
    elif wanted is not None and tensor.dtype not in {torch.bool, torch.int64}:
        kind = getattr(torch, wanted) if isinstance(wanted, str) else wanted
        own = min(own, Fraction(modeling.dtype_byte_size(kind)))
    return tensor.numel() * own
