"""The names a GGUF file has for the tensors of a part: its own, or derived by the ``gguf`` package.

The package's table from names of transformers to names of GGUF is made per architecture; a name is
taken only if all architectures that know it agree. Experts stored one by one are one tensor there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from ...ir import Plan
from .stack import Apart, Stack

_ONE_EXPERT = re.compile(r"(\.experts)\.\d+(?=\.)")
Lookup = Callable[[str], str | None]


def gguf_names(plan: Plan, stack: Stack, parts: Sequence[Apart]) -> list[list[str]] | None:
    """Return the GGUF tensors of each part; None where one of them cannot be derived."""
    assert plan.tree is not None  # noqa: S101  a stack has a tree
    tensors = [[plan.tree.tensor_paths[t] for t in plan.tree.covered(part.path)] for part in parts]
    if stack.path == "blk":
        return tensors
    lookup = _lookup(len(stack.layers))
    if lookup is None:
        return None
    found = [[lookup(_ONE_EXPERT.sub(r"\1", name)) for name in names] for names in tensors]
    whole = [[name for name in dict.fromkeys(names) if name is not None] for names in found]
    return None if any(None in names for names in found) else whole


@lru_cache(maxsize=4)
def _lookup(layers: int) -> Lookup | None:
    try:
        import gguf
    except ImportError:
        return None
    tables = [gguf.get_tensor_name_map(arch, layers) for arch in gguf.MODEL_ARCH]

    @lru_cache(maxsize=100_000)
    def look_up(name: str) -> str | None:
        made = {table.get_name(name, try_suffixes=(".weight", ".bias")) for table in tables} - {None}
        return str(made.pop()) if len(made) == 1 else None

    return look_up
