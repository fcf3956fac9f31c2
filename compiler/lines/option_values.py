"""What each option may be: read once, at the edge, from the command line, an `option` line or Python.

Text is what people type (``1GiB``, ``4``, ``balanced``); from Python a value has its own type already.
Whatever else is given is refused by name, with a way out, and never raises anything of its own.
"""

from __future__ import annotations

import numbers
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, SupportsIndex, TypeAlias, cast

from ...grammar.words import quote
from ...ir import Device, Diagnostic, Diagnostics, Label, Reserve, Source, Span, parse_size
from ...ir.changes import Fixes, word_exchanged
from ...ir.dtypes import parse_dtype
from ...ir.near import near_name
from ...ir.rules.usage import BAD_OPTION_VALUE
from ...ir.sizes import MAX_SIZE
from ...ir.wording import in_words, listed
from ..machine.budgets import canonical_name, devices_from, size_of, unknown_device

LARGEST: Final = 10**9
"""The largest count of tokens, rows or seconds."""
SIZE_HELP: Final = "write bytes, or a size such as `10GiB`, `512MiB`, `1.5GB`"
_WORDS: Final = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Asked:
    """A value of an option on its way in."""

    spelled: str
    """The option as the person wrote it: ``--margin``, ``margin``."""
    value: object
    diagnostics: Diagnostics
    text: bool = False
    """Whether it was typed, on the command line or in an `option` line; then the carets go under it."""
    line: Span | None = None
    """Where the `option` line stands that says it."""

    def refuse(self, help_: str, meant: str | None = None) -> None:
        """Report the value, and what was probably meant by it."""
        message = f"`{self.spelled}` cannot be `{in_brief(self.value)}`"
        at = None if self.line is None else Label(self.line)
        fixes: Fixes = ()
        if self.text and isinstance(self.value, str):
            at = at or Label(Span(Source(self.spelled, self.value), 0, len(self.value)))
            fixes = word_exchanged(self.line, self.value, meant and quote(meant))
        self.diagnostics.add(
            Diagnostic(BAD_OPTION_VALUE, message, at, help=help_, about=self.spelled, fixes=fixes)
        )

    def refuse_item(self, item: object, help_: str) -> None:
        """Report a member of the value."""
        message = f"`{self.spelled}` cannot hold `{in_brief(item)}`"
        self.diagnostics.add(Diagnostic(BAD_OPTION_VALUE, message, help=help_))


Reading: TypeAlias = Callable[[Asked], Any]
"""Returns the value, or None after it was refused."""


def in_brief(value: object) -> str:
    """Return a value in a few characters, whatever its own idea of being printed is."""
    try:
        text = str(value) if isinstance(value, str | int | float) else repr(value)
    except Exception:  # noqa: BLE001  # objects of others may raise anything
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def word(choices: Sequence[str]) -> Reading:
    """Return the reading of one of a few words; dashes and underscores are one."""
    known = {choice.replace("_", "-"): choice for choice in choices}

    def read(asked: Asked) -> str | None:
        given = asked.value
        spelled = given.replace("_", "-") if isinstance(given, str) else ""
        # On the command line a word is spelled as the help spells it: scripts last longer than guesses.
        if spelled in known and (not asked.text or given in choices):
            return known[spelled]
        near = _longer(spelled, known) or near_name(spelled, tuple(known))
        meant, all_ = near and known[near], in_words(choices)
        asked.refuse(f"did you mean `{meant}`? There are {all_}" if meant else f"use one of {all_}", meant)
        return None

    return read


def _longer(text: str, known: Mapping[str, str]) -> str | None:
    longer = [name for name in known if len(text) > 1 and name.startswith(text)]
    return longer[0] if len(longer) == 1 else None


def size(asked: Asked) -> int | None:
    """Read bytes: text such as ``1GiB``, or a whole number from Python."""
    if isinstance(asked.value, str):
        nbytes = parse_size(asked.value)
        if nbytes is None:
            asked.refuse(SIZE_HELP)
        return nbytes
    return _whole(asked, 0, MAX_SIZE, "give a number of bytes from 0 on")


def count(least: int) -> Reading:
    """Return the reading of a whole number of at least ``least``."""

    def read(asked: Asked) -> int | None:
        if isinstance(asked.value, str) and asked.text:
            return _digits(asked, least)
        return _whole(asked, least, LARGEST, f"give a number from {least} on")

    return read


def _digits(asked: Asked, least: int) -> int | None:
    text = str(asked.value)
    if text.isascii() and text.isdigit() and len(text) <= len(str(LARGEST)) and least <= int(text) <= LARGEST:
        return int(text)
    asked.refuse(f"give a whole number {'above zero' if least else 'from 0 on'}")
    return None


def _whole(asked: Asked, least: int, most: int, help_: str) -> int | None:
    given = asked.value
    if isinstance(given, SupportsIndex) and type(given).__name__ not in {"bool", "bool_"}:
        try:
            number = operator.index(given)
        except Exception:  # noqa: BLE001  # a tensor of several numbers, an object that pretends
            number = -1
        if least <= number <= most:
            return number
    asked.refuse(help_)
    return None


