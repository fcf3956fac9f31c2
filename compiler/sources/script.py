"""A model from a person's Python file, built without its weights.

The file is imported (its ``__main__`` block is not run) with its folder on the path, as python would.
What goes wrong inside is the file's own error and is shown with the file's lines, not with ours.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from ...ir import Diagnostic, Diagnostics, Rule, Severity
from ...ir.rules import sources as rules
from ...ir.visible import pasted
from ...ir.wording import in_words
from .regular import unreadable_input
from .script_errors import failed_script, needs_values, on_purpose
from .script_spec import NamedFactory, read_factory, split_spec

if TYPE_CHECKING:
    from torch import nn

FACTORIES: Final = ("build", "build_model", "make_model", "create_model", "get_model", "load_model")


@dataclass(frozen=True, slots=True)
class Script:
    """What a script offers."""

    model: nn.Module
    name: str
    """The file's name without its suffix."""
    example_inputs: object = None
    """The variable ``example_inputs``: arguments of one forward."""
    no_split: tuple[str, ...] | None = None
    """The variable ``no_split_module_classes``; None leaves it to the model."""


def load_script(spec: str | Path, diagnostics: Diagnostics) -> nn.Module:
    """Return the model of ``model.py`` or ``model.py:factory``, on the meta device.

    Raises:
        PlanError: there is no such file, it fails, or what it offers is not one model.

    """
    return read_script(spec, diagnostics).model


def read_script(spec: str | Path, diagnostics: Diagnostics) -> Script:
    """Return what a script offers; see `load_script`."""
    path, attribute = split_spec(spec)
    text = _source_text(path, diagnostics)
    diagnostics.raise_errors()
    first = Diagnostics()
    script = _attempt(path, text, attribute, first, gentle=False)
    if any(needs_values(finding) for finding in first):
        second = Diagnostics()
        whole = _attempt(path, text, attribute, second, gentle=True)
        if (whole is not None and not second) or script is None:
            script, first = whole, second
    diagnostics.extend(first if script is None else map(_ended, first))
    diagnostics.raise_errors()
    assert script is not None  # noqa: S101  # it is missing only with an error
    return script


def _ended(failure: Diagnostic) -> Diagnostic:
    """Return the warning for what failed in a script behind the model it had built by then."""
    if failure.severity is not Severity.ERROR:
        return failure
    message = f"{failure.message}; its model had been built, and is planned as it was then"
    help_ = "put what uses the model under `if __name__ == '__main__':`"
    return replace(failure, rule=rules.SCRIPT_ENDED, message=message, help=help_)


def _source_text(path: Path, diagnostics: Diagnostics) -> str:
    rule: Rule
    try:
        if path.is_dir():
            rule, message = rules.UNKNOWN_INPUT, f"`{path}` is a folder, not a script"
        else:
            with path.open("rb") as stream:
                return importlib.util.decode_source(stream.read())
    except FileNotFoundError:
        rule, message = rules.MISSING_INPUT, f"there is no `{path}`"
    except OSError as error:
        diagnostics.add(unreadable_input(path, error))
        return ""
    except (SyntaxError, UnicodeDecodeError):
        rule, message = rules.SCRIPT_FAILED, f"`{path}` is not Python text"
    diagnostics.add(Diagnostic(rule, message))
    return ""


def _attempt(
    path: Path, text: str, attribute: str | None, diagnostics: Diagnostics, *, gentle: bool
) -> Script | None:
    from .meta_mode import weightless

    module = ModuleType(f"_script_{path.stem}")
    module.__file__ = str(path)
    with _as_the_script_expects(path, module), weightless(gentle=gentle):
        try:
            exec(compile(text, str(path), "exec", dont_inherit=True), module.__dict__)  # noqa: S102  # the user's own file
            found = _find(module, path, attribute, diagnostics)
            model = found() if found is not None else None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  # whatever the script raises is the script's
            model = _built(module, attribute)
            if model is None or not on_purpose(error):
                diagnostics.add(failed_script(error, path, text))
            return None if model is None else _script(module, path, model)
    if found is None:
        return None
    _check_model(model, path, diagnostics)
    return None if diagnostics.errors else _script(module, path, model)


def _built(module: ModuleType, attribute: str | None) -> nn.Module | None:
    """Return the one model that a script had built when it ended; None where there is none, or several."""
    from torch import nn

    offered = {name: each for name, each in vars(module).items() if isinstance(each, nn.Module)}
    wanted = [offered.get(attribute or "model")]
    if attribute is None and wanted == [None]:
        wanted = list({id(each): each for each in offered.values()}.values())
    model = wanted[0] if len(wanted) == 1 else None
    return model if model is not None and next(model.parameters(), None) is not None else None


@contextlib.contextmanager
def _as_the_script_expects(path: Path, module: ModuleType) -> Iterator[None]:
    """Give the script its folder on the path and its name in argv; its prints go to stderr.

    The path and the module stay afterwards, for what a forward imports late.
    """
    folder, here = str(path.resolve().parent), Path.cwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    sys.modules[module.__name__] = module
    argv, sys.argv = sys.argv, [str(path)]
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            yield
    finally:
        sys.argv = argv
        os.chdir(here)


