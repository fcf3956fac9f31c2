"""What explains a plan, in the plan file: the ledger, the outcome of the search, the diagnostics."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from ..ir import RULES, Account, Diagnostic, Outcome, Plan, Prediction, Rule, Severity
from ..ir.purposes import LEDGER_LINES
from .columns import MalformedError, Reader, Writer, grouped

TABLES = {
    "ledger": ("device", *LEDGER_LINES),
    "outcome": ("objective", "value", "bound", "status", "hops", "notes"),
    "outcome_notes": ("text",),
    "predicted": ("prompt", "token", "prompt_limit", "token_limit", "simple", "simple_seconds", "seconds"),
    "diagnostics": ("code", "severity", "summary", "message", "help", "notes"),
    "diagnostic_notes": ("text",),
}
"""The columns of each table, in the order in which they are written."""


def write_ledger(plan: Plan, writer: Writer) -> list[list[int]]:
    """Return the columns of the ledger."""
    return [
        writer.strings(account.device for account in plan.ledger),
        *([getattr(account, line) for account in plan.ledger] for line in LEDGER_LINES),
    ]


def read_ledger(reader: Reader) -> tuple[Account, ...]:
    """Return the ledger of a plan file."""
    devices, *lines = reader.rows("ledger", *TABLES["ledger"])
    return tuple(map(Account, reader.devices(devices), *lines))


def write_outcome(plan: Plan, writer: Writer) -> list[list[int]]:
    """Return the columns of the search's outcome; floats are stored by their bits."""
    outcome = plan.outcome
    if outcome is None:
        return [[]] * 14
    return [
        writer.strings([outcome.objective]),
        [_bits(outcome.value)],
        [_bits(outcome.bound)],
        writer.strings([outcome.status]),
        [outcome.hops],
        [len(outcome.notes)],
        writer.strings(outcome.notes),
        *_write_predicted(() if outcome.predicted is None else (outcome.predicted,), writer),
    ]


def _write_predicted(found: Sequence[Prediction], writer: Writer) -> list[list[int]]:
    """Return the columns of what is predicted; a number nobody knows is stored as no number at all."""
    return [
        [_bits(each.prompt) for each in found],
        [_bits(each.token) for each in found],
        writer.strings(each.prompt_limit for each in found),
        writer.strings(each.token_limit for each in found),
        writer.strings(each.simple for each in found),
        [_bits(math.nan if each.simple_seconds is None else each.simple_seconds) for each in found],
        [_bits(math.nan if each.seconds is None else each.seconds) for each in found],
    ]


def _read_predicted(reader: Reader) -> Prediction | None:
    prompt, token, prompt_limit, token_limit, simple, least, most = reader.rows(
        "predicted", *TABLES["predicted"]
    )
    if len(prompt) > 1:
        raise MalformedError("table `predicted` must have at most one row")
    rows = map(
        Prediction,
        map(_number, prompt),
        map(_number, token),
        reader.strings(prompt_limit),
        reader.strings(token_limit),
        reader.strings(simple),
        map(_optional_number, least),
        map(_optional_number, most),
    )
    return next(rows, None)


def _optional_number(bits: int) -> float | None:
    number = _number(bits)
    return None if math.isnan(number) else number


def _bits(number: float) -> int:
    return int.from_bytes(struct.pack("<d", number), "little")


def _number(bits: int) -> float:
    (number,) = struct.unpack("<d", bits.to_bytes(8, "little"))
    return float(number)


def read_outcome(reader: Reader) -> Outcome | None:
    """Return the outcome of a plan file, None if nothing was searched."""
    columns = reader.rows("outcome", *TABLES["outcome"])
    notes = reader.strings(*reader.rows("outcome_notes", "text"))
    objective, value, bound, status, hops, counts = columns
    if len(value) > 1 or sum(counts) != len(notes):
        raise MalformedError("table `outcome` must have at most one row")
    predicted = _read_predicted(reader)
    if not value:
        return None
    return Outcome(
        reader.strings(objective)[0],
        _number(value[0]),
        _number(bound[0]),
        reader.strings(status)[0],
        hops[0],
        tuple(notes),
        predicted,
    )


def write_diagnostics(plan: Plan, writer: Writer) -> list[list[int]]:
    """Return the columns of the diagnostics."""
    found = plan.diagnostics
    return [
        writer.strings(each.code for each in found),
        writer.strings(each.severity for each in found),
        writer.strings(each.rule.summary for each in found),
        writer.strings(each.message for each in found),
        writer.optional_strings(each.help for each in found),
        [len(each.notes) for each in found],
        writer.strings(note for each in found for note in each.notes),
    ]


def read_diagnostics(reader: Reader) -> tuple[Diagnostic, ...]:
    """Return the diagnostics of a plan file."""
    codes, severities, summaries, messages, helps, counts = reader.rows("diagnostics", *TABLES["diagnostics"])
    notes = grouped(reader.strings(*reader.rows("diagnostic_notes", "text")), counts, "diagnostics")
    rules = map(_rule, reader.strings(codes), reader.strings(severities), reader.strings(summaries))
    rows = zip(rules, reader.strings(messages), notes, reader.optional_strings(helps), strict=True)
    return tuple(Diagnostic(rule, message, notes=noted, help=help_) for rule, message, noted, help_ in rows)


def _rule(code: str, severity: str, summary: str) -> Rule:
    """Return the rule of a code; one of a newer version is known by what the file says of it."""
    known = RULES.get(code)
    if known is not None:
        return known
    if severity not in set(Severity):
        raise MalformedError("a diagnostic has an unknown severity")
    return Rule(code, Severity(severity), summary, "")
