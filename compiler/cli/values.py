"""The values of the command line: strings become a request, everything wrong with them is collected.

A value is shown as a text of its own, named after its option, with a caret under the part that is wrong.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from ...ir import (
    RULES,
    Device,
    Diagnostic,
    Diagnostics,
    Label,
    Link,
    Model,
    Plan,
    Reserve,
    Source,
    Span,
    parse_size,
)
from ...ir.dtypes import parse_dtype
from ...ir.rules.usage import BAD_OPTION_VALUE, BAD_USAGE, OPTION_WITHOUT_EFFECT
from ...ir.wording import in_words
from ..driver.options import Options, read_options
from ..lines.option_lines import READINGS
from ..lines.option_values import SIZE_HELP
from ..machine.budgets import (
    DeviceKey,
    Size,
    canonical_name,
    devices_from,
    parse_memory_option,
    unknown_device,
)
from .arguments import FLAGS, suggestion
from .named_machines import is_machine_name, read_named
from .terminal import ColorChoice

_COLORS: Final = ("auto", "always", "never")
_FORMATS: Final = ("text", "json")


@dataclass(frozen=True, slots=True)
class Request:
    """What one run of the command is asked to do."""

    input: str | None = None
    options: Options = field(default_factory=Options)
    overrides: tuple[str, ...] = ()
    output: str | None = None
    form: str | None = None
    engine: str | None = None
    """Which engine is told the plan."""
    engine_line: str | None = None
    """What an engine's own planner printed."""
    with_modules: bool = False
    inputs: str | None = None
    verify: bool = False
    trial: str | None = None
    """The prompt that the loaded model goes on from."""
    explain: str | None = None
    explain_code: str | None = None
    diff: tuple[str, str] | None = None
    format_plan: tuple[str, ...] = ()
    check: bool = False
    calibrate: bool = False
    save: str | None = None
    """The name a machine is remembered by; empty keeps this machine's rates."""
    machine_links: tuple[Link, ...] = ()
    """What a remembered machine says of the roads between its devices."""
    codes: bool = False
    completion: str | None = None
    dtypes: tuple[str, ...] = ()
    """Several dtypes: a table over them, no plan."""
    passes: str | None = None
    print_after: frozenset[str] = frozenset()
    json: bool = False
    unfold: bool = False
    quiet: bool = False
    color: ColorChoice = "auto"


def read_request(arguments: argparse.Namespace, diagnostics: Diagnostics) -> Request:
    """Return the request; what is wrong with it is in ``diagnostics``, its place holds a default."""
    machine = _machine(arguments, diagnostics)
    dtypes = _dtypes(arguments, diagnostics)
    request = Request(
        input=arguments.input,
        options=_options(arguments, machine.devices, diagnostics),
        machine_links=machine.links,
        dtypes=dtypes,
        codes=arguments.codes,
        completion=arguments.completion,
        overrides=tuple(arguments.override or ()),
        output=arguments.output,
        form=arguments.to,
        engine=getattr(arguments, "for"),
        engine_line=arguments.read,
        with_modules=arguments.with_modules,
        inputs=arguments.inputs,
        verify=arguments.verify,
        trial=getattr(arguments, "try"),
        explain=arguments.explain,
        explain_code=arguments.explain_code,
        diff=None if arguments.diff is None else tuple(arguments.diff),
        format_plan=tuple(arguments.format_plan or ()),
        check=arguments.check,
        calibrate=arguments.calibrate,
        save=arguments.save,
        passes=arguments.passes,
        print_after=frozenset(_listed(arguments.print_after or ())),
        json=_choice("--format", arguments.format, _FORMATS, diagnostics) == "json",
        unfold=arguments.all,
        quiet=arguments.quiet,
        color=cast("ColorChoice", _choice("--color", arguments.color, _COLORS, diagnostics) or "auto"),
    )
    diagnostics.extend(_contradictions(request))
    diagnostics.extend(_saved(arguments, request))
    diagnostics.extend(_idle(arguments, request))
    return request


_ALONE: Final[dict[str, set[str]]] = {
    "diff": {"check", "output"},
    "format_plan": {"check"},
    "explain_code": set(),
    "codes": set(),
    "completion": set(),
    "calibrate": {"save"},
}
"""Commands of their own, and what may stand beside them."""
_ALWAYS: Final = frozenset({"format", "color", "quiet", "all"})
_LONE_PASSES: Final = frozenset({"devices"})
"""Of the compiler's options, those that `--passes` heeds: passes have their own, in braces."""


def _idle(arguments: argparse.Namespace, request: Request) -> Iterator[Diagnostic]:
    """Yield options that would do nothing in this command, whatever the input is."""
    given = {flag.destination: flag.names[-1] for flag in FLAGS if getattr(arguments, flag.destination, None)}
    alone = next((name for name in _ALONE if name in given), None)
    if alone is not None:
        for name in sorted(given.keys() - {alone} - _ALONE[alone] - _ALWAYS):
            yield _without_effect(given[name], f"with `{given[alone]}`", "leave it out")
    if request.passes is not None:
        for name in sorted(request.options.given - _LONE_PASSES):
            help_ = "give the pass its option in braces: `assign-accelerate{fallback=false}`"
            yield _without_effect(spelled(name), "with `--passes`, which runs only what it lists", help_)
    if request.with_modules and not _writes_text(request):
        help_ = "write a `.plan`; a `.msgpack` has its modules always"
        yield _without_effect("--with-modules", "unless a text is written", help_)


def _writes_text(request: Request) -> bool:
    if request.form is not None or request.passes is not None:
        return request.form in {None, "plan"}
    return request.output is not None and (request.output == "-" or request.output.lower().endswith(".plan"))


