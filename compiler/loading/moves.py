"""Where the arguments of a placed module go: to the device it runs on, and results back at the end.

The same rules as the replay of a traced forward: arguments move on entering a unit, results stay where
they are made or, if the unit is visited, go back to where the unit around it runs, and the model's own
inputs start where its first unit runs. A container has no call of its own, so the modules directly in it
are its entries.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from ...ir import ModuleTree, Plan
from ..running.homes import callers_of
from ..running.kinds import STACKS, has_forward

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

Args: TypeAlias = tuple[Any, ...]
Kwargs: TypeAlias = dict[str, Any]


def attach_moves(
    plan: Plan,
    tree: ModuleTree,
    live: Sequence[nn.Module],
    devices: Mapping[str, torch.device],
    start: torch.device | None = None,
) -> list[RemovableHandle]:
    """Make every unit take its arguments where it runs, and the model hand its output back.

    Args:
        plan: the bound plan.
        tree: the model's tree without wrappers.
        live: the module behind each module of the tree.
        devices: the torch device behind each device of the plan.
        start: where the model's inputs go; None: where its first unit runs.

    """
    ends = _Ends(devices[start_device(plan, tree)] if start is None else start)
    back = {module: devices[home] for module, home in returns(plan, tree, live)}
    handles: list[RemovableHandle] = []
    for module, run in entries(plan, tree, live):
        visit = _Visit(devices[run], back[module]) if module in back else None
        enter = visit.enter if visit is not None else _ToDevice(devices[run])
        handles.append(live[module].register_forward_pre_hook(enter, with_kwargs=True, prepend=True))
        if visit is not None:
            handles.append(live[module].register_forward_hook(visit.leave, always_call=True))
    handles.append(live[0].register_forward_pre_hook(ends.enter, with_kwargs=True, prepend=True))
    handles.append(live[0].register_forward_hook(ends.leave))
    return handles


def arrives(module: nn.Module, device: torch.device, home: torch.device) -> list[RemovableHandle]:
    """Let one module take its arguments where it runs, and hand its results back to where its caller does."""
    if home == device:
        return [module.register_forward_pre_hook(_ToDevice(device), with_kwargs=True, prepend=True)]
    visit = _Visit(device, home)
    return [
        module.register_forward_pre_hook(visit.enter, with_kwargs=True, prepend=True),
        module.register_forward_hook(visit.leave, always_call=True),
    ]


def entries(plan: Plan, tree: ModuleTree, live: Sequence[nn.Module]) -> Iterator[tuple[int, str]]:
    """Yield the modules whose call moves its arguments, with the device they go to; each module once."""
    return ((entry, str(plan.units[unit].run)) for entry, unit in _entries(plan, tree, live))


def returns(plan: Plan, tree: ModuleTree, live: Sequence[nn.Module]) -> Iterator[tuple[int, str]]:
    """Yield the visited modules whose results go elsewhere than they are made, with the device they go to."""
    homes = callers_of(tree, plan.units, lambda module: has_forward(live[module]))
    for entry, unit in _entries(plan, tree, live) if homes else ():
        home = plan.units[homes[unit]].run if unit in homes else None
        if home is not None and home != plan.units[unit].run:
            yield entry, home


def _entries(plan: Plan, tree: ModuleTree, live: Sequence[nn.Module]) -> Iterator[tuple[int, int]]:
    seen: set[int] = set()
    for number, unit in enumerate(plan.units):
        module = tree.module_index.get(unit.path)
        if module is None or unit.run is None:
            continue
        for entry in _called(module, tree, live):
            if id(live[entry]) not in seen:
                seen.add(id(live[entry]))
                yield entry, number


def _called(module: int, tree: ModuleTree, live: Sequence[nn.Module]) -> Iterator[int]:
    """Yield a module, or those directly in it where it is not what is called."""
    if has_forward(live[module]):
        yield module
    if isinstance(live[module], STACKS) or not has_forward(live[module]):
        for child in tree.children(module):
            yield from _called(child, tree, live)


def start_device(plan: Plan, tree: ModuleTree) -> str:
    """Return where the model's own inputs start: where the first unit that is a module with tensors runs."""
    units = [unit for unit in plan.units if unit.run is not None and tree.covered(unit.path)]
    modules = (unit for unit in units if unit.path in tree.module_index)
    first = next(modules, units[0])
    return str(first.run)


