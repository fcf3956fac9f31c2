"""What an editor asks of a text, as functions from texts to values: check, format, rename, fix."""

from __future__ import annotations

from ...grammar import format_text
from ...grammar.statements import Kind
from ...ir import Diagnostic, Plan, PlanError, read_device_name
from ...ir.rules.language import UNKNOWN_DEVICE
from .mentions import mention_at, mentions
from .shapes import Edit
from .subject import findings, read_subject


def check(text: str, name: str = "<text>", companion: Plan | None = None) -> tuple[Diagnostic, ...]:
    """Return what is wrong with a text, and with it beside the model of its companion."""
    return findings(read_subject(text, name, companion))


def format_edit(text: str) -> Edit | None:
    """Return the edit that lays a text out; None when it is laid out, or cannot be read."""
    try:
        formatted = format_text(text)
    except PlanError:
        return None
    return None if formatted == text else Edit(0, len(text), formatted)


def renamed_word(text: str, offset: int) -> Edit | None:
    """Return the device an offset is in, as an edit that changes nothing; None where there is none."""
    found = mention_at(text, offset)
    if found is None or found.kind is not Kind.DEVICE:
        return None
    return Edit(found.start, found.end, text[found.start : found.end])


def rename_device(text: str, offset: int, new: str) -> tuple[Edit, ...]:
    """Return the edits that give the device at an offset another name, wherever the text names it.

    Raises:
        PlanError: the new name is not that of a device.

    """
    found = mention_at(text, offset)
    if found is None or found.kind is not Kind.DEVICE:
        return ()
    if read_device_name(new) is None:
        message = f"`{new}` is not the name of a device"
        raise PlanError([Diagnostic(UNKNOWN_DEVICE, message, help="write it as `cuda:1`")])
    same = (each for each in mentions(text) if each.kind is Kind.DEVICE and each.name == found.name)
    return tuple(Edit(each.start, each.end, new) for each in same)
