"""Small placement problems with every kind of line, and all their placements, counted independently.

Nothing of `placing` or `search` is used here: what is legal and what is best is worked out from the plan.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from random import Random

from compile_plan.ir import (
    STREAMING,
    VISITING,
    Atomic,
    Demand,
    Device,
    Model,
    Never,
    Phase,
    Plan,
    Reason,
    Reserve,
    Together,
    Unit,
    device_type,
    is_accelerator,
    is_within,
)
from search_models import tree_of

MOMENTS = {"activations", "logits"}


@dataclass(frozen=True)
class Instance:
    """A lowered plan, what is written about it, and what may be done with what does not fit."""

    lowered: Plan
    written: Plan
    offload: str
    time_limit: float
    margin: int = 0
    """Bytes kept free on every accelerator."""
    objective: str | None = "accelerator-bytes"


def instance(seed):
    """Return the problem of a seed."""
    dice = Random(seed)  # noqa: S311
    tree = _tree(dice)
    devices = _devices(dice)
    roomy = [device.name for device in devices if device.memory is None or device.memory > 8]
    names = [device.name for device in devices]
    paths = [path for path in tree.paths if path]
    demands = [
        Demand(dice.randint(1, 9), dice.choice(paths), dice.choice(("kv cache", "activations", "logits")))
        for _ in range(dice.choice((0, 0, 0, 1, 2)))
    ]
    reserves = (
        [Reserve(dice.randint(1, 6), dice.choice(roomy), "mine")] if roomy and dice.random() < 0.2 else []
    )
    lowered = Plan(Model("m"), devices=devices, tree=tree, demands=tuple(demands), reserves=tuple(reserves))
    written = _written(dice, paths, names)
    return Instance(
        lowered,
        written,
        offload=dice.choice(("stream", "stream", "compute", "auto", "none")),
        time_limit=dice.choice((60, 60, 0)),
        margin=dice.choice((0, 0, 0, 2)),
        objective=dice.choice(("accelerator-bytes", "accelerator-bytes", None)),
    )


def in_phases(problem, seed):
    """Return a problem without pins whose modules are in use one after another, with more that each needs."""
    dice = Random(seed)  # noqa: S311
    tops = [path for path in problem.lowered.tree.paths if path and "." not in path]
    named = [path for path in tops if dice.random() < 0.8]
    rules = [Phase((path,)) for path in named]
    more = [
        Demand(dice.randint(1, 9), path, dice.choice(("kv cache", "activations")))
        for path in tops
        if dice.random() < 0.7
    ]
    lowered = replace(problem.lowered, demands=(*problem.lowered.demands, *more))
    written = replace(problem.written, units=(), constraints=(*problem.written.constraints, *rules))
    return replace(problem, lowered=lowered, written=written)


def _tree(dice):
    nested, leaves = {}, []
    for i in range(dice.randint(1, 4)):
        if dice.random() < 0.3:
            nested[f"m{i}:Blk"] = {"a": dice.randint(1, 9), "b": dice.randint(1, 9)}
            leaves += [(f"m{i}.{name}", size) for name, size in nested[f"m{i}:Blk"].items()]
        else:
            nested[f"m{i}"] = dice.choice((0, 2, 3, 4, 5, 5, 8, 8, 13))
            leaves.append((f"m{i}", nested[f"m{i}"]))
    ties = []
    if dice.random() < 0.35:
        equal = [(a, b) for i, (a, n) in enumerate(leaves) for b, m in leaves[i + 1 :] if n == m and n]
        ties = [dice.choice(equal)] if equal else []
    return tree_of(nested, ties)


def _devices(dice):
    count = dice.choice((0, 1, 1, 2, 2, 2, 3))
    cards = [
        Device(f"cuda:{i}", dice.choice((0, None, *range(3, 24, 2), *range(4, 24, 4)))) for i in range(count)
    ]
    cpu = dice.choice((None, 0, 8, 20, 60, 60, 60, "absent"))
    found = cards if cpu == "absent" and cards else [*cards, Device("cpu", None if cpu == "absent" else cpu)]
    if dice.random() < 0.3:
        found.append(Device("disk", dice.choice((None, None, 10, 30))))
    if dice.random() < 0.15 and len(found) > 1:
        size = dice.choice((None, 15, 30))
        members = dice.sample(found, 2)
        found = [replace(d, pool="u", pool_memory=size) if d in members else d for d in found]
    return tuple(found)


def _written(dice, paths, names):
    pins, rules = [], []
    for _ in range(dice.choice((0, 0, 1, 1, 2, 3))):
        path, name = dice.choice(paths), dice.choice(names)
        match dice.choice(("never", "never", "streaming", "together", "atomic", "pin", "pin")):
            case "never":
                rules.append(Never(path, name))
            case "streaming":
                rules.append(Never(path, STREAMING))
            case "together":
                rules.append(Together((path, dice.choice(paths))))
            case "atomic":
                rules.append(Atomic(path))
            case _:
                able = [each for each in names if each != "disk"] or ["cpu"]
                run = name if name != "disk" and dice.random() < 0.7 else dice.choice(able)
                pins.append(Unit(path, name, run, Reason.WRITTEN))
    whole = [rule.target for rule in rules if isinstance(rule, Atomic)]
    # What is counted here knows no visits: a part that could be visited apart is said to stay.
    inside = {each for each in whole if any(path.startswith(f"{each}.") for path in paths)}
    rules += [Never(f"{each}.*", VISITING) for each in sorted(inside)]
    pins = [pin for pin in pins if not any(pin.path != each and is_within(pin.path, each) for each in whole)]
    return Plan(Model("m"), constraints=tuple(dict.fromkeys(rules)), units=tuple(pins))


class Judge:
    """What is legal and what is best of one instance, counted tensor by tensor."""

    def __init__(self, problem):
        self.problem, self.tree = problem, problem.lowered.tree
        self.devices = problem.lowered.devices
        self.index = {device.name: i for i, device in enumerate(self.devices)}
        self.paths = self.tree.tensor_paths
        self.tensors = range(len(self.paths))
        self.rules = problem.written.constraints

    def named(self, path):
        return [t for t in self.tensors if is_within(self.paths[t], path)]

    @cached_property
    def grains(self):
        """Tensors that are streamed as one."""
        grains = [[t] for t in self.tensors]
        for rule in self.rules:
            if isinstance(rule, Atomic):
                inside = set(self.named(rule.target))
                grains = [g for g in grains if not inside.issuperset(g)] + [sorted(inside)]
        return grains

    @cached_property
    def atoms(self):
        """Tensors that are placed as one: ties, together, atomic."""
        groups = [set(grain) for grain in self.grains]
        groups += [{t, s} for t, s in enumerate(self.tree.storages)]
        groups += [
            {t for path in rule.patterns for t in self.named(path)}
            for rule in self.rules
            if isinstance(rule, Together)
        ]
        merged = []
        for group in groups:
            touching = [each for each in merged if each & group]
            merged = [each for each in merged if not each & group] + [group.union(*touching)]
        return sorted(map(sorted, merged))

    @cached_property
    def pins(self):
        """Place of every pinned tensor; the deepest line wins, the later among equals."""
        found = {}
        order = sorted(self.problem.written.units, key=lambda unit: len(self.named(unit.path)), reverse=True)
        for unit in order:
            for tensor in self.named(unit.path):
                found[tensor] = (self.index.get(unit.store), self.index.get(unit.run))
        return found

    def fixed(self, atom):
        """Return the places that pins give to an atom."""
        return {self.pins[tensor] for tensor in atom if tensor in self.pins}

    def contradicts(self):
        """Say whether the lines cannot all hold, wherever the rest is; a part of what is whole has no pin."""
        for rule in self.rules:
            if isinstance(rule, Atomic) and len({self.pins.get(t) for t in self.named(rule.target)}) > 1:
                return True
        for atom in self.atoms:
            places = self.fixed(atom)
            if len(places) > 1 or any(not self.allowed(atom, place) for place in places):
                return True
        return False

    def allowed(self, atom, place):
        """Say whether rules allow an atom at a place."""
        for rule in self.rules:
            if isinstance(rule, Never) and set(self.named(rule.pattern)) & set(atom):
                if rule.device == STREAMING and place[0] != place[1]:
                    return False
                if rule.device != STREAMING and self.index[rule.device] in place:
                    return False
        return device_type(self.devices[place[1]].name) != "disk"

    def weight(self, tensors):
        return sum(self.tree.nbytes[s] for s in {self.tree.storages[t] for t in tensors})

    def loads(self, places):
        """Return the bytes of each device; ``places`` by tensor, None for what is not placed."""
        plan = self.problem.lowered
        kept = [self.problem.margin if is_accelerator(device.name) else 0 for device in self.devices]
        for reserve in plan.reserves:
            kept[self.index[reserve.device]] += reserve.nbytes
        loads = [0] * len(self.devices)
        used = [defaultdict(lambda: [0, 0, 0]) for _ in self.devices]  # by phase: adds up, peak, buffer
        for storage in set(self.tree.storages):
            if places[storage] is not None:
                loads[places[storage][0]] += self.tree.nbytes[storage]
        for demand in plan.demands:
            runs = [places[t][1] for t in self.named(demand.path) if places[t] is not None]
            if demand.purpose in MOMENTS:
                for run in runs:
                    line = used[run][self.phase(self.named(demand.path))]
                    line[1] = max(line[1], demand.nbytes)
            elif runs and places[self.named(demand.path)[0]] is not None:
                used[runs[0]][self.phase(self.named(demand.path))][0] += demand.nbytes
        for grain in self.grains:
            place = places[grain[0]]
            if place is not None and place[0] != place[1]:
                line = used[place[1]][self.phase(grain)]
                line[2] = max(line[2], self.weight(grain))
        held = [load + self.highest(lines) for load, lines in zip(loads, used, strict=True)]
        return [
            (bytes_, keep if device.memory is None else min(keep, device.memory))
            for bytes_, keep, device in zip(held, kept, self.devices, strict=True)
        ]

    def phase(self, tensors):
        """Return the one `phase` line that names all of these tensors; None for none, or several."""
        lines = [
            {number for number, rule in enumerate(self.rules) if isinstance(rule, Phase)
             and any(t in self.named(path) for path in rule.patterns)}
            for t in tensors
        ]  # fmt: skip
        common = set().union(*lines)
        return next(iter(common)) if len(common) == 1 and all(lines) else None

    @staticmethod
    def highest(lines):
        """Return what is held in the fullest phase."""
        always = lines.get(None, [0, 0, 0])
        phases = [each for number, each in lines.items() if number is not None] or [[0, 0, 0]]
        return max(always[0] + each[0] + max(always[1], each[1]) + max(always[2], each[2]) for each in phases)

    def overloaded(self, places):
        """Return the devices and pools that hold too much."""
        held = self.loads(places)
        over = [
            device.name
            for device, (used, keep) in zip(self.devices, held, strict=True)
            if device.memory is not None and used > device.memory - keep
        ]
        pools = defaultdict(list)
        for i, device in enumerate(self.devices):
            if device.pool:
                pools[device.pool].append(i)
        for pool, members in pools.items():
            size = self.pool_size([self.devices[i] for i in members])
            total = sum(used + keep for used, keep in (held[i] for i in members))
            if size is not None and total > size and sum(held[i][0] for i in members):
                over.append(pool)
        return over

    @staticmethod
    def pool_size(devices):
        given = [d.pool_memory for d in devices if d.pool_memory is not None]
        budgets = [d.memory for d in devices if d.pool_memory is None and d.memory is not None]
        return max(given + budgets) if given or len(budgets) == len(devices) else None

    @cached_property
    def mains(self):
        """Devices that should hold the model, given what pins took."""
        places = [None] * len(self.paths)
        for atom in self.atoms:
            for place in self.fixed(atom):
                for tensor in atom:
                    places[tensor] = place
        held = self.loads(places)
        able = [
            i
            for i, (used, keep) in enumerate(held)
            if is_accelerator(self.devices[i].name)
            and (self.devices[i].memory is None or self.devices[i].memory - keep - used > 0)
        ]
        return able or [i for i, device in enumerate(self.devices) if device.name == "cpu"]

    @property
    def hosts(self):
        """Devices that hold what is offloaded."""
        return {i for i, d in enumerate(self.devices) if not is_accelerator(d.name) and i not in self.mains}

    def choices(self, atom, policy):
        """Return the places of a free atom under a policy."""
        hosts = [i for i, d in enumerate(self.devices) if not is_accelerator(d.name) and i not in self.mains]
        cpu = self.index.get("cpu")
        resident = [(d, d) for d in self.mains if self.allowed(atom, (d, d))]
        streamed = [(h, d) for h in hosts for d in self.mains if self.allowed(atom, (h, d))]
        computed = [(h, cpu) for h in hosts if cpu is not None and self.allowed(atom, (h, cpu))]
        match policy:
            case "none":
                return resident
            case "any":
                return list(dict.fromkeys(resident + streamed + computed))
            case "compute":
                return resident + (computed or streamed)
            case _:
                alone = [place for place in streamed if self.fits_alone(atom, place)]
                return resident + (alone or computed)

    def fits_alone(self, atom, place):
        """Say whether an atom could be streamed to its place if nothing but the pins was there."""
        places = [None] * len(self.paths)
        for each in self.atoms:
            for fixed in self.fixed(each):
                for tensor in each:
                    places[tensor] = fixed
        for tensor in atom:
            places[tensor] = place
        run = self.devices[place[1]]
        used, keep = self.loads(places)[place[1]]
        return run.memory is None or used <= run.memory - keep

    def placements(self, policy):
        """Yield every legal placement under a policy, by tensor."""
        options = []
        for atom in self.atoms:
            fixed = self.fixed(atom)
            options.append(list(fixed) if fixed else self.choices(atom, policy))
        for combination in product(*options):
            places = [None] * len(self.paths)
            for atom, place in zip(self.atoms, combination, strict=True):
                for tensor in atom:
                    places[tensor] = place
            if not self.overloaded(places):
                yield places

    def kept(self, places):
        """Return the bytes of free tensors on the devices that should hold the model."""
        free = [t for atom in self.atoms if not self.fixed(atom) for t in atom]
        return sum(self.tree.nbytes[t] for t in free if places[t][0] in self.mains)
