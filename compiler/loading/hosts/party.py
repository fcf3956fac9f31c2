"""The processes that load one plan together: one for each host, agreed before anything is read."""

from __future__ import annotations

import atexit
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from ....backends import encode
from ....ir import Diagnostic, Plan, PlanError
from ....ir.rules.hosts import DIFFERENT_PLANS, HOSTS_AND_RANKS, REFUSED_ELSEWHERE
from ....ir.rules.loading import OTHER_HOST
from ....ir.rules.usage import BAD_OPTION_VALUE
from ....ir.wording import first_line
from .connections import Connections
from .local_view import LocalView, hosts_of
from .pulse import Pulse
from .waiter import Waiter
from .wire import Wire

if TYPE_CHECKING:
    import torch

_ENVIRONMENT: Final = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets, and what a person sets without it."""
_FOREVER: Final = timedelta(days=30)
"""Waiting is ended by hosts that are gone, never by a clock: a prompt through a disk takes its time."""


@dataclass(slots=True)
class Party:
    """The view of this process and its way to the others; no way where a plan has one host."""

    view: LocalView
    wire: Wire | None

    def agree(self, error: Exception | None, refusal: str = "refused to load its part of the plan") -> None:
        """Return when every host has come here without an error; raise where one has not.

        A host that raises its own error lets the others know of it before.
        """
        if self.wire is None:
            if error is not None:
                raise error
            return
        found = self.wire.exchange(_told(error))
        if error is not None:
            raise error
        refused = [(host, words) for host, words in zip(self.view.hosts, found, strict=True) if words]
        if refused:
            host, words = refused[0]
            message = f"`{host}` {refusal}"
            help_ = "mend what it says there, and start all hosts again; nothing was loaded on this one"
            raise PlanError([Diagnostic(REFUSED_ELSEWHERE, message, notes=tuple(words), help=help_)])


def _told(error: Exception | None) -> list[str]:
    if isinstance(error, PlanError):
        return [f"{found.rule.code}: {found.message}" for found in error.diagnostics][:4]
    return [] if error is None else [f"{type(error).__name__}: {str(error)[:200]}"]


@contextmanager
def together(party: Party | None) -> Iterator[None]:
    """Go on when every host of a party has come through; none does when one of them cannot."""
    try:
        yield
    except Exception as error:
        if party is not None:
            party.agree(error)
        raise
    except BaseException as interrupt:
        if party is not None and party.wire is not None:
            party.wire.connections.give_up(interrupt)
        raise
    if party is not None:
        party.agree(None)


def join_party(plan: Plan, host: object, given: Mapping[str, torch.device] | None) -> Party | None:
    """Return the party a plan is loaded in; None where it is a plan of this one machine.

    Args:
        plan: the plan as it was read.
        host: the name of this host; None takes the place of the process in the order of the plan's devices.
        given: torch devices that stand for those of the plan; if they stand for all of them, and there are
            no other processes, the whole plan is loaded in this one.

    Raises:
        PlanError: the plan is of several hosts, and the processes are not one for each with the same plan.

    """
    hosts = hosts_of(plan)
    if host is not None and (not isinstance(host, str) or host not in hosts):
        raise _no_such_host(host, hosts)
    if not any(hosts):
        return None
    if not started():
        if len(hosts) == 1 and host is not None:
            return Party(LocalView(hosts, 0), None)
        used = {str(name) for unit in plan.units for name in (unit.store, unit.run) if name}
        if given is not None and used <= given.keys():
            return None
        raise _not_started(hosts)
    roads = roads_here()
    if roads.size == 1 and len(hosts) == 1:
        return Party(LocalView(hosts, 0), None)
    return _accord(roads, plan, hosts, host)


def _accord(roads: Roads, plan: Plan, hosts: tuple[str, ...], host: str | None) -> Party:
    """Compare what the processes were given; each must be another host of the same plan."""
    digest = hashlib.sha256(encode(plan, "msgpack")).hexdigest()
    claims: list[tuple[str | None, str]] = roads.wire.exchange((host, digest))
    different = [rank for rank, (_, other) in enumerate(claims) if other != claims[0][1]]
    if different:
        raise _different(roads.rank, different, digest, claims[0][1])
    if len(claims) != len(hosts):
        raise _ranks(f"the plan has {len(hosts)} hosts, and {len(claims)} processes were started", hosts)
    names = [claim or hosts[rank] for rank, (claim, _) in enumerate(claims)]
    if len(set(names)) != len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise _ranks(f"{names.count(double)} processes are `{double}`", hosts)
    ranks = tuple(names.index(name) for name in hosts)
    me = hosts.index(names[roads.rank])
    return Party(LocalView(hosts, me), Wire(hosts, me, roads.wire.connections, ranks))


def _no_such_host(host: object, hosts: Sequence[str]) -> PlanError:
    known = ", ".join(f"`{name}`" for name in hosts if name) or "none with a name"
    message = f"`host` cannot be `{str(host)[:40]}`: the plan's hosts are {known}"
    return PlanError([Diagnostic(BAD_OPTION_VALUE, message, help="name one of them, or leave it out")])


def _not_started(hosts: Sequence[str]) -> PlanError:
    names = ", ".join(f"`{name}`" for name in hosts)
    message = f"the plan is for {len(hosts)} hosts, {names}, and this process is alone"
    start = f"torchrun --nnodes {len(hosts)} --nproc-per-node 1"
    help_ = (
        f"on each host: `{start} --rdzv-backend c10d --rdzv-endpoint {hosts[0] or 'HOST'}:29500 script.py`"
        if len(hosts) > 1
        else f"pass `host='{hosts[0]}'` on that machine, or `devices=` with what stands for its devices"
    )
    return PlanError([Diagnostic(OTHER_HOST, message, help=help_)])


def _different(rank: int, different: Sequence[int], mine: str, first: str) -> PlanError:
    named = ", ".join(map(str, different))
    message = (
        f"rank {named} has another plan than rank 0"
        if len(different) == 1
        else (f"ranks {named} have other plans than rank 0")
    )
    notes = (f"digest here, on rank {rank}: {mine[:16]}", f"digest on rank 0: {first[:16]}")
    help_ = "give all of them the same plan file; nothing has been read"
    return PlanError([Diagnostic(DIFFERENT_PLANS, message, notes=notes, help=help_)])


def _ranks(message: str, hosts: Sequence[str]) -> PlanError:
    help_ = f"start one process on each: `torchrun --nnodes {len(hosts)} --nproc-per-node 1 ... script.py`"
    notes = (f"the hosts of the plan are {', '.join(f'`{name}`' for name in hosts)}",)
    return PlanError([Diagnostic(HOSTS_AND_RANKS, message, notes=notes, help=help_)])


def started() -> bool:
    """Say whether there are other processes to load with."""
    import torch.distributed as dist

    if not dist.is_available():
        return False
    return dist.is_initialized() or all(name in os.environ for name in _ENVIRONMENT)


@dataclass(slots=True)
class Roads:
    """What one process group gives every load in it."""

    default: Any
    rank: int
    size: int
    wire: Wire
    """Ranks as hosts, before it is known which is which."""


_open: list[Roads] = []
"""The process group this process is in, if a plan was loaded in it."""


def roads_here() -> Roads:
    """Return the roads of the process group, which is joined first where torchrun only prepared it."""
    import torch.distributed as dist

    distributed: Any = dist
    if not distributed.is_initialized():
        Waiter().run(lambda: distributed.init_process_group("gloo"), lambda: None, _not_met)
    default = distributed.group.WORLD
    if _open and _open[0].default is default:
        return _open[0]
    rank, size = distributed.get_rank(), distributed.get_world_size()
    pulse = Pulse(distributed.distributed_c10d._get_default_store().clone(), rank, size)  # noqa: SLF001
    atexit.register(pulse.end)
    connections = Connections(pulse, rank, size, lambda: _met(distributed))
    wire = Wire([f"rank {number}" for number in range(size)], rank, connections)
    _open[:] = [Roads(default, rank, size, wire)]
    return _open[0]


def _met(distributed: Any) -> Any:  # noqa: ANN401  # torch.distributed and a group of it
    """Return a group of its own for the model, when everyone has come here.

    A process that ended before it came is heard of by its connections, if they are gloo's.
    """
    if distributed.get_backend() == "gloo":
        distributed.monitored_barrier()
    return distributed.new_group(backend="gloo", timeout=_FOREVER)


def _not_met(error: Exception) -> PlanError:
    """Return the error for processes that do not find each other."""
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    size, rank = os.environ["WORLD_SIZE"], os.environ["RANK"]
    message = f"the {size} processes do not meet at `{place}`"
    help_ = "start all of them, with a name and a free port of the first host that the others reach"
    notes = (f"this is rank {rank}", first_line(error, 200))
    return PlanError([Diagnostic(HOSTS_AND_RANKS, message, notes=notes, help=help_)])
