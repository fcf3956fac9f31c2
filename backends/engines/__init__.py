"""Engines that do their own loading, and how each is told the split a plan decides."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from . import llama_cpp, pipeline_ranks, stages
from .engine import Engine

ENGINES: Final[Mapping[str, Engine]] = MappingProxyType(
    {engine.name: engine for engine in (llama_cpp.ENGINE, *pipeline_ranks.ENGINES, *stages.ENGINES)}
)

__all__ = ["ENGINES", "Engine"]
