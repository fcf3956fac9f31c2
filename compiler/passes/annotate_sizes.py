"""Give every parameter and buffer its bytes, in the dtype it will be loaded in.

Integers and bools keep their dtype, everything else shrinks to the wanted one if that is smaller;
special dtypes are taken as they are. Exact sizes that a checkpoint brought are kept. A wish for ``int4`` or
its kin is what quantisers do: matrices shrink and get scales, tables, heads and norms are of two bytes.

Before:
    plan 1
    model "m"
    module a : Linear
    parameter a.weight : float32[16,32]
    buffer a.steps : int64[8]

After:
    plan 1
    model "m"
    module a : Linear
    parameter a.weight : float32[16,32] 2KiB
    buffer a.steps : int64[8] 64B
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches
from math import prod
from typing import ClassVar, Final, TypeAlias

from ...ir import Diagnostic, Diagnostics, ModuleTree, Plan
from ...ir.dtypes import (
    counted_eighths,
    is_converted,
    is_packed,
    packed_bytes,
    parse_dtype,
    stored_eighths,
    wanted_eighths,
)
from ...ir.rules.placement import UNKNOWN_DTYPE, UNKNOWN_TENSOR
from ..sources.config_activations import HEADS
from ..sources.config_work import TABLE
from .pipeline import Fact

_Kind: TypeAlias = tuple[tuple[int, ...], str]
_Sizes: TypeAlias = tuple[int, int]
"""Bytes as stored, eighths of a byte as accelerate counts them."""
_UNKNOWN: Final = (-1, -1)
_HALF: Final = 16
"""Eighths of a byte that what is not quantised has at most, as models compute."""
_NARROW: Final = 8
"""Weights of convolutions and routers narrower than that are left as they are."""


@dataclass(frozen=True, slots=True)
class AnnotateSizes:
    """``dtype`` is what weights will be loaded as, ``special_dtypes`` the same by tensor path.

    ``sized`` says that the bytes that are there are those of this dtype; special ones are laid over them.
    """

    name: ClassVar[str] = "annotate-sizes"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.SIZED})
    dtype: str | None = None
    special_dtypes: tuple[tuple[str, str], ...] = ()
    sized: bool = False

    def run(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        """Return the plan with a sized tree."""
        if plan.tree is None:
            return plan
        wanted = None if self.dtype is None else parse_dtype(self.dtype, diagnostics)
        special = self._special(plan.tree, diagnostics)
        sizes = _Table(wanted).column(plan.tree)
        if wanted is not None and is_packed(wanted):
            sizes = _quantised(plan.tree, wanted, sizes)
        for tensor, dtype in special.items():
            eighths = prod(plan.tree.shapes[tensor]) * wanted_eighths(dtype)
            sizes[tensor] = (-(-eighths // 8), eighths)
        _report_unknown(plan.tree, sizes, diagnostics)
        if diagnostics.errors:
            return plan
        converts = not self.sized and (wanted is not None or bool(special))
        nbytes = _kept(plan.tree, sizes, special, converts=converts)
        return replace(plan, tree=plan.tree.sized(nbytes, tuple([size[1] for size in sizes])))

    def _special(self, tree: ModuleTree, diagnostics: Diagnostics) -> dict[int, str]:
        special = {}
        for path, text in self.special_dtypes:
            dtype = parse_dtype(text, diagnostics)
            tensor = tree.tensor_index.get(path)
            if tensor is None:
                near = get_close_matches(path, tree.tensor_paths, n=1)
                hint = f"did you mean `{near[0]}`?" if near else "name a parameter or buffer"
                diagnostics.add(Diagnostic(UNKNOWN_TENSOR, f"no tensor is named `{path}`", help=hint))
            elif dtype is not None:
                special[tensor] = dtype
        return special


class _Table:
    """Sizes by shape and dtype, worked out once for each pair."""

    def __init__(self, wanted: str | None) -> None:
        self.wanted = None if wanted is None else wanted_eighths(wanted)

    def column(self, tree: ModuleTree) -> list[_Sizes]:
        """Return the sizes of all tensors of a tree."""
        kinds: list[_Kind] = list(zip(tree.shapes, tree.dtypes, strict=True))
        known = {kind: self._sizes(*kind) for kind in set(kinds)}
        sizes = [known[kind] for kind in kinds]
        if tree.nbytes is not None and _UNKNOWN in known.values():
            pairs = zip(sizes, tree.nbytes, strict=True)
            sizes = [(exact, 8 * exact) if size is _UNKNOWN else size for size, exact in pairs]
        return sizes

    def _sizes(self, shape: tuple[int, ...], dtype: str) -> _Sizes:
        stored, counted = stored_eighths(dtype), counted_eighths(dtype)
        if stored is None:
            return _UNKNOWN
        counted = stored if counted is None else counted
        if self.wanted is not None and is_converted(dtype):
            stored, counted = min(stored, self.wanted), min(counted, self.wanted)
        count = prod(shape)
        return -(-count * stored // 8), count * counted


def _quantised(tree: ModuleTree, dtype: str, sizes: list[_Sizes]) -> list[_Sizes]:
    """Return the sizes with the bytes a quantiser leaves; what accelerate counts stays what it counts."""
    return [
        size if size is _UNKNOWN or not is_converted(tree.dtypes[tensor])
        else (_packed(tree, tensor, dtype), size[1])
        for tensor, size in enumerate(sizes)
    ]  # fmt: skip


def _packed(tree: ModuleTree, tensor: int, dtype: str) -> int:
    shape = tree.shapes[tensor]
    stored = -(-prod(shape) * min(stored_eighths(tree.dtypes[tensor]) or 0, _HALF) // 8)
    return min(stored, packed_bytes(dtype, shape)) if _is_matrix(tree, tensor) else stored


def _is_matrix(tree: ModuleTree, tensor: int) -> bool:
    """Say whether quantisers take a tensor: a matrix or experts', but neither a table nor a head."""
    owner, shape = tree.owners[tensor], tree.shapes[tensor]
    outside = tree.names[owner] in HEADS or TABLE.search(tree.paths[owner]) is not None
    return len(shape) in {2, 3} and min(shape[-2:]) >= _NARROW and not (
        outside or "Embedding" in tree.classes[owner]
    )  # fmt: skip


def _report_unknown(tree: ModuleTree, sizes: list[_Sizes], diagnostics: Diagnostics) -> None:
    for tensor, size in enumerate(sizes):
        if size is _UNKNOWN:
            message = f"`{tree.tensor_paths[tensor]}` has the unknown dtype `{tree.dtypes[tensor]}`"
            diagnostics.add(Diagnostic(UNKNOWN_DTYPE, message, help="write its bytes after the shape"))


def _kept(
    tree: ModuleTree, sizes: list[_Sizes], special: dict[int, str], *, converts: bool
) -> tuple[int, ...]:
    """Return the bytes, new ones never more than the exact ones unless a special dtype says so."""
    if tree.nbytes is None or not (converts or special):
        return tree.nbytes or tuple([size[0] for size in sizes])
    # A storage costs its first tensor; views of it may cover more than that one.
    members: dict[int, int] = {}
    for tensor, same in enumerate(tree.objects or tree.storages):
        if same == tensor:
            members[tree.storages[tensor]] = members.get(tree.storages[tensor], 0) + sizes[tensor][0]
    kept = []
    for tensor, exact in enumerate(tree.nbytes):
        total = members.get(tensor, 0)
        kept.append(total if tensor in special else min(exact, total) if converts else exact)
    return tuple(kept)
