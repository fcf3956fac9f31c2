"""Tensors that came to a model after it was loaded, as adapters do: they go where their neighbours run.

Every place of the model runs somewhere; what is there and rests on the host is streamed by the site around.
A wrapper that holds it takes the place of the site's module while it is there: it may use the weights before
it calls the module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from operator import attrgetter, is_
from typing import TYPE_CHECKING, Any

from ...running.kinds import has_forward
from ..attributes import made_by_hooks
from .refusals import refuse_foreign_hooks
from .site import Site
from .streamed import Home, Streamed, at_rest

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .stream import Stream

    _Found = tuple[str, dict[str, Any], str, torch.Tensor]
    """The path of a module, a table of it, a name in that, and the tensor there."""


class Newcomers:
    """Notices what is new below a model, and lets its stream bring it."""

    def __init__(
        self, model: nn.Module, stream: Stream, attach: Callable[[int, torch.device, torch.device], None]
    ) -> None:
        """Call ``attach`` for every site that is made, with where it runs and where its caller does."""
        self._model, self._stream, self._attach = model, stream, attach
        runs = {id(one.tensor): one.device for site in stream.sites for one in site.streamed}
        found = list(_tensors(model))
        self._runs = {
            (id(table), name): runs.get(id(tensor), tensor.device)
            for _, table, name, tensor in found
            if id(tensor) in runs or not tensor.is_meta
        }
        """Where each place of a tensor runs."""
        self._seen = set(map(_place, found))
        self._came: list[Streamed] = []
        self._first = {id(module) for module in model.modules()}
        self._wrapped: dict[int, nn.Module] = {}
        """What was a site's module before a wrapper was, by the number of the site."""
        self._look()

    def adopt(self) -> None:
        """Take in what is new; costs a look at the tables of all modules where nothing is."""
        if self._is_as_it_was():
            return
        stream = self._stream
        for number in range(len(stream.sites)):
            stream.follow(number)
        modules = dict(self._model.named_modules(remove_duplicate=False))
        self._unwrap({id(module) for module in modules.values()})
        found = list(_tensors(self._model))
        there = {(id(table), name) for _, table, name, _ in found}
        self._runs = {place: device for place, device in self._runs.items() if place in there}
        self._seen &= set(map(_place, found))
        known = {id(one.tensor): one for site in stream.sites for one in site.streamed}
        for place in found:
            if stream.rests or (id(place[1]), place[2]) not in self._runs:  # else it may be lent
                self._take(modules, place, known)
        if stream.rests:
            self._tidy()
        self._look()

    def _look(self) -> None:
        """Keep what there is now: no other object can be taken for it then."""
        modules = list(self._model.modules())
        self._tables: list[dict[str, Any]] = [
            table
            for module in modules
            for table in (module._parameters, module._buffers, module._modules)  # noqa: SLF001
        ]
        self._there = list(chain.from_iterable(map(dict.values, self._tables)))
        if self._stream.rests:  # else some are away that come back
            tensors = (tensor for module in modules for tensor in _own(module))
            self._away = [tensor for tensor in tensors if not tensor.is_cpu]

    def _is_as_it_was(self) -> bool:
        now = list(chain.from_iterable(map(dict.values, self._tables)))
        if len(now) != len(self._there):
            return False
        # While others compute, what they were lent is in the places of what it stands for.
        stays = not self._stream.rests or all(map(is_, now, self._there))
        return stays and not any(map(attrgetter("is_cpu"), self._away))

    def _take(self, modules: Mapping[str, nn.Module], found: _Found, known: dict[int, Streamed]) -> None:
        """Let a place have its tensor where it runs."""
        path, table, name, tensor = found
        seen = _place(found) in self._seen
        self._seen.add(_place(found))
        near, device = path, self._runs.get((id(table), name))
        if device is None:
            near = next((above for above in _upwards(path) if self._run(modules[above]) is not None), "")
            device = self._runs[id(table), name] = self._run(modules[near]) or tensor.device
        one = known.get(id(tensor))
        if one is None and tensor.is_meta:
            refuse_foreign_hooks(path, [modules[above] for above in _upwards(path)])
        elif one is None and tensor.device != device:
            one = known[id(tensor)] = at_rest(tensor, device, tensor.dtype, None, [(table, name)])
            self._came.append(one)
            self._bring(modules, path, near, one)
        elif one is not None and one.device == device and not seen:
            if all(home[0] is not table or home[1] != name for home in one.homes):
                one.homes = [*one.homes, (table, name)]
            self._bring(modules, path, near, one)

    def _bring(self, modules: Mapping[str, nn.Module], path: str, near: str, one: Streamed) -> None:
        """Let a site around a path bring a tensor, unless one does."""
        above = list(_upwards(path))
        numbers = {id(site.module): number for number, site in enumerate(self._stream.sites)}
        sites = [numbers[id(modules[place])] for place in above if id(modules[place]) in numbers]
        if any(one in self._stream.sites[number].streamed for number in sites):
            return
        around = next((number for number in sites if one.device in self._stream.sites[number].sizes), None)
        if around is None:
            holder = _holder(modules, path, near)
            around = numbers.get(id(modules[holder]))
            if around is None:
                around = self._wrapper(holder, modules[holder], numbers)
                callers = (one.device for number in sites for one in self._stream.sites[number].streamed)
                self._attach(around, one.device, next(callers, one.device))
        self._stream.join(around, one)

    def _wrapper(self, path: str, module: nn.Module, numbers: dict[int, int]) -> int:
        """Return the number of the one site that a new module is wrapped around, or of a new site."""
        inside = {numbers[id(part)] for part in self._inside(module) if id(part) in numbers}
        if len(inside) != 1:
            return self._stream.add(Site(path, module))
        number = inside.pop()
        site = self._stream.sites[number]
        self._wrapped.setdefault(number, site.module)
        site.module = module
        return number

    def _inside(self, module: nn.Module) -> Iterator[nn.Module]:
        """Yield what a module was wrapped around, through as many wrappers as there are."""
        for child in () if id(module) in self._first else module.children():
            yield child
            yield from self._inside(child)

    def _unwrap(self, there: set[int]) -> None:
        """Let sites whose wrapper has gone be entered with their own modules again."""
        for number in list(self._wrapped):
            site = self._stream.sites[number]
            if id(site.module) not in there and site.streamed:
                site.module = self._wrapped.pop(number)
                self._attach(number, site.streamed[0].device, site.streamed[0].device)

    def _tidy(self) -> None:
        """Forget places that tensors have left, and what came and went; note what hooks make of the rest."""
        gone = [one for one in self._came if not _places_now(one)]
        self._came = [one for one in self._came if one not in gone]
        for number, site in enumerate(self._stream.sites):
            if any(one in gone for one in site.streamed):
                site.streamed = [one for one in site.streamed if one not in gone]
                self._stream.supply.note(number)
            for one in site.streamed:
                one.homes = _places_now(one) or one.homes
            site.made = list(made_by_hooks(site.module))

    def _run(self, module: nn.Module) -> torch.device | None:
        """Return where a place below a module runs that is known; None where there is none."""
        places = ((id(table), name) for _, table, name, _ in _tensors(module))
        return next((self._runs[place] for place in places if place in self._runs), None)


