"""The values of the command line: strings become a request, everything wrong with them is collected.

A value is shown as a text of its own, named after its option, with a caret under the part that is wrong.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from ...ir import Diagnostic, Diagnostics, Label, Reserve, Source, Span, parse_size
from ...ir.dtypes import parse_dtype
from ...ir.rules.usage import BAD_OPTION_VALUE, BAD_USAGE
from ..driver.options import (
    OBJECTIVES,
    OFFLOADS,
    STRATEGIES,
    Objective,
    Offload,
    Options,
    Strategy,
)
from ..machine.budgets import (
    DeviceKey,
    Size,
    canonical_name,
    devices_from,
    parse_memory_option,
    unknown_device,
)
from .arguments import suggestion
from .terminal import ColorChoice

_COLORS: Final = ("auto", "always", "never")
_FORMATS: Final = ("text", "json")
_LARGEST: Final = 10**9


@dataclass(frozen=True, slots=True)
class Request:
    """What one run of the command is asked to do."""

    input: str | None = None
    options: Options = field(default_factory=Options)
    overrides: tuple[str, ...] = ()
    output: str | None = None
    form: str | None = None
    with_modules: bool = False
    inputs: str | None = None
    verify: bool = False
    explain: str | None = None
    explain_code: str | None = None
    diff: tuple[str, str] | None = None
    format_plan: tuple[str, ...] = ()
    check: bool = False
    calibrate: bool = False
    passes: str | None = None
    print_after: frozenset[str] = frozenset()
    json: bool = False
    unfold: bool = False
    quiet: bool = False
    color: ColorChoice = "auto"

    @property
    def places(self) -> bool:
        """Say whether an option asks for placing, so that a finished plan is placed anew."""
        return bool(self.overrides) or self.options != Options()


def read_request(arguments: argparse.Namespace, diagnostics: Diagnostics) -> Request:
    """Return the request; what is wrong with it is in ``diagnostics``, its place holds a default."""
    request = Request(
        input=arguments.input,
        options=_options(arguments, diagnostics),
        overrides=tuple(arguments.override or ()),
        output=arguments.output,
        form=arguments.to,
        with_modules=arguments.with_modules,
        inputs=arguments.inputs,
        verify=arguments.verify,
        explain=arguments.explain,
        explain_code=arguments.explain_code,
        diff=None if arguments.diff is None else tuple(arguments.diff),
        format_plan=tuple(arguments.format_plan or ()),
        check=arguments.check,
        calibrate=arguments.calibrate,
        passes=arguments.passes,
        print_after=frozenset(_listed(arguments.print_after or ())),
        json=_choice("--format", arguments.format, _FORMATS, diagnostics) == "json",
        unfold=arguments.all,
        quiet=arguments.quiet,
        color=cast("ColorChoice", _choice("--color", arguments.color, _COLORS, diagnostics) or "auto"),
    )
    diagnostics.extend(_contradictions(request))
    return request


def _contradictions(request: Request) -> Iterator[Diagnostic]:
    standalone = request.diff or request.format_plan or request.explain_code is not None or request.calibrate
    if request.input is None and not standalone:
        help_ = "name a model.py, a checkpoint folder or a plan; `--help` shows examples"
        yield Diagnostic(BAD_USAGE, "there is no INPUT", help=help_)
    if request.input is not None and standalone:
        yield Diagnostic(BAD_USAGE, f"`{request.input}` has no part in this command", help="leave it out")
    if request.check and not (request.diff or request.format_plan):
        help_ = "add the files after `--format-plan`"
        yield Diagnostic(BAD_USAGE, "`--check` works with `--format-plan` or `--diff`", help=help_)
    if request.json and request.output == "-":
        help_ = "write the plan to a file, or leave `--format json` out"
        yield Diagnostic(BAD_USAGE, "`-o -` and `--format json` both want the standard output", help=help_)


def _options(arguments: argparse.Namespace, diagnostics: Diagnostics) -> Options:
    strategy = _choice("--strategy", arguments.strategy, STRATEGIES, diagnostics)
    objective = _choice("--objective", arguments.objective, OBJECTIVES, diagnostics)
    offload = _choice("--offload", arguments.offload, OFFLOADS, diagnostics)
    fallback = arguments.fallback
    given: dict[str, Any] = {
        "max_memory": _memory(arguments.memory, diagnostics),
        "no_split": None if arguments.no_split is None else tuple(_listed(arguments.no_split)),
        "dtype": None if arguments.dtype is None else parse_dtype(arguments.dtype, diagnostics),
        "strategy": cast("Strategy | None", strategy),
        "objective": cast("Objective | None", objective),
        "offload": cast("Offload | None", offload),
        "fallback": fallback,
        "reserves": _reserves(arguments.reserve, diagnostics),
        "margin": _size("--margin", arguments.margin, diagnostics),
        "runtime": _size("--runtime", arguments.runtime, diagnostics),
        "kv_cache": _size("--kv-cache", arguments.kv_cache, diagnostics),
        "time_limit": _seconds("--time-limit", arguments.time_limit, diagnostics),
        **{
            name: _count(f"--{name.replace('_', '-')}", getattr(arguments, name), diagnostics)
            for name in ("batch", "seq", "cache_tokens", "prompt", "generate")
        },
    }
    return Options(
        offload_buffers=arguments.offload_buffers,
        trust_remote_code=arguments.trust_remote_code,
        **{name: value for name, value in given.items() if value is not None},
    )


def _listed(values: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(part.strip() for value in values for part in value.split(",") if part.strip()))


def wrong_value(option: str, text: str, message: str, help_: str) -> Diagnostic:
    """Return the diagnostic for a value of an option, with carets under it."""
    label = Label(Span(Source(option, text), 0, len(text)))
    return Diagnostic(BAD_OPTION_VALUE, message, label, help=help_)


def _choice(option: str, text: str | None, choices: Sequence[str], diagnostics: Diagnostics) -> str | None:
    if text is None or text in choices:
        return text
    near = suggestion(text, choices) or suggestion(text.replace("_", "-"), choices)
    listed = ", ".join(f"`{choice}`" for choice in choices)
    help_ = f"did you mean `{near}`? There are {listed}" if near else f"use one of {listed}"
    diagnostics.add(wrong_value(option, text, f"`{option}` cannot be `{text}`", help_))
    return None


def _size(option: str, text: str | None, diagnostics: Diagnostics) -> int | None:
    if text is None:
        return None
    size = parse_size(text)
    if size is None:
        diagnostics.add(wrong_value(option, text, f"`{text}` is not a size", _SIZE_HELP))
    return size


_SIZE_HELP: Final = "write bytes, or a size such as `10GiB`, `512MiB`, `1.5GB`"


def _count(option: str, text: str | None, diagnostics: Diagnostics) -> int | None:
    if text is None:
        return None
    if (
        text.isascii()
        and text.isdigit()
        and 0 < int(text[:10]) <= _LARGEST
        and len(text) <= len(str(_LARGEST))
    ):
        return int(text)
    message = f"`{option}` cannot be `{text}`"
    diagnostics.add(wrong_value(option, text, message, "give a whole number above zero"))
    return None


def _seconds(option: str, text: str | None, diagnostics: Diagnostics) -> float | None:
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if 0 <= seconds <= _LARGEST:
        return seconds
    message = f"`{option}` cannot be `{text}`"
    diagnostics.add(wrong_value(option, text, message, "give seconds, `10` or `0.5`; 0 searches not at all"))
    return None


def _memory(texts: Sequence[str] | None, diagnostics: Diagnostics) -> dict[DeviceKey, Size] | None:
    if texts is None:
        return None
    budgets: dict[DeviceKey, Size] = {}
    for text in texts:
        budgets |= parse_memory_option(text, diagnostics)
    if not diagnostics.errors:
        devices_from(budgets, diagnostics)
    return budgets


def _reserves(texts: Sequence[str] | None, diagnostics: Diagnostics) -> tuple[Reserve, ...] | None:
    """Read ``NAME=SIZE,NAME=SIZE``, each reserve with its span."""
    if texts is None:
        return None
    reserves: list[Reserve] = []
    for text in texts:
        source, start = Source("--reserve", text), 0
        for part in text.split(","):
            span = Span(source, start, start + len(part))
            start += len(part) + 1
            reserves += _reserve(part, span, diagnostics)
    return tuple(reserves)


def _reserve(part: str, span: Span, diagnostics: Diagnostics) -> Iterator[Reserve]:
    name, equals, size_text = part.partition("=")
    device, size = canonical_name(name), parse_size(size_text)
    after = span.start + len(name)
    if not equals:
        message, help_ = f"`{part}` is not `DEVICE=SIZE`", "write `--reserve cuda:0=1GiB`"
        diagnostics.add(Diagnostic(BAD_OPTION_VALUE, message, Label(span, "no size"), help=help_))
    elif device is None:
        diagnostics.add(unknown_device(name, Label(Span(span.source, span.start, after), "this device")))
    elif size is None:
        label = Label(Span(span.source, after + 1, span.end), "not a size")
        diagnostics.add(Diagnostic(BAD_OPTION_VALUE, f"`{size_text}` is not a size", label, help=_SIZE_HELP))
    else:
        yield Reserve(size, device, span=span)