def _without_effect(option: str, where: str, help_: str) -> Diagnostic:
    return Diagnostic(OPTION_WITHOUT_EFFECT, f"`{option}` has no effect {where}", help=help_)


def _contradictions(request: Request) -> Iterator[Diagnostic]:
    standalone = (
        request.diff
        or request.format_plan
        or request.explain_code is not None
        or request.calibrate
        or request.codes
        or request.completion is not None
    )
    if request.input is None and not standalone and not request.save:
        help_ = "name a model.py, a checkpoint folder or a plan; `--help` shows examples"
        if request.explain in RULES:
            help_ = f"the page of a code is shown by `--explain-code {request.explain}`"
        yield Diagnostic(BAD_USAGE, "there is no INPUT", help=help_)
    if request.input is not None and standalone:
        yield Diagnostic(BAD_USAGE, f"`{request.input}` has no part in this command", help="leave it out")
    if request.check and not (request.diff or request.format_plan):
        help_ = "add the files after `--format-plan`"
        yield Diagnostic(BAD_USAGE, "`--check` works with `--format-plan` or `--diff`", help=help_)
    if request.engine is not None and request.form is not None:
        help_ = "leave one of them out"
        yield Diagnostic(BAD_USAGE, "`--for` and `--to` both say what is written", help=help_)
    if request.diff and request.output is not None and not request.output.lower().endswith(".html"):
        help_ = "write a page, `-o diff.html`, or leave it out"
        yield _without_effect("--output", "with `--diff` unless it names a page, `.html`", help_)
    if request.json and request.output == "-":
        help_ = "write the plan to a file, or leave `--format json` out"
        yield Diagnostic(BAD_USAGE, "`-o -` and `--format json` both want the standard output", help=help_)


def _machine(arguments: argparse.Namespace, diagnostics: Diagnostics) -> Plan:
    if arguments.machine is None or arguments.memory is not None:
        return Plan(Model(""))
    return read_named(arguments.machine, diagnostics)


def _saved(arguments: argparse.Namespace, request: Request) -> Iterator[Diagnostic]:
    """Yield what is wrong with what is to be remembered."""
    if arguments.machine is not None and arguments.memory is not None:
        help_ = "leave one out, or remember the other one: `--memory … --save NAME`"
        yield Diagnostic(BAD_USAGE, "`--machine` and `--memory` both say what the devices are", help=help_)
    if request.save is None:
        return
    if not request.calibrate and arguments.memory is None:
        message = "`--save` remembers what `--memory` lists or `--calibrate` measures"
        yield Diagnostic(BAD_USAGE, message, help="add `--memory cuda:0=24GiB,cpu=64GiB` or `--calibrate`")
    elif not request.save and not request.calibrate:
        yield Diagnostic(BAD_USAGE, "`--save` needs a name for the machine", help="write `--save lab`")
    elif request.save and not is_machine_name(request.save):
        help_ = "write letters, digits, `_` and `-`: `--save lab`; the INPUT comes first"
        yield wrong_value("--save", request.save, f"`{request.save}` is no name for a machine", help_)


def _dtypes(arguments: argparse.Namespace, diagnostics: Diagnostics) -> tuple[str, ...]:
    """Take several dtypes out of the arguments; one is an option like any other."""
    if arguments.dtype is None or "," not in arguments.dtype:
        return ()
    listed = _listed([arguments.dtype])
    for name in listed:
        parse_dtype(name, diagnostics)
    arguments.dtype = None
    return tuple(listed)


def _options(arguments: argparse.Namespace, machine: tuple[Device, ...], diagnostics: Diagnostics) -> Options:
    """Return the options of the compiler; devices and reserves are read here, with carets of their own."""
    texts = {name: getattr(arguments, name) for name in READINGS if hasattr(arguments, name)}
    texts["no_split"] = None if arguments.no_split is None else ",".join(arguments.no_split)
    # A switch that is not there says nothing; `--fallback` and `--no-fallback` say different things.
    texts |= {name: texts[name] or None for name in ("offload_buffers", "trust_remote_code")}
    found = read_options(texts, diagnostics, spelled=spelled, text=True)
    ready = {
        "devices": machine or _devices(arguments.memory, diagnostics),
        "reserves": _reserves(arguments.reserve, diagnostics),
    }
    given = {name: value for name, value in ready.items() if value is not None}
    return replace(found, given=found.given | given.keys(), **cast("Any", given))


def spelled(name: str) -> str:
    """Return an option as it is spelled here: ``--cache-tokens``."""
    return {"devices": "--memory", "reserves": "--reserve", "example_inputs": "--inputs"}.get(
        name, f"--{name.replace('_', '-')}"
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
    known = in_words(choices)
    help_ = f"did you mean `{near}`? There are {known}" if near else f"use one of {known}"
    diagnostics.add(wrong_value(option, text, f"`{option}` cannot be `{text}`", help_))
    return None


def _devices(texts: Sequence[str] | None, diagnostics: Diagnostics) -> tuple[Device, ...] | None:
    if texts is None:
        return None
    budgets: dict[DeviceKey, Size] = {}
    for text in texts:
        budgets |= parse_memory_option(text, diagnostics)
    return None if diagnostics.errors else devices_from(budgets, diagnostics)


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
            for reserve in _reserve(part, span, diagnostics):
                if any(each.device == reserve.device for each in reserves):
                    message = f"`--reserve` has two sizes for `{reserve.device}`"
                    label, hint = Label(span, "again"), "keep the one that is true"
                    diagnostics.add(Diagnostic(BAD_OPTION_VALUE, message, label, help=hint))
                reserves.append(reserve)
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
        diagnostics.add(Diagnostic(BAD_OPTION_VALUE, f"`{size_text}` is not a size", label, help=SIZE_HELP))
    else:
        yield Reserve(size, device, span=span)