def _places_now(one: Streamed) -> list[Home]:
    return [home for home in one.homes if home[0].get(home[1]) is one.tensor]


def _holder(modules: Mapping[str, nn.Module], path: str, near: str) -> str:
    """Return the module that has a new tensor below it and is called: the neighbours' own if it is.

    Of what is new in a list of modules it is the new one; neighbours may use what is below them without
    calling it.
    """
    if not has_forward(modules[near]) and near != path:
        new = path[: path.find(".", len(near) + 1)] if "." in path[len(near) + 1 :] else path
        if has_forward(modules[new]):
            return new
    return next((place for place in _upwards(near) if has_forward(modules[place])), "")


def _place(found: _Found) -> tuple[str, int, str, int]:
    path, table, name, tensor = found
    return path, id(table), name, id(tensor)


def _tensors(model: nn.Module) -> Iterator[_Found]:
    """Yield the tensors of a model with their places, by every path of their modules."""
    for path, module in model.named_modules(remove_duplicate=False):
        for table in (module._parameters, module._buffers):  # noqa: SLF001
            for name, tensor in table.items():
                if tensor is not None:
                    yield path, table, name, tensor


def _own(module: nn.Module) -> Iterator[torch.Tensor]:
    tables = (module._parameters, module._buffers)  # noqa: SLF001
    return (tensor for table in tables for tensor in table.values() if tensor is not None)


def _upwards(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""
