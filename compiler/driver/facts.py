"""What planning needs to know of a model beside its forward, read off the model once.

Facts are plain data, so they can be kept: what only a configuration describes need not be built twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from ...ir import Diagnostic, ModuleTree
from ..sources.checkpoint import read_config
from ..sources.config_numbers import in_dtype_of
from ..sources.described_models import described_model, table_version

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model as plans see it."""

    name: str
    """The class."""
    tree: ModuleTree
    """The modules and tensors as they will be once weights are loaded."""
    listed: tuple[str, ...]
    """Classes the model itself says are never split."""
    declared: frozenset[str]
    """Those that any model inside it says so of, whether it has them or not."""
    whole: tuple[str, ...]
    """Classes of torch's own that read the weights of their children."""
    called_as_one: tuple[str, ...]
    """Paths of modules that are whole by how they are called."""
    described: bool
    """Whether a transformers configuration says what to put in."""
    config: Mapping[str, object]
    """That configuration; empty where there is none."""
    configured: bool
    """Whether it has a configuration of any kind."""
    parts: tuple[str, ...] = ()
    """Of a pipeline, its parts."""
    busiest: tuple[str, ...] = ()
    """Of a pipeline, the parts that are called in every step."""
    findings: tuple[Diagnostic, ...] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """A model and its facts, each made when somebody asks for it, once."""

    model: Callable[[], nn.Module]
    """Asked for where a forward must be run."""
    facts: Callable[[], ModelFacts]
    """Raises `PlanError` for what cannot be planned."""
    dtype: str | None = None
    """What its weights are loaded as, where that was asked for and the facts heed it."""


def known(model: nn.Module) -> Known:
    """Return a live model as what is known of it."""
    return Known(lambda: model, cache(lambda: facts_of(model)))


def built_when_asked(facts: ModelFacts, build: Callable[[], nn.Module]) -> Known:
    """Return what is known of a model that is built when somebody asks for it."""
    return Known(cache(build), lambda: facts)


def described_facts(config: Path, dtype: str | None = None) -> ModelFacts | None:
    """Return the facts of a configuration whose class is in a table, in a dtype; None where it is not.

    The table holds for one version of transformers: another may build another model.
    """
    try:
        if version("transformers") != table_version():
            return None
    except PackageNotFoundError:
        return None
    found = described_model(in_dtype_of(read_config(config), dtype))
    return None if found is None else ModelFacts(
        name=found.name,
        tree=found.tree,
        listed=found.kind.listed,
        declared=frozenset(found.kind.declared),
        whole=(),
        called_as_one=(),
        described=True,
        config=found.config,
        configured=True,
    )  # fmt: skip


def facts_of(model: nn.Module) -> ModelFacts:
    """Read the facts off a live model; raises `PlanError` for what cannot be planned."""
    from ..running.kinds import whole_classes
    from ..sources.kept_dtypes import loaded_tree
    from ..sources.live import declared_classes, no_split_classes, untied
    from ..sources.pipelines import Parts, whole_by_structure

    tree = loaded_tree(model)
    warning = untied(model, tree)
    config = getattr(model, "config", None)
    return ModelFacts(
        name=type(model).__name__,
        tree=tree,
        listed=no_split_classes(model),
        declared=declared_classes(model),
        whole=whole_classes(model),
        called_as_one=tuple(whole_by_structure(model)),
        described=hasattr(config, "model_type"),
        config=_configuration(config),
        configured=hasattr(model, "config"),
        parts=tuple(name for name, _ in model.named_children()) if isinstance(model, Parts) else (),
        busiest=model.busiest if isinstance(model, Parts) else (),
        findings=() if warning is None else (warning,),
    )


def _configuration(config: object) -> Mapping[str, object]:
    to_dict = getattr(config, "to_dict", None)
    content = to_dict() if callable(to_dict) else None
    return content if isinstance(content, dict) else {}
