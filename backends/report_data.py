"""What the report shows, worked out of a plan: bytes per unit and device, and the map of the model."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle

from ..grammar.path_sets import fold_set
from ..ir import CPU, DISK, Account, ModuleTree, Plan, Role, device_type, human_size, unit_of_tensors
from .html_style import CPU_COLOUR, DISK_COLOUR, PALETTE

_MOST_CELLS = 110


@dataclass(frozen=True, slots=True)
class Cell:
    """One block of the map: a module or tensor and how its bytes spread over stores."""

    path: str
    nbytes: int
    shares: tuple[tuple[str, str, int], ...]
    """Store, run and bytes, in order."""


@dataclass(frozen=True, slots=True)
class Row:
    """Units of one device that have everything in common but their paths."""

    pattern: str
    count: int
    nbytes: int | None
    """Bytes of each."""
    run: str
    reason: str


class Facts:
    """A plan with its bytes looked up once."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        tree = plan.tree
        self.tree = tree if tree is not None and tree.nbytes is not None else None
        self.owner = unit_of_tensors(tree, plan.units) if tree is not None else []
        self.unit_bytes: list[int] | None = None
        if self.tree is not None:
            self.unit_bytes = [0] * (len(plan.units) + 1)
            for owner, size in zip(self.owner, self.tree.nbytes or (), strict=True):
                self.unit_bytes[owner] += size

    def accounts(self) -> dict[str, Account]:
        """Return the ledger by device; without one, what the stored tensors add up to."""
        found = {account.device: account for account in self.plan.ledger}
        if found or self.tree is None:
            return found
        weights: dict[str, int] = {}
        buffers: dict[str, int] = {}
        rows = zip(self.owner, self.tree.nbytes or (), self.tree.roles, strict=True)
        for owner, size, role in rows:
            store = self.plan.units[owner].store if owner >= 0 else None
            if store is not None:
                line = weights if role is Role.PARAMETER else buffers
                line[store] = line.get(store, 0) + size
        names = dict.fromkeys([*weights, *buffers])
        return {name: Account(name, weights.get(name, 0), buffers.get(name, 0)) for name in names}

    def rows(self) -> dict[str, list[Row]]:
        """Return the units of each store as patterns, in the order of the plan."""
        groups: dict[tuple[str, str, str, int | None], list[str]] = {}
        for index, unit in enumerate(self.plan.units):
            size = None if self.unit_bytes is None else self.unit_bytes[index]
            key = unit.store or "", unit.run or "", unit.reason or "", size
            groups.setdefault(key, []).append(unit.path)
        found: dict[str, list[Row]] = {}
        for (store, run, reason, size), paths in groups.items():
            rows = (Row(each.text, each.count, size, run, reason) for each in fold_set(paths))
            found.setdefault(store, []).extend(rows)
        return found

    def cells(self) -> list[Cell]:
        """Return the map: blocks of comparable size in tree order, the largest opened first."""
        return [] if self.tree is None else [self._cell(self.tree, span) for span in _blocks(self.tree)]

    def _cell(self, tree: ModuleTree, block: tuple[str, range]) -> Cell:
        path, tensors = block
        shares: dict[tuple[str, str], int] = {}
        sizes = tree.nbytes or ()
        for index in tensors:
            if sizes[index] and self.owner[index] >= 0:
                unit = self.plan.units[self.owner[index]]
                key = unit.store or "", unit.run or ""
                shares[key] = shares.get(key, 0) + sizes[index]
        spread = tuple((store, run, size) for (store, run), size in shares.items())
        return Cell(path, sum(sizes[tensors.start : tensors.stop]), spread)


def _blocks(tree: ModuleTree) -> list[tuple[str, range]]:
    """Open the largest modules, all of one size at once, while the map stays readable."""
    blocks = [0]  # modules; direct tensors of opened ones are added at the end
    opened: set[int] = set()
    while True:
        closed = {tree.subtree_bytes(module) for module in blocks if tree.children(module)}
        largest = max(closed, default=0)
        chosen = {m for m in blocks if tree.subtree_bytes(m) == largest and tree.children(m)}
        grown = [
            b for m in blocks for b in (tree.children(m) if m in chosen else [m]) if tree.subtree_bytes(b)
        ]
        if not largest or len(grown) > _MOST_CELLS:
            break
        opened |= chosen
        blocks = grown
    found = [(tree.paths[module], tree.tensors(module)) for module in blocks]
    found += [
        (tree.tensor_paths[i], range(i, i + 1))
        for module in opened
        for i in tree.own_tensors(module)
        if tree.nbytes and tree.nbytes[i]
    ]
    return sorted(found, key=lambda block: block[1].start)


def in_rows(cells: list[Cell]) -> list[list[Cell]]:
    """Cut the map into rows of about equal bytes, keeping the order."""
    total = sum(cell.nbytes for cell in cells)
    rows = max(1, min(8, round(len(cells) ** 0.5 / 1.4)))
    found: list[list[Cell]] = [[]]
    done = 0
    for cell in cells:
        if found[-1] and done + cell.nbytes / 2 > total * len(found) / rows:
            found.append([])
        found[-1].append(cell)
        done += cell.nbytes
    return found


def describe_cell(cell: Cell) -> str:
    """Say what a block is, for whoever points at it."""
    places = ", ".join(
        f"{human_size(size)} on {store or 'no device'}" + (f" run on {run}" if run not in {store, ""} else "")
        for store, run, size in cell.shares
    )
    return f"{cell.path or 'the whole model'}: {places or human_size(cell.nbytes)}"


def device_colours(plan: Plan) -> dict[str, str]:
    """Give every device a colour: bright ones to accelerators, greys to cpu and disk."""
    named = [device.name for device in plan.devices]
    named += [name for unit in plan.units for name in (unit.store, unit.run) if name]
    grey = {CPU: CPU_COLOUR, DISK: DISK_COLOUR}
    bright = cycle(PALETTE)
    return {name: grey.get(device_type(name)) or next(bright) for name in dict.fromkeys(named)}
