"""What placing finds and a person should know, as diagnostics with their numbers."""

from __future__ import annotations

from ...ir import Diagnostic, human_size, size_up
from ...ir.rules.placement import BUFFERS_WITHOUT_ROOM, DEVICE_LEFT_EMPTY


def left_empty(device: str, nbytes: int) -> Diagnostic:
    """Return the warning for a device that holds nothing although something waited for room."""
    return Diagnostic(
        DEVICE_LEFT_EMPTY,
        f"`{device}` holds nothing: the next unit needs {human_size(nbytes)} there",
        notes=(f"{nbytes} bytes: the unit, what is tied to it, and what the device keeps free",),
        help=f"give `{device}` at least {size_up(nbytes)}",
    )


def buffers_without_room(nbytes: int) -> Diagnostic:
    """Return the warning for buffers of offloaded units that no accelerator has room for."""
    return Diagnostic(
        BUFFERS_WITHOUT_ROOM,
        f"offloaded units need {human_size(nbytes)} for their buffers, which no accelerator has left",
        notes=(f"{nbytes} bytes stay on the accelerator that runs the units",),
        help="offload them too with `--offload-buffers`, or raise an accelerator's budget",
    )
