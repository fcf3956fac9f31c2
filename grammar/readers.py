"""Single words of a text to values: sizes, rates, devices, paths; each mistake is reported where it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from ..ir import (
    Device,
    Diagnostic,
    Diagnostics,
    Label,
    Span,
    is_host_name,
    near_device_name,
    parse_size,
    read_device_name,
)
from ..ir.changes import rewritten
from ..ir.patterns import PatternError, expand_braces
from ..ir.rules.language import MALFORMED_NUMBER, MALFORMED_PATTERN, REPEATED_LINE, UNKNOWN_DEVICE
from .syntax import Attribute, DeviceLine, Path, Word
from .words import parse_count, parse_rate, parse_time, spell_path

_FREE_PATHS: Final = 200_000
_PATHS_PER_CHARACTER: Final = 100
_FREE_CHARACTERS: Final = 16 * 2**20
_CHARACTERS_PER_CHARACTER: Final = 4_096
_EMPTY_NAME: Final = re.compile(r"\.(?:\.|$)|^\.")


class WordReader:
    """Reads words; what all braces of one text of ``length`` may expand to is in proportion to it."""

    def __init__(self, diagnostics: Diagnostics, length: int = 0) -> None:
        self._diagnostics = diagnostics
        self._paths_left = _FREE_PATHS + _PATHS_PER_CHARACTER * length
        self._characters_left = _FREE_CHARACTERS + _CHARACTERS_PER_CHARACTER * length
        self._sizes: dict[str, int | None] = {}
        self._devices: dict[str, str | None] = {}

    def size(self, word: Word) -> int | None:
        """Read a size in bytes."""
        if word.text not in self._sizes:
            self._sizes[word.text] = parse_size(word.text)
        size = self._sizes[word.text]
        if size is None:
            self._malformed(word, "a size", "a size such as `10GiB`")
        return size

    def count(self, word: Word) -> int | None:
        """Read a decimal count."""
        return self._number(word, parse_count, "a count", "312T")

    def rate(self, word: Word) -> int | None:
        """Read bytes per second."""
        return self._number(word, parse_rate, "a rate", "25GB/s")

    def time(self, word: Word) -> int | None:
        """Read nanoseconds."""
        return self._number(word, parse_time, "a time", "80us")

    def end(self, word: Word) -> str | None:
        """Read one end of a link: a device or a host."""
        return word.text if is_host_name(word.text) and not word.text.isdigit() else self.device(word)

    def _number(self, word: Word, read: Callable[[str], int | None], what: str, example: str) -> int | None:
        number = read(word.text)
        if number is None:
            self._malformed(word, what, f"{what} such as `{example}`")
        return number

    def _malformed(self, word: Word, what: str, hint: str) -> None:
        self._diagnostics.add(
            Diagnostic(
                MALFORMED_NUMBER,
                f"`{word.text[:40]}` is not {what} below 2^63",
                _label(word.span, f"not {what}"),
                help=f"write {hint}",
                about=word.text[:40],
            )
        )

    def device(self, word: Word) -> str | None:
        """Read the name of a device."""
        if word.text not in self._devices:
            self._devices[word.text] = read_device_name(word.text)
        name = self._devices[word.text]
        if name is None:
            meant = read_device_name(word.text.rstrip(";,.")) or near_device_name(word.text)
            self._diagnostics.add(
                Diagnostic(
                    UNKNOWN_DEVICE,
                    f"`{word.text[:40]}` is not the name of a device",
                    _label(word.span, "not a device"),
                    notes=("devices are `cuda:0`, `xpu:0`, `mps`, `cpu`, `disk`, `host/cuda:0`, ...",),
                    help=_device_hint(meant),
                    about=word.text,
                    fixes=rewritten(word.span, meant),
                )
            )
        return name

    def expand(self, path: Path) -> list[str]:
        """Return the paths a written path stands for; an empty list after a mistake."""
        if path.literal:
            return [path.text]
        text = path.text
        if _EMPTY_NAME.search(text) and "{" not in text:
            return self._malformed_path(path, "it holds an empty name")
        if "{" not in text and "}" not in text:
            return [text]
        try:
            limit = min(self._paths_left, self._characters_left // len(text))
            paths = expand_braces(text, limit)
        except PatternError as error:
            return self._malformed_path(path, str(error))
        self._paths_left -= len(paths)
        self._characters_left -= len(paths) * len(text)
        if any(not each or _EMPTY_NAME.search(each) for each in paths):
            return self._malformed_path(path, "it expands to an empty name")
        return paths

    def _malformed_path(self, path: Path, why: str) -> list[str]:
        named = spell_path(Path(".".join(filter(None, path.text.split("."))), path.literal))
        braces = "{" in path.text or "}" in path.text
        hint = "write braces as `{0..3}` or `{a,b}`, and quote names with unusual characters"
        self._diagnostics.add(
            Diagnostic(
                MALFORMED_PATTERN,
                f"`{spell_path(path)[:60]}` cannot be expanded: {why}",
                _label(path.span, "here"),
                help=hint if braces else f"write `{named}`",
                about=path.text[:60],
                fixes=rewritten(path.span, None if braces else named),
            )
        )
        return []

    def attributes(self, line: DeviceLine, name: str, span: Span | None) -> tuple[Device, int | None]:
        """Read a device line; the second value is its ``reserve``."""
        device, reserve = Device(name, None, span=span), None
        seen: dict[str, Span | None] = {}
        before = line.name
        for attribute in line.attributes:
            words, before = _between(before, attribute), attribute.size or attribute.value
            said = attribute.keyword + (f" {attribute.dtype.text}" if attribute.dtype else "")
            if said in seen:
                at = _label(attribute.value.span, "again")
                message = f"device `{name}` has `{said}` twice"
                either = (*rewritten(seen[said], ""), *rewritten(words, ""))
                found = Diagnostic(
                    REPEATED_LINE, message, at, help="keep one of them", about=name, fixes=either
                )
                self._diagnostics.add(found)
            seen[said] = words
            if attribute.keyword == "reserve":
                reserve = self.size(attribute.value)
            else:
                device = self._with(device, attribute)
        return device, reserve

    def _with(self, device: Device, attribute: Attribute) -> Device:
        word = attribute.value
        match attribute.keyword:
            case "memory":
                device = replace(device, memory=self.size(word))
            case "margin":
                device = replace(device, margin=self.size(word) or 0)
            case "pool":
                memory = None if attribute.size is None else self.size(attribute.size)
                device = replace(device, pool=word.text, pool_memory=memory)
            case "at":
                device = replace(device, at=word.text)
            case "bandwidth" | "few" | "link" | "latency" | "launch" | "flops":
                device = self._rated(device, attribute)
            case keyword:
                raise ValueError(f"the grammar has an attribute `{keyword}` that is not read")
        return device

    def _rated(self, device: Device, attribute: Attribute) -> Device:
        word = attribute.value
        match attribute.keyword:
            case "bandwidth" | "few" | "link" as rate:
                changed: dict[str, Any] = {rate: self.rate(word)}
            case "latency" | "launch" as seconds:
                changed = {seconds: self.time(word)}
            case _ if attribute.dtype is not None:
                row = (attribute.dtype.text, self.count(word) or 0)
                changed = {"dtype_flops": (*device.dtype_flops, row)}
            case _:
                changed = {"flops": self.count(word)}
        return replace(device, **changed)


def _between(before: Word, attribute: Attribute) -> Span | None:
    """Return where an attribute stands: from the end of the word before it to its own end."""
    last = (attribute.size or attribute.value).span
    if before.span is None or last is None:
        return None
    return Span(last.source, before.span.end, last.end)


def _device_hint(meant: str | None) -> str:
    return f"did you mean `{meant}`?" if meant else "write `cuda:0`, `cpu` or `disk`"


def _label(span: Span | None, text: str) -> Label | None:
    return None if span is None else Label(span, text)
