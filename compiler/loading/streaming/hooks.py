"""The hooks of a streamed model: its modules enter and leave the stream, the model begins and ends it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...running.kinds import has_forward
from ..attributes import made_by_hooks
from .adoption import Newcomers
from .backwards import keep_from_training
from .choosers import Args, Kwargs
from .rows import RowSite
from .stream import Stream

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    Arrives = Callable[[nn.Module, torch.device, torch.device], list[RemovableHandle]]


def attach_stream(model: nn.Module, stream: Stream, aside: Sequence[int] = ()) -> list[RemovableHandle]:
    """Let every module that is a site enter and leave the stream, those ``aside`` excepted."""
    handles: list[RemovableHandle] = []
    seen: set[int] = set()
    for number, site in enumerate(stream.sites):
        site.made = list(made_by_hooks(site.module))
        if number not in aside and id(site.module) not in seen:
            seen.add(id(site.module))
            handles += attach_site(stream, number)
    return [  # before the model's own hooks, which may use weights, and before the sites'
        *handles,
        model.register_forward_pre_hook(_Begin(Untraced(stream.begin)), prepend=True),
        model.register_forward_hook(_End(Untraced(stream.end)), always_call=True),
    ]


def adopt_newcomers(model: nn.Module, stream: Stream, arrives: Arrives) -> list[RemovableHandle]:
    """Let a stream bring what comes to the model later; its handles are added to the list that is returned.

    ``arrives`` lets a module take its arguments where it runs, and hand its results back. Some wrappers
    call the model's forward past its hooks, so its children look for newcomers too.
    """
    handles: list[RemovableHandle] = []

    def attach(number: int, device: torch.device, home: torch.device) -> None:
        handles.extend(attach_site(stream, number))
        if stream.sites[number].module is model:
            _stay_around(model)
            stream.late = number
        else:
            handles.extend(arrives(stream.sites[number].module, device, home))

    stream.newcomers = Newcomers(model, stream, attach).adopt
    look = _Look(Untraced(stream.look))
    handles += [
        child.register_forward_pre_hook(look, prepend=True)
        for child in model.children()
        if has_forward(child)
    ]
    return handles


def _stay_around(model: nn.Module) -> None:
    """Let a pass begin before the model itself is entered, and end when it has been left."""
    before: Any = model._forward_pre_hooks  # noqa: SLF001  # ordered, as torch makes them
    after: Any = model._forward_hooks  # noqa: SLF001
    for table, kind, last in ((before, _Begin, False), (after, _End, True)):
        table.move_to_end(next(key for key, hook in table.items() if isinstance(hook, kind)), last=last)


@dataclass(frozen=True, slots=True)
class _Look:
    look: Untraced

    def __call__(self, _module: nn.Module, _args: Args) -> None:
        self.look()

    def __deepcopy__(self, _memo: object) -> Callable[..., None]:
        """Leave nothing to a copy, as PEFT makes of heads: it is no part of the model yet."""
        return _nothing


def _nothing(_module: nn.Module, _args: Args) -> None:
    pass


def attach_site(stream: Stream, number: int) -> list[RemovableHandle]:
    """Let one module enter and leave the stream, by these hooks alone."""
    site = stream.sites[number]
    for handle in site.entries:
        handle.remove()
    keep = Untraced(partial(keep_from_training, site))
    site.entries = [
        site.module.register_forward_pre_hook(_Enter(Untraced(stream.enter), number), prepend=True),
        site.module.register_forward_hook(_Leave(Untraced(stream.leave), number, keep), always_call=True),
    ]
    return site.entries


class Untraced:
    """A step of the stream; where `torch.compile` is in use, it does not look inside."""

    __slots__ = ("_step",)

    def __init__(self, step: Callable[..., Any]) -> None:
        self._step = step

    def __call__(self, *args: Any) -> Any:  # noqa: ANN401  # what the step takes and returns
        """Run it."""
        return _hidden(self._step, *args) if "torch._dynamo" in sys.modules else self._step(*args)


@torch._disable_dynamo  # type: ignore[attr-defined]  # noqa: SLF001  # imports it when it is called
def _hidden(step: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401
    return step(*args)


def attach_rows(rows: RowSite) -> list[RemovableHandle]:
    """Let a module have the rows that each call chooses."""
    module = rows.site.module
    leave = _LeaveRows(Untraced(rows.leave), Untraced(partial(keep_from_training, rows.site)))
    rows.site.entries = [
        module.register_forward_pre_hook(_EnterRows(Untraced(rows.enter)), prepend=True, with_kwargs=True),
        module.register_forward_hook(leave, always_call=True),
    ]
    return rows.site.entries


@dataclass(frozen=True, slots=True)
class _EnterRows:
    enter: Untraced

    def __call__(self, _module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        entered: tuple[Args, Kwargs] = self.enter(args, kwargs)
        return entered


@dataclass(frozen=True, slots=True)
class _LeaveRows:
    leave: Untraced
    keep: Untraced

    def __call__(self, _module: nn.Module, _args: Args, output: object) -> object:
        output = self.leave(output)
        self.keep(output)
        return output


@dataclass(frozen=True, slots=True)
class _Begin:
    begin: Untraced

    def __call__(self, module: nn.Module, _args: Args) -> None:
        self.begin(module)


@dataclass(frozen=True, slots=True)
class _End:
    end: Untraced

    def __call__(self, _module: nn.Module, _args: Args, _output: object) -> None:
        self.end()


@dataclass(frozen=True, slots=True)
class _Enter:
    enter: Untraced
    number: int

    def __call__(self, _module: nn.Module, _args: Args) -> None:
        self.enter(self.number)


@dataclass(frozen=True, slots=True)
class _Leave:
    leave: Untraced
    number: int
    keep: Untraced

    def __call__(self, _module: nn.Module, _args: Args, output: object) -> None:
        self.leave(self.number)
        self.keep(output)
