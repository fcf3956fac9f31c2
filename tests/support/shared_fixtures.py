"""How tests are shared out among processes: what a file makes once for its tests is made by one of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

SHARED = 'scope="module"'


class SharedFixtures(LoadScopeScheduling):
    """Keep the tests of a file with a fixture of its module together, largest files first; spread the rest.

    Fixtures of the hosts, say, start processes of their own and take most of a minute: one is enough.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if shares(self.config.rootpath / file) else nodeid


@cache
def shares(file: Path) -> bool:
    """Tell whether a test file has a fixture that is made once for all its tests."""
    return file.suffix == ".py" and SHARED in file.read_text(encoding="utf-8")
