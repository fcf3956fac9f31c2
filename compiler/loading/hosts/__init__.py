"""One plan over several machines: a process on each runs the model's forward and computes its own units."""

from __future__ import annotations

from .ends import With
from .held import Held, Road
from .local_view import ELSEWHERE, LocalView, torch_name
from .party import Party, join_party
from .passing import Removable, attach_passing

__all__ = [
    "ELSEWHERE",
    "Held",
    "LocalView",
    "Party",
    "Removable",
    "Road",
    "With",
    "attach_passing",
    "join_party",
    "torch_name",
]