def _find(
    module: ModuleType, path: Path, attribute: str | None, diagnostics: Diagnostics
) -> Callable[[], object] | None:
    """Return a function that makes the model; None when there is none, or more than one."""
    if attribute is not None:
        return _named(module, path, attribute, diagnostics)
    offered = vars(module)
    if "model" in offered:
        return _made(offered["model"], path, "model", diagnostics)
    candidates = _candidates(module)
    if len(candidates) == 1:
        return _made(offered[candidates[0]], path, candidates[0], diagnostics)
    if candidates:
        message = f"`{path}` offers {len(candidates)} models: {in_words(candidates, 6)}"
        help_ = f"name one: `{pasted(f'{path}:{candidates[0]}')}`"
        diagnostics.add(Diagnostic(rules.AMBIGUOUS_INPUT, message, help=help_))
        return None
    help_ = "add `model = ...` or `def build(): return ...`"
    diagnostics.add(Diagnostic(rules.NO_MODEL, f"`{path}` defines neither a model nor a factory", help=help_))
    return None


def _named(
    module: ModuleType, path: Path, attribute: str, diagnostics: Diagnostics
) -> Callable[[], object] | None:
    help_: str | None
    try:
        named = read_factory(attribute)
    except ValueError as error:
        help_ = f"write plain values, or `def build()` in `{path}` that makes the model"
        diagnostics.add(Diagnostic(rules.FACTORY_NEEDS_ARGUMENTS, str(error), help=help_))
        return None
    value: object = module
    for part in named.name.split("."):
        if not hasattr(value, part):
            names = [
                name for name, held in vars(module).items() if not name.startswith("_") and callable(held)
            ]
            help_ = _did_you_mean(named.name, names, path)
            message = f"`{path}` defines no `{named.name}`"
            diagnostics.add(Diagnostic(rules.NO_MODEL, message, help=help_))
            return None
        value = getattr(value, part)
    if named.called:
        return _called(value, path, named, diagnostics)
    return _made(value, path, named.name, diagnostics)


def _called(
    value: object, path: Path, named: NamedFactory, diagnostics: Diagnostics
) -> Callable[[], object] | None:
    """Return the call with the arguments that were written, once it is one the signature allows."""
    reason = None if callable(value) else "it is not callable"
    if callable(value):
        try:
            inspect.signature(value).bind(*named.args, **named.kwargs)
        except TypeError as error:
            reason = str(error)
        except ValueError:  # a builtin without a signature: the call itself will tell
            pass
        else:
            return partial(value, *named.args, **named.kwargs)
    if reason is None and callable(value):
        return partial(value, *named.args, **named.kwargs)
    message = f"`{named.name}` in `{path}` cannot be called like that: {reason}"
    takes = (
        f"it is `{named.name}{_signature(value)}`"
        if callable(value)
        else f"leave `(…)` out: `{path}:{named.name}`"
    )
    diagnostics.add(Diagnostic(rules.FACTORY_NEEDS_ARGUMENTS, message, help=takes))
    return None


def _signature(value: Callable[..., Any]) -> str:
    try:
        return str(inspect.signature(value))
    except (TypeError, ValueError):
        return "(…)"


def _did_you_mean(name: str, names: list[str], path: Path) -> str | None:
    from difflib import get_close_matches

    near = get_close_matches(name, names, n=1)
    return f"did you mean `{path}:{near[0]}`?" if near else None


def _candidates(module: ModuleType) -> list[str]:
    """Return the first kind of candidate there is: usual factories, models, own classes without arguments."""
    from torch import nn

    offered = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    own = {
        name: value for name, value in offered.items() if getattr(value, "__module__", "") == module.__name__
    }
    factories = [name for name in own if name in FACTORIES and inspect.isfunction(own[name])]
    models = [name for name, value in offered.items() if isinstance(value, nn.Module)]
    classes = [
        name for name, value in own.items() if _is_model_class(value) and not _missing_arguments(value)
    ]
    return factories or models or classes


def _is_model_class(value: object) -> bool:
    from torch import nn

    return isinstance(value, type) and issubclass(value, nn.Module)


def _made(value: object, path: Path, name: str, diagnostics: Diagnostics) -> Callable[[], object] | None:
    """Return how to get the model: as it is, or by a call; a class is built with its defaults."""
    from torch import nn

    if isinstance(value, nn.Module) or not callable(value):
        return lambda: value
    missing = _missing_arguments(value)
    if missing:
        message = f"`{name}` in `{path}` needs arguments: {missing}"
        first = missing.strip("`").partition("`")[0]
        help_ = (
            f"write them: `{pasted(f'{path}:{name}({first}=…)')}`, or add `def build(): return {name}(...)`"
        )
        diagnostics.add(Diagnostic(rules.FACTORY_NEEDS_ARGUMENTS, message, help=help_))
        return None
    return value


def _missing_arguments(value: Callable[..., Any]) -> str:
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return ""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]
    return in_words(needed, none="")


def _check_model(model: object, path: Path, diagnostics: Diagnostics) -> None:
    from torch import nn

    if not isinstance(model, nn.Module):
        kind = "None" if model is None else f"a `{type(model).__name__}`"
        if inspect.iscoroutine(model):
            model.close()
        help_ = "return the model from the factory" if model is None else "offer a `torch.nn.Module`"
        message = f"what `{path}` offers as the model is {kind}"
        diagnostics.add(Diagnostic(rules.NOT_A_MODEL, message, help=help_))
    elif next(model.parameters(), None) is None and next(model.buffers(), None) is None:
        inner = "no modules" if next(model.children(), None) is None else "no parameters and no buffers"
        message = f"the `{type(model).__name__}` of `{path}` has {inner}, so there is nothing to place"
        diagnostics.add(Diagnostic(rules.EMPTY_MODEL, message))


def _script(module: ModuleType, path: Path, model: Any) -> Script:  # noqa: ANN401
    no_split = getattr(module, "no_split_module_classes", None)
    classes = (
        (no_split,) if isinstance(no_split, str) else None if no_split is None else tuple(map(str, no_split))
    )
    return Script(model, path.stem, getattr(module, "example_inputs", None), classes)
