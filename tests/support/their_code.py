"""Single functions of packages that cannot run here whole: read from what is installed, never kept here."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest


def installed(package):
    """Return the folder of a package, which is not imported; skip where it is not installed."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"`{package}` is not installed (pip install --no-deps {package.replace('_', '-')})")
    return Path(next(iter(spec.submodule_search_locations)))


def their_definition(package, file, name, **known):
    """Return one function or class of a file; ``known`` is what it uses of the rest of its module."""
    parsed = ast.parse((installed(package) / file).read_text())
    (found,) = (node for node in parsed.body if getattr(node, "name", None) == name)
    future = ast.parse("from __future__ import annotations").body
    space = dict(known)
    exec(compile(ast.Module([*future, found], []), file, "exec"), space)  # noqa: S102  # theirs, as installed
    return space[name]


def their_options(package, *patterns):
    """Return the options of a command: what `add_argument` is given, and fields of classes of arguments."""
    folder, found = installed(package), set()
    for file in (path for pattern in patterns for path in folder.glob(pattern)):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("--"):
                found.add(node.value)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add("--" + node.target.id.replace("_", "-"))
    return found
