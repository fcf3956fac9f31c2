"""A test that needs a library nobody has to install is left out where it is missing, and says which."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

OPTIONAL = {"accelerate", "diffusers", "gguf", "interegular", "lsprotocol", "peft", "pygls", "transformers"}
TESTS = Path(__file__).parent.parent


def missing_extra(error):
    """Return the library a test itself failed to import; None for all else.

    What compile-plan imports does not count: a missing extra has to be a diagnostic there.
    """
    while error is not None and not isinstance(error, ModuleNotFoundError):
        error = error.__cause__
    name = (getattr(error, "name", None) or "").partition(".")[0]
    if name not in OPTIONAL:
        return None
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    importer = next((file for file in reversed(frames) if not file.startswith("<frozen")), "")
    return name if Path(importer).is_relative_to(TESTS) else None


def skip_without_extra(error):
    """Skip the module or the test that a missing library stops."""
    name = missing_extra(error)
    if name is not None:
        pytest.skip(f"{name} is not installed", allow_module_level=True)


class Module(pytest.Module):
    """A test file whose imports may be of optional libraries."""

    def _getobj(self):
        try:
            return super()._getobj()
        except self.CollectError as error:
            skip_without_extra(error)
            raise
