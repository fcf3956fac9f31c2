"""Rules of the area `planfile`."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule

ALL: Final[tuple[Rule, ...]] = ()
