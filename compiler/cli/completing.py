"""``--completion SHELL``: a script for a shell, made by shtab from the table of options."""

from __future__ import annotations

from typing import Final

from ...ir import PlanError
from ...ir.dtypes import dtype_names
from ..lines.option_lines import OBJECTIVES, OFFLOADS, STRATEGIES
from .arguments import make_parser
from .console import Console
from .engines import engine_names
from .named_machines import remembered
from .values import wrong_value

SHELLS: Final = ("bash", "zsh", "tcsh")


def print_completion(shell: str, console: Console) -> int:
    """Print the script; raises `PlanError` for another shell, or where shtab is not installed."""
    option = "--completion"
    if shell not in SHELLS:
        listed = ", ".join(f"`{each}`" for each in SHELLS)
        raise PlanError(
            [wrong_value(option, shell, f"there is no completion for `{shell}`", f"use one of {listed}")]
        )
    try:
        import shtab
    except ImportError:
        help_ = "`pip install 'compile-plan[completion]'`"
        message = f"`{option}` needs the library shtab, which is not installed"
        raise PlanError([wrong_value(option, shell, message, help_)]) from None
    parser = make_parser()
    choices = {
        "strategy": STRATEGIES,
        "objective": OBJECTIVES,
        "offload": OFFLOADS,
        "format": ("text", "json"),
        "color": ("auto", "always", "never"),
        "completion": SHELLS,
        "dtype": dtype_names(),
        "for": engine_names(),
        "machine": remembered(),
    }
    files = {"input", "output", "override", "diff", "format_plan"}
    for action in parser._actions:  # noqa: SLF001  # argparse lists its options nowhere else
        action.help = None
        if action.dest in choices:
            action.choices = choices[action.dest]
        elif action.dest in files:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    console.text(shtab.complete(parser, shell))
    return 0
