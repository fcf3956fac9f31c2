"""compile-plan: a declarative placement-plan compiler for PyTorch models.

None of its parts (`compiler`, `backends`, `grammar`, `ir`) is imported here, so that the text and header
paths stay light.
"""

from __future__ import annotations

from pkgutil import extend_path

# Started in a clone, Python finds the clone's folder of this name first: the parts are in the installed one.
__path__ = extend_path(__path__, __name__)

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    """Return the installed version: looked up when asked for, since that reads the package's metadata."""
    if name == "__version__":
        from importlib.metadata import version

        return version("compile-plan")
    msg = f"module `compile_plan` has no attribute `{name}`"
    raise AttributeError(msg)
