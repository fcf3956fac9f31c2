"""Rules of the area `hosts`: what stops one plan from running on several machines."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule, Severity

DIFFERENT_CALLS: Final = Rule(
    "different-calls",
    Severity.ERROR,
    "hosts call the model with different inputs",
    """\
Every host runs the same script and calls the model with the same inputs; each computes its own units of
that call. Before a call they compare what they were given. Other inputs would be other shapes on the way
between hosts, and an answer to neither question.

    inputs = torch.randint(0, 1000, (1, 16))     # another prompt on each host

Read inputs from the same place, or seed what is random before making them: `torch.manual_seed(0)`.""",
)
DIFFERENT_PLANS: Final = Rule(
    "different-plans",
    Severity.ERROR,
    "the processes were given different plans",
    """\
Before anything is read, the processes compare the digests of their plans. Plans that differ in one line
would put a unit on two hosts, or on none.

Write the plan once and give every host that file: `compile-plan ./checkpoint -o p.msgpack`, then copy
`p.msgpack`. A plan that each process compiles for itself is a plan of its own.""",
)
HOSTS_AND_RANKS: Final = Rule(
    "hosts-and-ranks",
    Severity.ERROR,
    "the processes that were started are not one for each host of the plan",
    """\
Rank r is the r-th host in the order of the plan's device lines, unless `host=` names it. A plan over
`node1` and `node2` takes exactly two processes, whatever cards they have: one process drives all devices
of its host.

    torchrun --nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint node1:29500 script.py

Start as many processes as the plan has hosts, or compile the plan for the hosts that are there.""",
)
LOST_HOST: Final = Rule(
    "lost-host",
    Severity.ERROR,
    "the process of another host is gone",
    """\
A process ended, was killed, or lost its machine or its network while others waited for what it computes.
They learn it from the closed connection, or within ten seconds from its missing signs of life.

What was being computed is lost. torchrun ends the remaining processes, and starts all of them again if it
was told to (`--max-restarts`). The output of the lost process says why it ended.""",
)
REFUSED_ELSEWHERE: Final = Rule(
    "refused-elsewhere",
    Severity.ERROR,
    "another host refused to load its part of the plan",
    """\
Hosts check everything before one of them reads a byte: devices, free memory, names and shapes in their own
checkpoint. If one of them cannot load, none does; each says which one and why.

Mend it there (free memory, copy the checkpoint's missing files, install the card), and start all again.""",
)

ALL: Final = (DIFFERENT_CALLS, DIFFERENT_PLANS, HOSTS_AND_RANKS, LOST_HOST, REFUSED_ELSEWHERE)
