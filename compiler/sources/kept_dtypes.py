"""Dtypes that loading changes: what transformers keeps in float32 in a model of half precision."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ...ir import ModuleTree
from .live import lower_model

if TYPE_CHECKING:
    from torch import nn

_WRAPPERS: Final = 4
"""Levels searched for the model inside a wrapper."""
_MOST_WRAPPED: Final = 8
"""More modules on one level are parts of a model."""


def loaded_tree(model: nn.Module) -> ModuleTree:
    """Return the module tree as it will be when weights are loaded into what is still on the meta device.

    transformers keeps some modules of a half-precision model in float32, whatever the others become.

    Raises:
        PlanError: as `lower_model`.

    """
    tree = lower_model(model)
    kept = kept_in_float32(model, None)
    if not kept:
        return tree
    dtypes = tuple(
        "float32" if path in kept else dtype
        for path, dtype in zip(tree.tensor_paths, tree.dtypes, strict=True)
    )
    return replace(tree, dtypes=dtypes)


def kept_in_float32(model: nn.Module, dtype: Any) -> frozenset[str]:  # noqa: ANN401  # a torch.dtype, or None
    """Return the paths on the meta device that the model's class loads in float32 if the rest is of a dtype.

    None stands for the dtype the model has.
    """
    for prefix, inner in _outermost_with(model, "_get_dtype_plan"):
        plan = inner._get_dtype_plan(inner.dtype if dtype is None else dtype)  # noqa: SLF001
        patterns = [re.compile(pattern.replace("*", ".*")) for pattern in plan]
        if patterns:
            named = {**dict(inner.named_parameters(remove_duplicate=False)), **dict(inner.named_buffers())}
            widths = {2} if dtype is None else {2, 4, 8}
            waiting = (
                path
                for path, t in named.items()
                if t.is_meta and t.is_floating_point() and t.itemsize in widths
            )
            return frozenset(prefix + path for path in waiting if any(p.search(path) for p in patterns))
    return frozenset()


def _outermost_with(model: nn.Module, attribute: str) -> Iterator[tuple[str, Any]]:
    """Yield the model, or the one inside a few wrappers, if its class has an attribute."""
    level: list[tuple[str, nn.Module]] = [("", model)]
    for _ in range(_WRAPPERS):
        for prefix, module in level:
            if callable(getattr(type(module), attribute, None)):
                yield prefix, module
                return
        level = [(f"{p}{name}.", child) for p, module in level for name, child in module.named_children()]
        if len(level) > _MOST_WRAPPED:
            return
