"""Tensors that came to a model after it was loaded, as adapters do: they go where their neighbours run.

What is beside or below streamed weights is streamed with them: by the site around it. A wrapper that holds it
takes the place of the site's module while it is there: it may use the weights before it calls the module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ...running.kinds import has_forward
from .site import Site
from .streamed import at_rest

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .stream import Stream


class Newcomers:
    """Notices what is new below a model, and lets its stream bring it."""

    def __init__(
        self, model: nn.Module, stream: Stream, attach: Callable[[int, torch.device, torch.device], None]
    ) -> None:
        """Call ``attach`` for every site that is made, with where it runs and where its caller does."""
        self._model, self._stream, self._attach = model, stream, attach
        self._known = {id(tensor) for _, _, _, tensor in _tensors(model)}
        self._runs = {id(one.tensor): one.device for site in stream.sites for one in site.streamed}
        self._size = _size(model)
        self._first = {id(module) for module in model.modules()}
        self._wrapped: dict[int, nn.Module] = {}
        """What was a site's module before a wrapper was, by the number of the site."""

    def adopt(self) -> None:
        """Take in what is new; costs a walk over the modules where nothing is."""
        size = _size(self._model)
        if size == self._size:
            return
        self._size = size
        streamed = [one for site in self._stream.sites for one in site.streamed]
        self._known |= {id(one.tensor) for one in streamed}  # one may have taken another's place
        self._runs |= {id(one.tensor): one.device for one in streamed}
        modules = dict(self._model.named_modules(remove_duplicate=False))
        self._unwrap({id(module) for module in modules.values()})
        for path, table, name, tensor in list(_tensors(self._model)):
            if id(tensor) not in self._known:
                self._known.add(id(tensor))
                self._take(modules, path, (table, name), tensor)

    def _take(
        self, modules: dict[str, nn.Module], path: str, home: tuple[dict[str, Any], str], tensor: torch.Tensor
    ) -> None:
        above = list(_upwards(path))
        near = next((place for place in above if self._run(modules[place]) is not None), "")
        device = self._run(modules[near])
        if device is None or tensor.device == device or tensor.is_meta:
            return
        one = at_rest(tensor, device, tensor.dtype, None, [home])
        self._runs[id(tensor)] = device
        numbers = {id(site.module): number for number, site in enumerate(self._stream.sites)}
        sites = [numbers[id(modules[place])] for place in above if id(modules[place]) in numbers]
        around = next((number for number in sites if device in self._stream.sites[number].sizes), None)
        if around is None:
            callable_ = (place for place in _upwards(near) if has_forward(modules[place]))
            holder = next(callable_, "")
            around = self._wrapper(holder, modules[holder], numbers)
            callers = (one.device for number in sites for one in self._stream.sites[number].streamed)
            self._attach(around, device, next(callers, device))
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

    def _run(self, module: nn.Module) -> torch.device | None:
        """Return where the known tensors of a module are used; None where it has none."""
        found = (tensor for _, _, _, tensor in _tensors(module))
        known = next(
            (tensor for tensor in found if id(tensor) in self._known and self._settled(tensor)), None
        )
        return None if known is None else self._runs.get(id(known), known.device)

    def _settled(self, tensor: torch.Tensor) -> bool:
        return id(tensor) in self._runs or tensor.device.type != "cpu"


def _tensors(model: nn.Module) -> Iterator[tuple[str, dict[str, Any], str, torch.Tensor]]:
    for path, module in model.named_modules():
        for table in (module._parameters, module._buffers):  # noqa: SLF001
            for name, tensor in table.items():
                if tensor is not None:
                    yield path, table, name, tensor


def _size(model: nn.Module) -> int:
    """Return the number of modules and tensors below a model."""
    total, waiting = 0, [model]
    while waiting:
        parts = waiting.pop().__dict__
        total += 1 + len(parts["_parameters"]) + len(parts["_buffers"])
        waiting += [child for child in parts["_modules"].values() if child is not None]
    return total


def _upwards(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""
