"""One plan over several machines: a process on each runs the model's forward and computes its own units."""

from __future__ import annotations

from .before import in_turn, machines_of, names_of, one_plan, others, unnamed
from .between import measured_links
from .ends import With
from .held import Held, Road
from .local_view import ELSEWHERE, LocalView, torch_name
from .party import Party, join_party, together
from .passing import Removable, attach_passing
from .wire import Wire

__all__ = [
    "ELSEWHERE",
    "Held",
    "LocalView",
    "Party",
    "Removable",
    "Road",
    "Wire",
    "With",
    "attach_passing",
    "in_turn",
    "join_party",
    "machines_of",
    "measured_links",
    "names_of",
    "one_plan",
    "others",
    "together",
    "torch_name",
    "unnamed",
]
