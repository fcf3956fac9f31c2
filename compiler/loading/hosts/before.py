"""What processes do before there is a plan: know each other's machines, and agree on one plan."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from ....backends import encode
from ....backends.msgpack_file import decode
from ....ir import Diagnostic, Plan, PlanError
from ....ir.rules.hosts import DIFFERENT_PLANS, HOSTS_AND_RANKS
from .local_view import LocalView
from .party import Party, roads_here, started
from .wire import Wire


def others() -> Wire | None:
    """Return the way to the other processes of this one's group; None where it is alone."""
    if not started():
        return None
    wire = roads_here().wire
    return wire if len(wire.hosts) > 1 else None


def unnamed(wire: Wire) -> tuple[str, ...]:
    """Return what hosts are called that say no name: ``node1``, ``node2`` in the order of their ranks."""
    return tuple(f"node{number + 1}" for number in range(len(wire.hosts)))


def names_of(wire: Wire, host: str | None) -> tuple[str, ...]:
    """Return the names of all hosts: what each says of itself, else that of its rank."""
    said: list[str | None] = wire.exchange(host)
    names = tuple(name or usual for name, usual in zip(said, unnamed(wire), strict=True))
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        message = f"{names.count(double)} processes are `{double}`"
        found = Diagnostic(HOSTS_AND_RANKS, message, help="give each a name of its own as `host=`")
        raise PlanError([found])
    return names


def machines_of(wire: Wire) -> tuple[str, ...]:
    """Return for each process which machine it is on."""
    return tuple(wire.exchange(f"{socket.gethostname()} {_boot()}"))


def _boot() -> str:
    """Return what tells machines of one name apart; empty where the system does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123
            return file.read().strip()
    except OSError:
        return ""


def in_turn(wire: Wire, machines: Sequence[str], work: Callable[[], None]) -> None:
    """Do some work on every host, one after another where they are on one machine."""
    mine = machines[: wire.me].count(machines[wire.me])
    for turn in range(max(map(machines.count, machines))):
        if turn == mine:
            work()
        wire.exchange(turn)


def one_plan(wire: Wire, names: Sequence[str], asked: str, make: Callable[[], Plan]) -> Plan:
    """Return the plan that the first process makes, on all of them.

    Args:
        wire: the way to the others.
        names: what the hosts are called.
        asked: what this process asks for; all have to ask for the same.
        make: makes the plan; called by the first process only.

    Raises:
        PlanError: the processes ask for different things, or no plan can be made.

    """
    told: list[str] = wire.exchange(asked)
    other = next((number for number, words in enumerate(told) if words != told[0]), None)
    if other is not None:
        message = f"`{names[other]}` asks for another plan than `{names[0]}`"
        found = Diagnostic(
            DIFFERENT_PLANS, message, help="give all of them the same options, or one plan file"
        )
        raise PlanError([found])
    made, error = b"", None
    if wire.me == 0:
        try:
            made = encode(make(), "msgpack")
        except PlanError as found_out:
            error = found_out
    Party(LocalView(tuple(names), wire.me), wire).agree(error, "cannot make a plan for all hosts")
    return decode(wire.exchange(made)[0])
