"""The cost of reading one hour of one ticker out of a day of four, before and after compaction.

    python -m benchmarks.read [--trades 2000000]

A synthetic day is published as files of ten minutes, read, compacted, and read again: by
``read_trades``, and by readers that do not know stocktrace. Times are CPU, the best of several, in
ms; the ratio is to reading the whole day.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.archive_data import (
    SESSION_MS,
    Archive,
    make_trades,
    opening_ms,
    split_windows,
)
from benchmarks.archive_readers import HOUR_MS, Arrow, DuckDb, Local, Ours, Polars, Question
from stocktrace.query.bars import read_bars
from stocktrace.query.trades import Backend, read_trades
from stocktrace.store.compaction import compact_date
from stocktrace.store.conversion import write_window_file
from stocktrace.units import NS_PER_MS, utc_datetime


class AsFrame(Ours):
    """``read_trades`` with a backend other than pyarrow."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def answer(self, question: Question) -> int:
        """Read trades."""
        tickers = [question.symbol] if question.symbol else question.archive.symbols
        span = [utc_datetime(ms * NS_PER_MS) for ms in question.bounds]
        root = question.archive.layout.root
        return len(read_trades(tickers, *span, backend=self._backend, data_dir=root))


class Bars(Local):
    """``read_bars``, of a minute each."""

    def answer(self, question: Question) -> int:
        """Read bars; the number of trades is not theirs."""
        archive = question.archive
        tickers = [question.symbol] if question.symbol else archive.symbols
        span = [utc_datetime(ms * NS_PER_MS) for ms in question.bounds]
        return len(read_bars(tickers, "1m", *span, data_dir=archive.layout.root))


def publish(archive: Archive) -> None:
    """Publish the day as windows."""
    (day,) = archive.dates
    layout = archive.layout
    for window, table in split_windows(day, make_trades(archive, day, 0))[1].items():
        path = layout.window_file(window)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_window_file(path, window, [table], len(table))


def report(archive: Archive, what: str, times: int = 9) -> None:
    """Measure and print."""
    (day,) = archive.dates
    files = list(archive.layout.dataset.rglob("*.parquet"))
    print(f"{what}: {len(files)} files, {sum(path.stat().st_size for path in files):,} bytes")
    noon = opening_ms(day) + SESSION_MS // 2
    whole = Question("the day", archive, (day,))
    hour = Question("an hour", archive, (day,), archive.symbols[-1], noon, noon + HOUR_MS)
    readers: dict[str, Local] = {
        "read_trades, pandas": AsFrame("pandas"),
        "read_trades, pyarrow": AsFrame("pyarrow"),
        "read_trades, polars": AsFrame("polars"),
        "pyarrow.dataset": Arrow(),
        "DuckDB": DuckDb([archive], archive.root, table=False),
        "polars": Polars(),
        "read_bars, 1m": Bars(),
    }
    for name, reader in readers.items():
        shortest = [
            min(reader.ask(question) for _ in range(times))[0] * 1e3 for question in (whole, hour)
        ]
        ratio = shortest[1] / shortest[0]
        print(f"  {name:22} day {shortest[0]:8.1f} ms   hour {shortest[1]:7.1f} ms   {ratio:.3f}")


def main() -> None:
    """Publish, compact and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trades", type=int, default=2_000_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stocktrace-bench-") as name:
        archive = Archive(1, 4, given.trades // 4, Path(name))
        publish(archive)
        report(archive, "files of windows")
        assert compact_date(archive.layout, archive.dates[0]) is not None
        report(archive, "compacted")


if __name__ == "__main__":
    main()
