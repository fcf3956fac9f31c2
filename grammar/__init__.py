"""The .plan language: text to plans and plans to text."""

from __future__ import annotations

from .text import format_text, parse, parse_collecting, print_plan

__all__ = ["format_text", "parse", "parse_collecting", "print_plan"]
