"""Fill the ledger: what every device holds, by purpose, to the byte.

Weights count where they are stored, the streaming buffer where they run: one buffer a device, as
large as the largest part that is streamed to it.

Before:
    plan 1
    model "tiny"
    device cuda:0 memory 4KiB
    device cpu memory 1MiB
    module a : Linear 2KiB
    module b : Linear 1KiB
    place a on cuda:0
    place b on cpu run on cuda:0

After:
    plan 1
    model "tiny"
    device cuda:0 memory 4KiB
    device cpu memory 1MiB
    module a : Linear 2KiB
    module b : Linear 1KiB
    place a on cuda:0
    place b on cpu run on cuda:0
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ...ir import Diagnostics, Plan, ShortBuffer, verify
from ...ir.rules.laws import BUDGET_EXCEEDED
from ..placing.findings import with_findings
from ..placing.ledger import keep_books
from .pipeline import Fact


@dataclass(frozen=True, slots=True)
class AccountMemory:
    """Replace the ledger by a freshly counted one; report budgets that are exceeded."""

    name: ClassVar[str] = "account-memory"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.SIZED, Fact.PLACED})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.PLACED})

    def run(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        """Return the plan with its ledger."""
        if plan.tree is None or not plan.units:
            return plan
        books = keep_books(plan, plan.tree)
        plan = with_findings(replace(plan, ledger=books.ledger), ShortBuffer, books.short)
        diagnostics.extend(broken for broken in verify(plan) if broken.rule is BUDGET_EXCEEDED)
        return plan
