"""Models that configurations describe, remembered: what a plan needs of them is kept in a cache folder.

Opening torch and transformers takes seconds, a configuration read twice describes the same model. A file is
kept under what decides its content: the bytes of the configuration, the versions of the two libraries, and
this compiler's own sources. One that is damaged is as good as none. ``COMPILE_PLAN_NO_CACHE=1`` keeps and
reads nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...backends.msgpack_file import decode, encode_plan
from ...backends.whole_files import write_whole
from ...ir import RULES, Diagnostic, Model, Plan, PlanError
from .facts import Known, ModelFacts, built_when_asked, facts_of

if TYPE_CHECKING:
    from torch import nn

MOST_KEPT: Final = 64
"""Models; the one that was used longest ago goes first."""
_LARGEST: Final = 1 << 26
"""Bytes of a file that is kept or read: a tree of a million modules is smaller."""
_LARGEST_CONFIG: Final = 1 << 20
_LIBRARIES: Final = ("torch", "transformers")
_OWN_SOURCES: Final = Path(__file__).parent.parent
_OFF: Final = "COMPILE_PLAN_NO_CACHE"


def cache_folder() -> Path:
    """Return where models are kept: under ``XDG_CACHE_HOME``, or ``~/.cache``."""
    folder = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return Path(folder) / "compile-plan" / "models"


def remembered_model(config: Path, build: Callable[[], nn.Module], dtype: str | None = None) -> Known:
    """Return the model of a ``config.json``, which is built only where it is new or must be run.

    ``dtype`` is what it is built in if not what the file says.

    Raises:
        PlanError: it is new, and cannot be built.

    """
    path = _kept_at(config, dtype)
    facts = None if path is None else _read(path)
    if facts is not None:
        return built_when_asked(facts, build)
    model = build()
    facts = facts_of(model)
    if path is not None:
        _keep(facts, path)
    return built_when_asked(facts, lambda: model)


def _kept_at(config: Path, dtype: str | None) -> Path | None:
    """Return the file for a configuration; None where what it describes is not decided by what is known here.

    Code that came with a folder may be anything, and so may a library that somebody is working on.
    """
    if os.environ.get(_OFF, "0") != "0":
        return None
    try:
        if not config.is_file() or config.stat().st_size > _LARGEST_CONFIG:
            return None
        content = config.read_bytes()
        versions = [version(name) for name in _LIBRARIES]
    except (OSError, ValueError, PackageNotFoundError):
        return None
    if b'"auto_map"' in content or any("dev" in each for each in versions):
        return None
    digest = hashlib.sha256("\n".join([*versions, dtype or "", sys.version, *_own_stamps()]).encode())
    digest.update(content)
    return cache_folder() / f"{digest.hexdigest()[:32]}.facts"


def _own_stamps() -> Iterator[str]:
    """Yield what changes with the sources that facts are made by."""
    for path in sorted(
        (*_OWN_SOURCES.glob("sources/*.py"), Path(__file__), Path(__file__).with_name("facts.py"))
    ):
        found = path.stat()
        yield f"{path.name} {found.st_size} {found.st_mtime_ns}"


def _read(path: Path) -> ModelFacts | None:
    try:
        if path.stat().st_size > _LARGEST:
            return None
        checksum, _, body = path.read_bytes().partition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != checksum:
            return None
        facts = _decoded(body)
        os.utime(path)
    except (OSError, PlanError, ValueError, TypeError, KeyError):
        return None
    return facts


def _keep(facts: ModelFacts, path: Path) -> None:
    """Write facts beside what is kept already; a folder that cannot be written to keeps nothing."""
    try:
        body = _encoded(facts)
    except (PlanError, TypeError, ValueError):
        return  # its configuration is no plain data
    if len(body) > _LARGEST:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(hashlib.sha256(body).hexdigest().encode() + b"\n" + body, path)
        _forget_oldest(path.parent)


def _forget_oldest(folder: Path) -> None:
    kept = sorted(folder.glob("*.facts"), key=lambda each: each.stat().st_mtime_ns)
    for path in kept[: max(len(kept) - MOST_KEPT, 0)]:
        path.unlink(missing_ok=True)


def _encoded(facts: ModelFacts) -> bytes:
    told: dict[str, Any] = asdict(replace(facts, tree=None, findings=()))  # type: ignore[arg-type]
    told["declared"] = sorted(facts.declared)
    told["findings"] = [(each.rule.code, each.message, each.help) for each in facts.findings]
    plan = Plan(model=Model(facts.name, facts.tree.digest), tree=facts.tree)
    return json.dumps(told).encode() + b"\n" + encode_plan(plan)


def _decoded(body: bytes) -> ModelFacts:
    head, _, packed = body.partition(b"\n")
    told = json.loads(head)
    tree = decode(packed).tree
    if tree is None:
        raise ValueError(packed[:8])
    lists = {name: tuple(told[name]) for name in ("listed", "whole", "called_as_one", "busiest")}
    findings = tuple(Diagnostic(RULES[code], text, help=help_) for code, text, help_ in told["findings"])
    return ModelFacts(
        **{**told, **lists, "tree": tree, "declared": frozenset(told["declared"]), "findings": findings}
    )
