"""How tests are shared out among processes: what a file makes once for its tests is made by one of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

SHARED = 'scope="module"'


class SharedFixtures(LoadScopeScheduling):
    """Keep the tests of a file with a fixture of its module together, largest files first; spread the rest.

    Fixtures of the hosts, say, start processes of their own and take most of a minute: one is enough.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if shares(self.config.rootpath / file) else nodeid

    def mark_test_complete(self, node: WorkerController, item_index: int, duration: float = 0) -> None:
        """Forget what is done: all that is left is counted after each of thousands of tests."""
        super().mark_test_complete(node, item_index, duration)
        scope = self._split_scope(self.registered_collections[node][item_index])
        if all(self.assigned_work[node][scope].values()):
            del self.assigned_work[node][scope]


@cache
def shares(file: Path) -> bool:
    """Tell whether a test file has a fixture that is made once for all its tests."""
    return file.suffix == ".py" and SHARED in file.read_text(encoding="utf-8")
