"""How an input names what a script offers: ``model.py:build``, ``model.py:build(width=256)``."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

_CALL: Final = re.compile(r"(.+?):([^\W\d][\w.]*\(.*\))", re.DOTALL)


@dataclass(frozen=True, slots=True)
class NamedFactory:
    """What is named after the colon, and the arguments it is to be called with."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    called: bool = False
    """Whether parentheses were written."""


def split_spec(spec: str | Path) -> tuple[Path, str | None]:
    """Split ``model.py:build`` into its file and what is named after the colon, its arguments included."""
    text = str(spec)
    call = _CALL.fullmatch(text)
    if call is not None and len(call[1]) > 1:
        return Path(call[1]), call[2]
    path, colon, attribute = text.rpartition(":")
    dotted = all(part.isidentifier() for part in attribute.split("."))
    if colon and path and dotted and not Path(text).exists() and len(path) > 1:
        return Path(path), attribute
    return Path(text), None


def read_factory(attribute: str) -> NamedFactory:
    """Read a name or a call of it with plain values: numbers, texts, lists, dicts, True, None.

    Raises:
        ValueError: it is a call that holds anything else; the message says which part.

    """
    if "(" not in attribute:
        return NamedFactory(attribute)
    try:
        call = ast.parse(attribute, mode="eval").body
    except (SyntaxError, RecursionError, MemoryError):
        msg = f"`{attribute}` is not a call as Python writes it"
        raise ValueError(msg) from None
    if not isinstance(call, ast.Call):
        msg = f"`{attribute}` is not one call"
        raise ValueError(msg)  # noqa: TRY004  # a wrong text, not a wrong type
    args = tuple(_plain(each) for each in call.args)
    kwargs = {each.arg: _plain(each.value) for each in call.keywords if each.arg is not None}
    if len(kwargs) != len(call.keywords):
        msg = "`**` stands for no plain values"
        raise ValueError(msg)
    return NamedFactory(ast.unparse(call.func), args, kwargs, called=True)


def _plain(node: ast.expr) -> Any:  # noqa: ANN401  # whatever a person writes
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError):
        msg = f"`{ast.unparse(node)}` is no plain value; numbers, texts, lists, dicts, True and None are"
        raise ValueError(msg) from None