@dataclass(frozen=True, slots=True)
class _ToDevice:
    device: torch.device

    def __call__(self, _module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        return moved(args, self.device), moved(kwargs, self.device)


class _Visit:
    """The arguments of a visited part go to its device, its results back to its caller's.

    A call that finds everything where it runs comes from there: from a sequence that is visited as a whole.
    """

    def __init__(self, device: torch.device, home: torch.device) -> None:
        self._device, self._home = device, home
        self._running = threading.local()

    def __reduce__(self) -> tuple[type[_Visit], tuple[torch.device, torch.device]]:
        return type(self), (self._device, self._home)

    def enter(self, _module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        given = list(every_tensor((args, kwargs)))
        calls = self._running.__dict__.setdefault("calls", [])
        calls.append(not given or any(tensor.device != self._device for tensor in given))
        return moved(args, self._device), moved(kwargs, self._device)

    def leave(self, _module: nn.Module, _args: Args, output: object) -> object:
        return moved(output, self._home) if self._running.calls.pop() else output


class _Ends:
    """The model's own inputs go to its start, its output back to where the first input came from."""

    def __init__(self, start: torch.device) -> None:
        self._start = start
        self._caller = threading.local()

    def __reduce__(self) -> tuple[type[_Ends], tuple[torch.device]]:
        return type(self), (self._start,)

    def enter(self, _module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        first = next(every_tensor((args, kwargs)), None)
        self._caller.device = None if first is None else first.device
        return moved(args, self._start), moved(kwargs, self._start)

    def leave(self, _module: nn.Module, _args: Args, output: object) -> object:
        device = self._caller.device
        return output if device is None else moved(output, device)


def every_tensor(value: object) -> Iterator[torch.Tensor]:
    """Yield the tensors in a value: those of mappings, lists and tuples, however deep."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from every_tensor(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from every_tensor(item)


def moved(value: Any, device: torch.device) -> Any:  # noqa: ANN401  # arguments of any forward
    """Return a value with every tensor in it on the device; what holds none elsewhere is returned as it is.

    Nothing of the caller's is changed: what has to change is copied.
    """
    match value:
        case torch.Tensor():
            return value if value.device == device or value.is_meta else value.to(device)
        case list() | tuple():
            items = [moved(item, device) for item in value]
            if all(new is old for new, old in zip(items, value, strict=True)):
                return value
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        case dict():
            changed = {key: moved(item, device) for key, item in value.items()}
            return _replaced(value, {k: v for k, v in changed.items() if v is not value[k]})
        case _:
            return _object_moved(value, device)


def _object_moved(value: Any, device: torch.device) -> Any:  # noqa: ANN401
    move = getattr(value, "to", None)
    if move is not None and isinstance(value, MutableMapping):
        return move(device)  # calls share it, so it has to stay the same object
    if is_dataclass(value) and not isinstance(value, type):
        return _dataclass_moved(value, device)
    return value


def _replaced(value: dict[Any, Any], changed: dict[Any, Any]) -> dict[Any, Any]:
    if not changed:
        return value
    result = copy.copy(value)
    for key, item in changed.items():
        result[key] = item
    return result


def _dataclass_moved(value: Any, device: torch.device) -> Any:  # noqa: ANN401
    before = {field.name: getattr(value, field.name, None) for field in fields(value)}
    changed = {name: moved(item, device) for name, item in before.items()}
    if all(changed[name] is before[name] for name in before):
        return value
    result = copy.copy(value)
    for name, item in changed.items():
        object.__setattr__(result, name, item)  # frozen ones too
    return result
