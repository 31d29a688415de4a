"""Explores; see the package."""

from __future__ import annotations

import argparse
import itertools
import shutil
import tempfile
import time
from pathlib import Path

from tests.crash_states.explorer import explore, load_runs, record_runs
from tests.crash_states.runs import RUNS

_SHOWN = 20


def main() -> None:
    """Record the runs, unless a recording is named, explore, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--states", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="explore this state only")
    parser.add_argument("--recording", type=Path, help="the folder that a failure named")
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=RUNS)
    given = parser.parse_args()
    work = given.recording or Path(tempfile.mkdtemp(prefix="crash-states-", dir=_memory()))
    if given.recording is None:
        record_runs(work, given.runs)
    runs = load_runs(work)
    for run in runs:
        print(f"{run.name}: {len(run.disk.operations):,} operations")
    began = time.process_time()
    states = range(given.states) if given.only is None else [given.only]
    tally = explore(runs, states, given.seed)
    print(
        f"{tally.states.total():,} states, {len(tally.distinct):,} of them different, "
        f"{time.process_time() - began:.0f} s of CPU"
    )
    for failure in tally.failures[:_SHOWN]:
        print(failure)
    if given.only is not None:
        print(*itertools.chain.from_iterable(tally.choices), sep="\n")
    if tally.failures:
        raise SystemExit(
            f"{len(tally.failures):,} failures. What one of them had lost: python -m "
            f"tests.crash_states --recording {work} --seed {given.seed} --only STATE"
        )
    if given.recording is None:
        shutil.rmtree(work)


def _memory() -> str | None:
    """A folder in memory, where there is one: what a disk does is modelled."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


main()
