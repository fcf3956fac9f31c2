"""Where each tensor of a live model goes: a plan bound to the model, one seat per storage.

A plan may come from the compiler or be written by hand, with units inside units and wildcards; the
deepest unit wins. What shares storage has one seat, whatever it is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from ...ir import (
    CPU,
    DISK,
    Diagnostic,
    Diagnostics,
    Plan,
    Role,
    TieGroup,
    device_type,
    unit_of_tensors,
)
from ...ir.rules.loading import ABSENT_DEVICE, OTHER_HOST
from ..lines.binding import bind_plan
from .asked import Dtypes
from .compounds import Compound, taken_apart
from .hosts import ELSEWHERE, LocalView, torch_name
from .wrappers import Plain


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor object of the model and every name it has."""

    paths: tuple[str, ...]
    """Names without wrappers, in tree order; the first is the one messages use."""
    live: tuple[str, ...]
    """Names on the live model."""
    tensor: torch.Tensor
    """What is there before loading."""
    role: Role
    dtype: torch.dtype
    """What it will be."""
    compound: Compound | None = None
    """What the tensor is made of, if it is of a class of its own."""

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, or of all that it is made of."""
        return self.tensor.numel() * self.dtype.itemsize if self.compound is None else sum(self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of each plain tensor it takes."""
        return (
            (self.nbytes,) if self.compound is None else tuple(leaf.nbytes for leaf in self.compound.leaves)
        )


@dataclass(frozen=True, slots=True)
class Seat:
    """One storage of the model, the devices the plan gives it, and the tensors that are in it."""

    slots: tuple[Slot, ...]
    store: str
    run: str
    unit: int
    """Index into the bound plan's units."""

    @property
    def nbytes(self) -> int:
        """Bytes of the storage after loading."""
        return max(slot.nbytes for slot in self.slots)


def bound_to(plan: Plan, plain: Plain, diagnostics: Diagnostics) -> Plan:
    """Return the plan as disjoint units that cover the model, with the model's ties; every law checked."""
    written = tuple(tie for tie in plan.ties if tie.span is not None)
    bound = bind_plan(replace(plan, ties=written), plain.tree, diagnostics)
    return replace(bound, ties=_ties(plain))


def _ties(plain: Plain) -> tuple[TieGroup, ...]:
    groups: dict[int, list[str]] = {}
    for path, storage in zip(plain.tree.tensor_paths, plain.tree.storages, strict=True):
        groups.setdefault(storage, []).append(path)
    return tuple(TieGroup(tuple(paths)) for paths in groups.values() if len(paths) > 1)


def seats_of(plan: Plan, plain: Plain, model: nn.Module, dtypes: Dtypes) -> list[Seat]:
    """Return one seat for each storage of the model, in tree order; the plan is bound and lawful."""
    tree = plain.tree
    owner = unit_of_tensors(tree, plan.units)
    objects = tree.objects or tree.storages
    found = live_tensors(model)
    slots: dict[int, list[int]] = {}
    for index, same in enumerate(objects):
        slots.setdefault(same, []).append(index)
    grouped: dict[int, list[Slot]] = {}
    for first, members in slots.items():
        tensor = found[plain.tensors[first]]
        role = min(tree.roles[i] for i in members)
        compound = taken_apart(tensor)
        dtype = dtypes.of((tree.tensor_paths[i] for i in members), tensor.dtype, role)
        slot = Slot(
            tuple(tree.tensor_paths[i] for i in members),
            tuple(plain.tensors[i] for i in members),
            tensor,
            role,
            dtype if compound is None else tensor.dtype,  # packed numbers are converted by nobody
            compound,
        )
        grouped.setdefault(tree.storages[first], []).append(slot)
    return [
        Seat(tuple(members), unit.store or CPU, unit.run or CPU, owner[storage])
        for storage, members in grouped.items()
        for unit in (plan.units[owner[storage]],)
    ]


def live_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return every module of a model by every path it has, in tree order: what ``named_modules`` yields.

    That goes through a generator for each level, at every module.
    """
    found: dict[str, nn.Module] = {}
    stack = [("", model)]
    while stack:
        path, module = stack.pop()
        found[path] = module
        if children := module._modules:  # noqa: SLF001
            start = f"{path}." if path else ""
            stack += [
                (start + name, child) for name in reversed(children) if (child := children[name]) is not None
            ]
    return found


def live_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return every tensor of a model by every name it has."""
    found: dict[str, torch.Tensor] = {}
    buffers: dict[str, torch.Tensor] = {}
    for path, module in live_modules(model).items():
        start = f"{path}." if path else ""
        for tensors, own in ((found, module._parameters), (buffers, module._buffers)):  # noqa: SLF001
            tensors |= {start + name: tensor for name, tensor in own.items() if tensor is not None}
    return found | buffers


def torch_devices(
    plan: Plan,
    given: Mapping[str, torch.device] | None,
    diagnostics: Diagnostics,
    view: LocalView | None = None,
) -> dict[str, torch.device]:
    """Return the torch device behind each device the plan uses; a disk's is the host's memory.

    What is on other hosts than that of ``view`` is on the meta device here.
    """
    used = {name for unit in plan.units for name in (unit.store, unit.run) if name}
    if view is not None:
        used.add(view.home_device(plan))
    found: dict[str, torch.device] = {}
    for name in sorted(used):
        mine = view is not None and view.is_mine(name)
        local = torch_name(name) if mine else name
        if view is not None and not mine:
            found[name] = ELSEWHERE
        elif given is not None and name in given:
            found[name] = given[name]
            if (why := _absence(str(given[name]))) is not None:
                message = f"there is no `{given[name]}`, which `devices` gives for `{name}`: {why}"
                diagnostics.add(Diagnostic(ABSENT_DEVICE, message, help="give a device that is here"))
        elif "/" in local:
            message = f"`{name}` is on another machine"
            help_ = f"compile for this machine, or pass `devices={{'{name}': 'cuda:0'}}`"
            diagnostics.add(Diagnostic(OTHER_HOST, message, help=help_))
        elif device_type(name) in {CPU, DISK}:
            found[name] = torch.device("cpu")
        elif (why := _absence(local)) is not None:
            help_ = f"compile for this machine, or pass `devices={{'{name}': 'cpu'}}` to try the plan here"
            diagnostics.add(Diagnostic(ABSENT_DEVICE, f"there is no `{name}`: {why}", help=help_))
        else:
            found[name] = torch.device(local)
    return found


def _absence(name: str) -> str | None:
    """Say why torch cannot use a device; None when it can."""
    kind = device_type(name)
    if kind in {CPU, ELSEWHERE.type}:
        return None
    backend = getattr(torch, kind, None)
    available = getattr(backend, "is_available", None)
    if available is None or not available():
        return f"torch finds no {kind} device on this machine"
    count = getattr(backend, "device_count", lambda: 1)()
    index = int(name.partition(":")[2] or 0)
    return None if index < count else f"this machine has {count} {kind} devices"