def seconds(asked: Asked) -> float | None:
    """Read seconds: a number that is not below zero."""
    given, found = asked.value, -1.0
    typed = isinstance(given, str) and asked.text
    if typed or (isinstance(given, numbers.Real) and not isinstance(given, bool)):
        try:
            found = float(cast("Any", given))
        except (ValueError, OverflowError):
            found = -1.0
    if 0 <= found <= LARGEST:
        return found
    asked.refuse("give seconds, `10` or `0.5`, from 0 on; 0 searches not at all")
    return None


def switch(asked: Asked) -> bool | None:
    """Read True or False."""
    given = asked.value
    if isinstance(given, str) and given.lower() in _WORDS:
        return _WORDS[given.lower()]
    if type(given).__name__ in {"bool", "bool_"}:
        return bool(given)
    asked.refuse("give True or False")
    return None


def names(asked: Asked) -> tuple[str, ...] | None:
    """Read names of classes: one text with commas, or any collection of texts."""
    given = asked.value
    help_ = "give names of classes: `LlamaDecoderLayer`"
    if isinstance(given, str):
        return tuple(dict.fromkeys(part.strip() for part in given.split(",") if part.strip()))
    found = _items(given)
    if found is None:
        asked.refuse(help_)
        return None
    for item in found:
        if not isinstance(item, str):
            asked.refuse_item(item, help_)
    texts = [item for item in found if isinstance(item, str)]
    return tuple(dict.fromkeys(sorted(texts) if isinstance(given, set | frozenset) else texts))


def _items(given: object) -> list[object] | None:
    """Return the members of a collection; None of what is none, or breaks while it is read."""
    if isinstance(given, bytes | bytearray | Mapping) or not isinstance(given, Iterable):
        return None
    try:
        return [*given]
    except Exception:  # noqa: BLE001  # a generator may raise anything
        return None


def dtype(asked: Asked) -> str | None:
    """Read the name of a dtype, or one of torch's own."""
    given = asked.value
    if isinstance(given, str) or type(given).__module__ == "torch":
        return parse_dtype(str(given), asked.diagnostics, asked.line)
    asked.refuse("give a dtype of torch, or its name: `bfloat16`")
    return None


def optimizer(asked: Asked) -> str | None:
    """Read the name of an optimizer of torch: ``adamw``, ``SGD``."""
    from ..running.optimizers import optimizer_names

    known, given = optimizer_names(), asked.value
    if isinstance(given, str) and given.lower() in known:
        return given.lower()
    near = near_name(given.lower(), tuple(known)) if isinstance(given, str) else None
    asked.refuse(f"did you mean `{near}`?" if near else f"use one of {listed(sorted(known))}", near)
    return None


def special_dtypes(asked: Asked) -> tuple[tuple[str, str], ...] | None:
    """Read dtypes of single tensors: a mapping by path, or ``path=dtype,path=dtype``."""
    given, help_ = asked.value, "give dtypes by path of a tensor: `{'lm_head.weight': 'float32'}`"
    if isinstance(given, str):
        split = [part.rpartition("=") for part in given.split(",") if part]
        pairs: list[tuple[object, object]] = [(path, name) for path, _, name in split]
    elif isinstance(given, Mapping):
        pairs = [*given.items()]
    else:
        asked.refuse(help_)
        return None
    found: list[tuple[str, str]] = []
    for path, kind in pairs:
        if not isinstance(path, str) or not path:
            asked.refuse_item(path, help_)
            continue
        name = dtype(Asked(f"{asked.spelled}[{in_brief(path)!r}]", kind, asked.diagnostics))
        found += [] if name is None else [(path, name)]
    return tuple(found)


def devices(asked: Asked) -> tuple[Device, ...] | None:
    """Read budgets: a mapping of sizes by device."""
    given = asked.value
    if isinstance(given, Mapping):
        return devices_from(cast("Mapping[int | str, int | str]", given), asked.diagnostics)
    asked.refuse("give sizes by device: `{0: '10GiB', 'cpu': '64GiB'}`")
    return None


def reserves(asked: Asked) -> tuple[Reserve, ...] | None:
    """Read bytes kept free: a mapping of sizes by device, or reserves as a plan has them."""
    given, help_ = asked.value, "give sizes by device: `{0: '1GiB'}`"
    if isinstance(given, Mapping):
        return tuple(_reserves_of(asked, given))
    found = _items(given)
    if found is None or not all(_is_lawful(item) for item in found):
        asked.refuse(help_)
        return None
    return tuple(cast("list[Reserve]", found))


def _is_lawful(item: object) -> bool:
    return (
        isinstance(item, Reserve) and size_of(item.nbytes) is not None and bool(canonical_name(item.device))
    )


def _reserves_of(asked: Asked, given: Mapping[Any, Any]) -> Iterable[Reserve]:
    seen: set[str | None] = {None}
    for key, value in given.items():
        device, nbytes = canonical_name(key), size_of(value)
        if device in seen and device is not None:
            asked.refuse_item(key, f"keep one size for `{device}`")
        seen.add(device)
        if device is None:
            asked.diagnostics.add(unknown_device(in_brief(key)))
        elif nbytes is None:
            asked.refuse_item(value, SIZE_HELP)
        else:
            yield Reserve(nbytes, device)
