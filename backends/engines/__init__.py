"""Engines that do their own loading, and how each is told the split a plan decides."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from . import diffusers_parts, llama_cpp, mlx_lm, sglang, tabbyapi, torchtitan, transformers_map, vllm
from .engine import Engine

ENGINES: Final[Mapping[str, Engine]] = MappingProxyType({
    engine.name: engine
    for engine in (
        llama_cpp.ENGINE, vllm.ENGINE, sglang.ENGINE, mlx_lm.ENGINE, *torchtitan.ENGINES, tabbyapi.ENGINE,
        transformers_map.ENGINE, diffusers_parts.ENGINE,
    )
})  # fmt: skip

__all__ = ["ENGINES", "Engine"]
