"""Rules of the area `hosts`: what stops one plan from running on several machines."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule, Severity

DIFFERENT_CALLS: Final = Rule(
    "different-calls",
    Severity.ERROR,
    "hosts call the model with different inputs",
)
DIFFERENT_PLANS: Final = Rule(
    "different-plans",
    Severity.ERROR,
    "the processes were given different plans",
)
FAILED_ELSEWHERE: Final = Rule(
    "failed-elsewhere",
    Severity.ERROR,
    "a call failed on another host",
)
FIXED_CACHE: Final = Rule(
    "fixed-cache",
    Severity.ERROR,
    "several hosts are to share a cache of fixed size",
)
HOSTS_AND_RANKS: Final = Rule(
    "hosts-and-ranks",
    Severity.ERROR,
    "the processes that were started are not one for each host of the plan",
)
LOST_HOST: Final = Rule(
    "lost-host",
    Severity.ERROR,
    "the process of another host is gone",
)
REFUSED_ELSEWHERE: Final = Rule(
    "refused-elsewhere",
    Severity.ERROR,
    "another host refused to load its part of the plan",
)

ALL: Final = (
    DIFFERENT_CALLS,
    DIFFERENT_PLANS,
    FAILED_ELSEWHERE,
    FIXED_CACHE,
    HOSTS_AND_RANKS,
    LOST_HOST,
    REFUSED_ELSEWHERE,
)
