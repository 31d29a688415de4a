"""Which worker runs which tests, and in which order: what is long comes first.

A file is run by one worker, as what it has made once is shared. So is all of ``tests/flows``, which
shares a Prefect server: it takes 7 s of CPU to start, and Prefect 2 s to import.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

SHARING = "tests/flows/"
#: These are there and start servers of their own.
ALONE = ("tests/flows/test_lost_worker.py", "tests/flows/test_turn.py")
#: By their beginning, the longest first; all others come after them.
FIRST = (
    *ALONE,
    SHARING,
    "tests/dashboard/",
    "tests/cli/",
    "tests/importing/",
    "tests/test_faults/",
)


def rank(nodeid: str) -> int:
    """Where a test comes."""
    places = (at for at, begin in enumerate(FIRST) if nodeid.startswith(begin))
    return next(places, len(FIRST))


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Hands out files, and those of ``SHARING`` as if they were one."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return SHARING if path.startswith(SHARING) and path not in ALONE else path


def scheduling(config: pytest.Config, log: Any) -> Scheduling:
    """In the order of collection; xdist itself would go by the number of tests."""
    config.option.loadscopereorder = False
    return Scheduling(config, log)
