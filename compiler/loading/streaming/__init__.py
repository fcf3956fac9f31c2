"""Weights stored in one place and used in another: brought there in time, taken away after."""

from __future__ import annotations

from .streamed import Home, Streamed

__all__ = ["Home", "Streamed"]
