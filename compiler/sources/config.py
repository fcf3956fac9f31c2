"""A model from a folder with a transformers ``config.json``, built on the meta device.

Nothing is downloaded. Code that came with the configuration is imported only when that is allowed.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...ir import Diagnostic, Diagnostics, PlanError, Rule
from ...ir.rules.configs import CONFIG_FAILED, INVALID_CONFIG, QUANTISED_CONFIG, REMOTE_CODE_REFUSED
from ...ir.rules.sources import MISSING_EXTRA, MISSING_INPUT
from ...ir.wording import first_line
from .config_numbers import nested_dtype
from .foreign_json import read_foreign_json
from .regular import unreadable_input
from .script_errors import reads_values
from .unpacking import method_of

if TYPE_CHECKING:
    from torch import nn

_SAVED: Final = "use the file saved with the model"
_UPDATE: Final = "check its config.json, or update transformers"
_COUNTS: Final = (
    (re.compile(r"(?:^|_)n?(?:layers?|blocks|stages|codebooks|quantizers)(?:$|_per_)"), 10_000),
    (re.compile(r"(?:^|_)(?<!max_)(?<!min_)depths?$"), 10_000),
    (re.compile(r"(?:^|_)experts$"), 1 << 20),
    (re.compile(r"^num_labels$"), 1_000_000),
)
"""Numbers of modules and names that are made one by one, and more than any model has.

