"""Python as it is without the libraries named in ``HIDDEN``: put this folder on ``PYTHONPATH``.

HIDDEN="gguf peft" PYTHONPATH="$PWD/tests/support/hidden" pytest
"""

from __future__ import annotations

import os
from importlib.machinery import PathFinder

_NAMES = frozenset(os.environ.get("HIDDEN", "").split())
_find = PathFinder.find_spec


@classmethod
def _find_unless_hidden(_cls, name, path=None, target=None):
    return None if name.partition(".")[0] in _NAMES else _find(name, path, target)


PathFinder.find_spec = _find_unless_hidden
