"""Every rule of the project by its code; one file per area, each in alphabetical order."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule
from . import engines, hosts, language, laws, loading, placement, planfile, searching, sources, tracing, usage

RULES: Final[dict[str, Rule]] = {
    rule.code: rule
    for area in (
        engines,
        hosts,
        language,
        laws,
        loading,
        placement,
        planfile,
        searching,
        sources,
        tracing,
        usage,
    )
    for rule in area.ALL
}

__all__ = ["RULES"]
