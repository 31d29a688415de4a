"""Story 70: a power cut takes what was not synced, and nothing else."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence

import pytest

from tests.crash_states.explorer import Recorded, explore, load_runs, record_runs

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Recorded]:
    work = tmp_path_factory.mktemp("power")
    record_runs(work)
    return load_runs(work)


def test_70_a_power_cut_costs_only_what_was_not_synced(runs: Sequence[Recorded]) -> None:
    tally = explore(runs, range(100), seed=70)
    assert tally.failures == []
    assert len(tally.distinct) > 80


def test_70_the_thread_of_the_feed_never_waits_for_the_disk(runs: Sequence[Recorded]) -> None:
    operations = runs[0].disk.operations
    written = Counter(
        each.thread
        for each in operations
        if each.call == "write" and each.what.partition(" ")[0].endswith(".tape")
    )
    ((feed, _),) = written.most_common(1)
    assert {each.call for each in operations if each.thread == feed} == {"openat", "write"}
