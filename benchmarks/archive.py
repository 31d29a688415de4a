"""What a question costs in a year of trades and among 5,000 tickers, beside other readers.

    python -m benchmarks.archive [questions chores] [--rounds 7] [--small] [--keep FOLDER]

Archives are built with the package's own writers. Every reader answers the same question and must
return as many rows; they take turns, and the median of the CPU time counts. ``--keep`` stores the
archives for the next run. The chores are those of ``benchmarks.archive_chores``.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import bench
from benchmarks.archive_chores import chores_table, measure_chores
from benchmarks.archive_readers import (
    Arctic,
    Arrow,
    DuckDb,
    Ours,
    Polars,
    Question,
    Reader,
    make_questions,
)
from benchmarks.peers import ARCTICDB, install

OURS = "stocktrace"
# A reader that needs longer answers once: its first answer counts.
_SLOW_S = 5.0
Times = dict[str, dict[str, float]]


def measure(questions: Sequence[Question], root: Path, rounds: int) -> Times:
    """Return the CPU time of each question and reader, in ms."""
    archives = list(dict.fromkeys(question.archive for question in questions))
    for archive in archives:
        bench.log(f"archive {archive.name}")
        archive.make()
    with contextlib.ExitStack() as stack:
        readers: dict[str, Reader] = {
            OURS: Ours(),
            "DuckDB, table": DuckDb(archives, root, table=True),
            "DuckDB, our files": DuckDb(archives, root, table=False),
            "polars, our files": Polars(),
            "pyarrow, our files": Arrow(),
        }
        if install([ARCTICDB]):
            readers["ArcticDB"] = stack.enter_context(Arctic(archives, root))
        return {question.title: ask(question, readers, rounds) for question in questions}


def ask(question: Question, readers: dict[str, Reader], rounds: int) -> dict[str, float]:
    """Return the median CPU time of each reader, in ms."""
    bench.log(question.title)
    first = {name: reader.ask(question) for name, reader in readers.items()}
    assert len({rows for _, rows in first.values()}) == 1, first
    times: dict[str, list[float]] = {
        name: [seconds] if seconds > _SLOW_S else [] for name, (seconds, _) in first.items()
    }
    for _ in range(rounds):
        for name, reader in readers.items():
            if first[name][0] <= _SLOW_S:
                times[name].append(reader.ask(question)[0])
    return {name: bench.median(values) * 1e3 for name, values in times.items()}


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=["questions", "chores", []])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    if not given.parts or "questions" in given.parts:
        _questions(given)
    if not given.parts or "chores" in given.parts:
        days = 25 if given.small else 250
        chores = measure_chores(days, given.rounds)
        print(chores_table(chores, days))
        bench.log(f"saved to {bench.save('archive-chores', chores)}")


def _questions(given: argparse.Namespace) -> None:
    with contextlib.ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="stocktrace-bench-")
        root = given.keep or Path(stack.enter_context(temporary))
        root.mkdir(parents=True, exist_ok=True)
        times = measure(make_questions(root, small=given.small), root, given.rounds)
    print(table(times))
    bench.log(f"saved to {bench.save('archive', times)}")


def table(times: Times) -> str:
    """Format the times, with the ratio of ours to each other's."""
    names = list(next(iter(times.values())))
    rows = [
        [
            title,
            f"{ms[OURS]:.3g} ms",
            *(f"{ms[name]:.3g} ms · {ms[OURS] / ms[name]:.2g}" for name in names[1:]),
        ]
        for title, ms in times.items()
    ]
    return bench.table(["CPU of", *names], rows)


if __name__ == "__main__":
    main()
