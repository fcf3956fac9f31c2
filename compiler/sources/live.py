"""Lower a live module into the flat module tree, in one walk and without reading a weight.

Modules are visited in the order torch itself visits them; a module that is registered under two
names appears at both, and what its tensors share is found by storage, not by name. torch is never
imported here: whoever has a module has torch.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from ...ir import Diagnostic, ModuleTree, PlanError, Role, group_storages
from ...ir.rules.placement import CYCLIC_MODULE, LAZY_PARAMETER, MODEL_NOT_TIED, OVERSIZED_MODEL
from ...ir.rules.sources import NOT_A_MODEL
from .storages import PLAIN, Tensor, elements_nbytes, is_lazy, packed_parts, storage_key, storage_nbytes

if TYPE_CHECKING:
    from torch import nn

    Visit: TypeAlias = tuple[str, nn.Module, int]

MAX_MODULES: Final = 8_000_000
"""More than any model has; modules that share modules that share modules grow without bound."""
_WRAPPERS: Final = 4
"""Levels searched for the model inside a wrapper (PEFT, DDP, one of your own)."""


def lower_model(model: nn.Module) -> ModuleTree:
    """Return the module tree of a live module; ``nbytes`` is set only where shapes do not tell it.

    Raises:
        PlanError: a parameter has no shape yet, torch keeps weights elsewhere, or a module contains itself.

    """
    with paused_collection():
        walk = _Walk()
        walk.visit(model)
        _refuse_sharded(model, {*walk.classes, *map(type, walk.tensors)})
        return walk.tree()


def checked_module(given: object) -> nn.Module:
    """Return what was given if it is a module.

    Raises:
        PlanError: it is none, or one that has no modules any more.

    """
    if "torch" in sys.modules:
        from torch import jit, nn

        if isinstance(given, nn.Module) and not isinstance(given, jit.ScriptModule):
            return given
    name = given.__name__ if isinstance(given, type) else type(given).__name__
    if isinstance(given, type):
        message, help_ = f"`{name}` is a class, not a module", "build it: `with torch.device('meta'): ...`"
    elif name in _EXPORTED:
        message, help_ = f"a `{name}` has no modules any more", "give the module it was made from"
    else:
        message, help_ = f"a `{name}` is not a torch module", "give a module, a path or a plan"
    raise PlanError([Diagnostic(NOT_A_MODEL, message, help=help_)])


_EXPORTED: Final = frozenset(
    {
        "ExportedProgram", "ScriptModule", "RecursiveScriptModule", "TopLevelTracedModule", "TracedModule",
        "ScriptFunction",
    }
)  # fmt: skip


_SHARDED: Final = frozenset({"DTensor", "FullyShardedDataParallel"})


def _refuse_sharded(model: nn.Module, kinds: Iterable[type]) -> None:
    """Refuse weights that are spread over a mesh of processes: each process has only its part."""
    if not any(base.__name__ in _SHARDED for kind in kinds for base in kind.__mro__):
        return
    for path, tensor in (*model.named_parameters(), *model.named_buffers()):
        if any(kind.__name__ == "DTensor" for kind in type(tensor).__mro__):
            message = f"`{path}` is sharded over several processes, as fully_shard and DTensor do it"
            help_ = "plan and load the model before it is sharded"
            raise PlanError([Diagnostic(NOT_A_MODEL, message, help=help_)])
    for module in model.modules():
        if any(kind.__name__ == "FullyShardedDataParallel" for kind in type(module).__mro__):
            message = f"`{type(module).__name__}` keeps its weights in flat shards"
            raise PlanError([Diagnostic(NOT_A_MODEL, message, help="plan the module it wraps")])


def no_split_classes(model: nn.Module) -> tuple[str, ...]:
    """Return the classes a model says are never split, in alphabetical order.

    transformers keeps them as a set, older models as a list, some people as one name; a wrapper has what
    it wraps. Anything else, such as a method of that name, says nothing; an empty list says that no class
    is whole, whatever a model inside says of itself.
    """
    level: list[Any] = [model]
    for _ in range(_WRAPPERS):
        said = [own for module in level if (own := _declared(module)) is not None]
        if said:
            return tuple(sorted({name for own in said for name in own}))
        level = [child for module in level for child in module.children()]
    return ()


def declared_classes(model: nn.Module) -> frozenset[str]:
    """Return every class that the model, or any model inside it, declares as never split.

    transformers lists classes that a variant of a model does not have: such a name is no mistake.
    """
    return frozenset(name for module in model.modules() for name in _declared(module) or ())


def _declared(module: nn.Module) -> list[str] | None:
    own = getattr(module, "_no_split_modules", None)
    if isinstance(own, str):
        return [own]
    return _strings(own) if isinstance(own, set | frozenset | list | tuple) else None


def _strings(values: Iterable[object]) -> list[str]:
    return [name for name in values if isinstance(name, str)]


def untied(model: nn.Module, tree: ModuleTree) -> Diagnostic | None:
    """Return the warning for a model whose config asks for tied weights that it does not share yet."""
    config, model_ = getattr(model, "config", None), cast("Any", model)
    shares = tree.storages != tuple(range(len(tree.storages)))
    if config is None or shares or not hasattr(model, "get_output_embeddings"):
        return None
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    if not getattr(text, "tie_word_embeddings", False) or model_.get_output_embeddings() is None:
        return None
    return Diagnostic(
        MODEL_NOT_TIED,
        "the config of the model asks for tied weights, but no two parameters are the same tensor",
        help="call `model.tie_weights()` before planning",
    )


@contextmanager
def paused_collection() -> Iterator[None]:
    """Keep the cyclic collector from scanning a large model again and again while it is walked or made.

    None of the tens of thousands of objects is garbage, and looking for it takes as long as all else.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


