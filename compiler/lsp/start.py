"""Starts the server, or says how to install what it needs."""

from __future__ import annotations

from ...ir import Diagnostic, PlanError
from ...ir.rules.sources import MISSING_EXTRA


def serve() -> None:
    """Answer an editor over standard input and output until it hangs up; raises `PlanError` without pygls."""
    try:
        from .server import make_server
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"pygls", "lsprotocol"}:
            raise
        message = "the language server needs pygls, which is not installed"
        help_ = "run `pip install 'compile-plan[lsp]'`"
        raise PlanError([Diagnostic(MISSING_EXTRA, message, help=help_)]) from None
    make_server().start_io()
