"""Who computes which unit: its arguments are brought to its host, on the others it is passed by.

Every host runs the model's own forward. Between units what some host computed is `Held`; inside a unit
its host has plain tensors, and on the others everything is on the meta device. A unit visited from the
unit of another host gets its arguments from there and hands its results back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ....ir import ModuleTree, Plan
from ...running.kinds import has_forward
from ...running.nesting import map_tensors, to_meta
from ..moves import entries
from .ends import Ends, With
from .held import Held, Road
from .local_view import LocalView
from .remembered import Remembered, Replaced, shape_of_experts

if TYPE_CHECKING:
    import torch
    from torch import nn

Args: TypeAlias = tuple[Any, ...]
Kwargs: TypeAlias = dict[str, Any]


class Removable(Protocol):
    """Something put on a model that can be taken off again."""

    def remove(self) -> None:
        """Take it off."""
        ...


@dataclass(slots=True)
class Frames:
    """The hosts of the units that are running, the innermost last."""

    running: list[int] = field(default_factory=list[int])

    @property
    def inner(self) -> int | None:
        """The host of the unit that is running; None between units."""
        return self.running[-1] if self.running else None


@dataclass(frozen=True, slots=True)
class _Passing:
    """The hooks of one unit."""

    owner: int
    device: torch.device
    """Where its arguments are put, on its host."""
    road: Road
    frames: Frames

    def enter(self, _module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        """Bring the arguments to the host of the unit; on the others none has values."""
        outer = self.frames.inner
        self.frames.running.append(self.owner)
        if outer is None:
            return map_tensors(args, self._argument), map_tensors(kwargs, self._argument)
        if outer == self.owner:
            return args, kwargs
        given: tuple[Args, Kwargs] = map_tensors((args, kwargs), lambda tensor: self._across(tensor, outer))
        return given if self.road.me == self.owner else to_meta(given)

    def _argument(self, tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, Held):
            tensor.bring(self.owner)
            tensor = tensor.plain
        return tensor if self.road.me == self.owner or tensor.is_meta else tensor.to("meta")

    def _across(self, tensor: torch.Tensor, outer: int) -> torch.Tensor:
        return self.road.carry(tensor, outer, self.owner, self.device)

    def leave(self, _module: nn.Module, _args: Args, output: Any) -> Any:  # noqa: ANN401
        """Let results be known between units, or bring them to the host of the unit around."""
        self.frames.running.pop()
        outer = self.frames.inner
        if outer is None:
            held = frozenset({self.owner})
            return map_tensors(output, lambda tensor: Held.of(tensor, held, self.owner, self.road))
        if outer == self.owner:
            return output
        back = map_tensors(output, lambda tensor: self.road.carry(tensor, self.owner, outer))
        return back if self.road.me == outer else to_meta(back)


def attach_passing(
    plan: Plan,
    tree: ModuleTree,
    live: Sequence[nn.Module],
    devices: Mapping[str, torch.device],
    view: LocalView,
    road: Road,
) -> list[Removable]:
    """Let every unit be computed on its host and passed by on this one, if it is another's.

    Args:
        plan: the bound plan.
        tree: the model's tree without wrappers.
        live: the module behind each module of the tree.
        devices: the torch device behind each device of the plan; those of other hosts are on meta.
        view: which host this is.
        road: how tensors get from host to host.

    """
    frames = Frames()
    found = dict(entries(plan, tree, live))
    made = _made_here(plan, tree, view)
    owners = {module: view.number_of(run) for module, run in found.items() if module not in made}
    handles: list[Removable] = []
    for module, owner in owners.items():
        device = devices[found[module]] if owner == road.me else road.device
        passing = _Passing(owner, device, road, frames)
        enter = live[module].register_forward_pre_hook(passing.enter, with_kwargs=True, prepend=True)
        handles += [enter, live[module].register_forward_hook(passing.leave, prepend=True)]
    handles += _passed_by(tree, live, owners, view.me)
    handles += _bare(plan, tree, live, view, road)
    ends = Ends(road, frames.running)
    for module in _between(tree, live, owners):
        enter = live[module].register_forward_pre_hook(ends.enter, with_kwargs=True, prepend=True)
        leave = live[module].register_forward_hook(ends.leave, always_call=True)
        handles += [enter, leave, Replaced(live[module], ends.around(live[module].forward))]
    handles.append(With(live[0], ends, road))
    return handles


def _passed_by(
    tree: ModuleTree, live: Sequence[nn.Module], owners: Mapping[int, int], me: int
) -> Iterator[Replaced]:
    """Replace the forward of what is computed on other hosts, once for each outermost unit."""
    for module, owner in owners.items():
        if owner == me:
            continue
        inside = {owners[part] for part in range(module + 1, tree.ends[module]) if part in owners}
        if inside <= {owner}:
            yield Replaced(live[module], Remembered(live[module].forward))
        for part in range(module, tree.ends[module]):
            shaped = shape_of_experts(live[part]) if owners.get(part, owner) == owner else None
            if shaped is not None and part not in owners:
                yield Replaced(live[part], shaped)


class _Bare:
    """A tensor that a module around units has itself: its operations belong to its host."""

    def __init__(self, table: dict[str, Any], name: str, owner: int, road: Road) -> None:
        self._table, self._name, self._before = table, name, table[name]
        table[name] = Held.of(self._before, frozenset({owner}), owner, road)

    def remove(self) -> None:
        """Let it be an ordinary one again."""
        self._table[self._name] = self._before


def _bare(
    plan: Plan, tree: ModuleTree, live: Sequence[nn.Module], view: LocalView, road: Road
) -> Iterator[_Bare]:
    modules = [tree.module_index[unit.path] for unit in plan.units if unit.path in tree.module_index]
    inside = {part for module in modules for part in range(module, tree.ends[module])}
    made = view.made(plan, tree)
    for unit in plan.units:
        index = tree.tensor_index.get(unit.path)
        if index is None or unit.path in made or unit.run is None or tree.owners[index] in inside:
            continue
        owner, name = live[tree.owners[index]], tree.tensor_names[index]
        tables: tuple[dict[str, Any], dict[str, Any]] = (owner._parameters, owner._buffers)  # noqa: SLF001
        for table in tables:
            if table.get(name) is not None:
                yield _Bare(table, name, view.number_of(unit.run), road)


def _made_here(plan: Plan, tree: ModuleTree, view: LocalView) -> frozenset[int]:
    """Return the modules that every host makes and computes for itself."""
    return frozenset(tree.module_index[path] for path in view.made(plan, tree) if path in tree.module_index)


def _between(tree: ModuleTree, live: Sequence[nn.Module], owners: Mapping[int, int]) -> Iterator[int]:
    """Yield the modules around units that can be called by themselves, the root first."""
    yield 0
    inside = {part for module in owners for part in range(module, tree.ends[module])}
    around = {parent for module in owners for parent in _above(tree, module)}
    yield from (m for m in sorted(around - inside - {0}) if has_forward(live[m]))


def _above(tree: ModuleTree, module: int) -> Iterator[int]:
    while (module := tree.parents[module]) >= 0:
        yield module