A name that goes on tells something else of a layer, such as a width. Experts may be the rows of one table,
up to a million, and the depth of a picture is a distance.
"""


def build_from_config(
    path: str | Path,
    *,
    trust_remote_code: bool = False,
    dtype: str | None = None,
    auto_class: Any = None,  # noqa: ANN401
    attention: str | None = None,
) -> nn.Module:
    """Return the transformers model a configuration describes, without weights.

    ``path`` is a ``config.json`` or the folder that holds one; ``dtype`` is that of the weights, None leaves
    it to the configuration; ``auto_class`` is built in place of the class the configuration names, with the
    part of the configuration that is its own; ``attention`` is transformers' name of an implementation.

    Raises:
        PlanError: no configuration, transformers is missing or refuses, or foreign code is not allowed.

    """
    folder = _folder(Path(path))
    content = _content(folder / "config.json")
    transformers = _transformers()
    kind = str(content.get("model_type", ""))
    foreign = "auto_map" in content and kind not in transformers.CONFIG_MAPPING
    if foreign and not trust_remote_code:
        message = f"`{folder}` describes a `{kind}` model with code of its own, which was not run"
        help_ = "read its Python files, then add `--trust-remote-code`"
        raise _error(REMOTE_CODE_REFUSED, message, help_)
    try:
        said = {"dtype": dtype or nested_dtype(content), "attn_implementation": attention}
        model = _build(transformers, folder, content, said, auto_class, trust=foreign)
    except Exception as error:
        message = f"transformers {transformers.__version__} cannot build the model of `{folder}`"
        raise _error(CONFIG_FAILED, message, _UPDATE, (first_line(error, 300),)) from error
    return model


def warn_of_quantised(path: str | Path, diagnostics: Diagnostics) -> None:
    """Warn where the weights that a configuration describes are quantised: a model without weights is not."""
    folder = _folder(Path(path))
    method = method_of(_content(folder / "config.json"))
    if method is None:
        return
    message = f"the weights of `{folder}` are quantised ({method}), and are counted as if they were not"
    help_ = "with the weights beside it the bytes are exact; without, `--dtype int4` or `int8` comes near"
    diagnostics.add(Diagnostic(QUANTISED_CONFIG, message, help=help_))


def config_path(path: str | Path) -> Path:
    """Return the file with the configuration; raises `PlanError` where there is none."""
    return _folder(Path(path)) / "config.json"


def _folder(path: Path) -> Path:
    folder = path if path.is_dir() else path.parent
    if not path.exists() or not (folder / "config.json").exists():
        raise _error(MISSING_INPUT, f"there is no config.json in `{folder}`", _SAVED)
    return folder


def check_config(folder: Path) -> None:
    """Raise `PlanError` for a config.json that is there and cannot be read: it says what headers do not."""
    if (folder / "config.json").exists():
        _json(folder / "config.json")


def _content(path: Path) -> dict[str, Any]:
    content = _json(path)
    if not isinstance(content, dict) or not isinstance(content.get("model_type"), str):
        raise _error(INVALID_CONFIG, f"`{path}` has no `model_type`", _SAVED)
    odd = next(_odd_values(content), None)
    if odd is not None:
        raise _error(INVALID_CONFIG, f"`{path}` says {odd}, which no model has", _SAVED)
    return content


def _odd_values(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what would make building never end, or transformers look for a type that is no name."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _odd_values(value)
        if key == "model_type" and not isinstance(value, str | None):
            yield f"`model_type` is {str(value)[:40]}"
        most = next((most for pattern, most in _COUNTS if pattern.search(key)), None)
        listed = value if isinstance(value, list) else [value]
        if most is not None and any(isinstance(each, int | float) and each > most for each in listed):
            yield f"`{key}` is {str(value)[:40]}"


def _json(path: Path) -> object:
    try:
        return read_foreign_json(path)
    except OSError as error:
        raise PlanError([unreadable_input(path, error)]) from None
    except (ValueError, RecursionError) as error:
        raise _error(INVALID_CONFIG, f"`{path}` is not JSON: {error}", _SAVED) from None


def _transformers() -> Any:  # noqa: ANN401
    try:
        import transformers
    except ImportError:
        message = "building a model from its config.json needs transformers"
        raise _error(MISSING_EXTRA, message, "run `pip install 'compile-plan[hub]'`") from None
    return transformers


def _build(
    transformers: Any,  # noqa: ANN401
    folder: Path,
    content: dict[str, Any],
    said: dict[str, str | None],
    auto_class: Any,  # noqa: ANN401  # a class of transformers, or None
    *,
    trust: bool,
) -> nn.Module:
    """Build the class the configuration names, or the one transformers has for its type."""
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust)
    options: dict[str, Any] = {name: word for name, word in said.items() if word is not None}
    match content.get("architectures"):
        case _ if auto_class is not None:
            build = getattr(auto_class, "from_config", None) or auto_class._from_config  # noqa: SLF001
            own = getattr(auto_class, "config_class", None)
            if own is not None and not isinstance(config, own):  # the text part of a model of more
                config = own.from_pretrained(folder, local_files_only=True)
        case [str(name), *_] if not trust and (kind := _class_named(transformers, config, name)) is not None:
            build = kind._from_config  # noqa: SLF001  # what from_config of the auto classes calls
        case _:
            build = _auto_class(transformers, config).from_config
            options["trust_remote_code"] = trust
    return built_weightless(lambda: build(config, **options))


def _class_named(transformers: Any, config: Any, name: str) -> Any:  # noqa: ANN401
    """Return a class of transformers, also one that only the file beside its configuration has; else None."""
    home = type(config).__module__.replace(".configuration_", ".modeling_")
    if hasattr(transformers, name) or not home.startswith("transformers."):
        return getattr(transformers, name, None)
    try:
        return getattr(importlib.import_module(home), name, None)
    except ImportError:
        return None


def built_weightless(build: Callable[[], nn.Module]) -> nn.Module:
    """Build on meta, and in the gentler mode what computes small values while it is built."""
    from .meta_mode import weightless

    try:
        with weightless(gentle=False):
            return build()
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        if not reads_values(error):
            raise
    with weightless(gentle=True):
        return build()


def _auto_class(transformers: Any, config: Any) -> Any:  # noqa: ANN401
    causal = transformers.AutoModelForCausalLM
    mapping = getattr(causal, "_model_mapping", {})
    return causal if type(config) in mapping else transformers.AutoModel


def _error(rule: Rule, message: str, help_: str | None = None, notes: tuple[str, ...] = ()) -> PlanError:
    return PlanError((Diagnostic(rule, message, notes=notes, help=help_),))