class _Walk:
    """The columns of the tree while they grow."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.idents: list[int] = []
        self.classes: list[type] = []
        self.parents: list[int] = []
        self.first_tensors: list[int] = []
        self.tensor_names: list[str] = []
        self.tensors: list[Tensor] = []
        self.roles: list[Role] = []

    def visit(self, root: nn.Module) -> None:
        """Walk the modules in pre-order with a stack of our own: depth is not limited."""
        names, classes, parents, firsts = self.names, self.classes, self.parents, self.first_tensors
        tensor_names, tensors, roles = self.tensor_names, self.tensors, self.roles
        seen: set[int] = set()
        stack: list[Visit] = [("", root, -1)]
        while stack:
            name, module, parent = stack.pop()
            index = len(names)
            names.append(name)
            classes.append(module.__class__)
            parents.append(parent)
            firsts.append(len(tensors))
            self.idents.append(ident := id(module))
            if ident in seen:
                self._refuse_endless(index)
            seen.add(ident)
            if parameters := module._parameters:  # noqa: SLF001  # the public iterators cost ten times as much
                for key, tensor in parameters.items():
                    if tensor is not None:
                        tensor_names.append(key)
                        tensors.append(tensor)
                        roles.append(Role.PARAMETER)
            if module._buffers:  # noqa: SLF001
                self._add_buffers(module)
            if children := module._modules:  # noqa: SLF001
                for key in reversed(children):
                    if (child := children[key]) is not None:
                        stack.append((key, child, index))  # noqa: PERF401  # half the time of a list built first
        firsts.append(len(tensors))

    def _add_buffers(self, module: nn.Module) -> None:
        transient = module._non_persistent_buffers_set  # noqa: SLF001
        for name, tensor in module._buffers.items():  # noqa: SLF001
            if tensor is not None:
                self.tensor_names.append(name)
                self.tensors.append(tensor)
                self.roles.append(Role.TRANSIENT if name in transient else Role.BUFFER)

    def _refuse_endless(self, index: int) -> None:
        if index > MAX_MODULES:
            message = f"the model has more than {MAX_MODULES:,} modules, counting shared ones at every name"
            raise PlanError([Diagnostic(OVERSIZED_MODEL, message, help="share modules at one level only")])
        ancestor = self.parents[index]
        while ancestor >= 0:
            if self.idents[ancestor] == self.idents[index]:
                inner, outer = self.path(index), self.path(ancestor) or "the root"
                message = f"`{inner}` is the same module as `{outer}`, which contains it"
                raise PlanError([Diagnostic(CYCLIC_MODULE, message, help=f"do not register `{inner}`")])
            ancestor = self.parents[ancestor]

    def path(self, module: int) -> str:
        """Return the dotted path of one module."""
        parts = []
        while module > 0:
            parts.append(self.names[module])
            module = self.parents[module]
        return ".".join(reversed(parts))

    def tensor_path(self, tensor: int) -> str:
        """Return the dotted path of one tensor."""
        owner = next(i for i in range(len(self.names)) if self.first_tensors[i + 1] > tensor)
        return ".".join(filter(None, (self.path(owner), self.tensor_names[tensor])))

    def tree(self) -> ModuleTree:
        """Freeze the columns and find out what shares storage."""
        shapes = self._shapes()
        objects = group_storages([id(tensor) for tensor in self.tensors])
        storages = group_storages(self._storage_keys())
        kinds = [tensor.dtype for tensor in self.tensors]
        dtypes = {kind: str(kind).removeprefix("torch.") for kind in set(kinds)}
        called = {kind: kind.__name__ for kind in set(self.classes)}
        return ModuleTree(
            names=tuple(self.names),
            classes=tuple([called[kind] for kind in self.classes]),
            parents=tuple(self.parents),
            ends=self._ends(),
            first_tensors=tuple(self.first_tensors),
            tensor_names=tuple(self.tensor_names),
            shapes=shapes,
            dtypes=tuple([dtypes[kind] for kind in kinds]),
            roles=tuple(self.roles),
            storages=storages,
            nbytes=self._exact_bytes(objects, storages),
            objects=None if objects == storages else objects,
            twins=group_storages(self.idents) if len(set(self.idents)) < len(self.idents) else None,
        )

    def _ends(self) -> tuple[int, ...]:
        parents = self.parents
        ends = list(range(1, len(parents) + 1))
        for module in range(len(ends) - 1, 0, -1):
            parent = parents[module]
            if ends[parent] < ends[module]:  # noqa: PLR1730  # twice as fast as max, once a module
                ends[parent] = ends[module]
        return tuple(ends)

    def _shapes(self) -> tuple[tuple[int, ...], ...]:
        try:
            shapes = [tensor.shape for tensor in self.tensors]
        except RuntimeError:
            raise PlanError([self._lazy(i) for i, t in enumerate(self.tensors) if is_lazy(t)]) from None
        plain = {shape: tuple(map(int, shape)) for shape in set(shapes)}
        return tuple([plain[shape] for shape in shapes])

    def _storage_keys(self) -> list[int]:
        try:  # the whole column at once: a call per tensor would double its cost
            return [tensor.untyped_storage()._cdata for tensor in self.tensors]  # noqa: SLF001
        except (NotImplementedError, RuntimeError, ValueError):
            return list(map(storage_key, self.tensors))

    def _lazy(self, index: int) -> Diagnostic:
        message = f"`{self.tensor_path(index)}` has no shape yet: its lazy module has not been called"
        return Diagnostic(LAZY_PARAMETER, message, help="call the model once before it is planned")

    def _exact_bytes(self, objects: tuple[int, ...], storages: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return bytes where shape and dtype do not tell them: packed tensors and views of a storage."""
        packed = any(kind.__name__ not in PLAIN for kind in set(map(type, self.tensors)))
        if objects == storages and not (packed and any(map(packed_parts, self.tensors))):
            return None
        sizes = [elements_nbytes(tensor) for tensor in self.tensors]
        costs = [0] * len(sizes)
        for index, (same, storage) in enumerate(zip(objects, storages, strict=True)):
            if same == index:
                costs[storage] += sizes[index]
        for storage in {s for o, s in zip(objects, storages, strict=True) if o != s}:
            costs[storage] = min(costs[storage], storage_nbytes(self.tensors[storage], costs[storage]))
        return tuple(costs)
