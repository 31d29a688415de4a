"""The cost of reading one hour of one ticker out of a day of four, before and after compaction.

    python benchmarks/read.py [--trades 2000000] [--windows 39]

A synthetic day of the US session (prices walk in cents, one receive time per frame) is published
as files of ten minutes, read, compacted, and read again: by ``read_trades``, and by readers that do
not know stocktrace. Times are the best of several, in ms; the ratio is to reading the whole day.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from stocktrace.query.bars import read_bars
from stocktrace.query.trades import read_trades
from stocktrace.store import compaction
from stocktrace.store.arrow_schema import TRADE_SCHEMA
from stocktrace.store.conversion import write_window_file
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId

DATE = "2026-11-20"
OPENS_MS = 1_795_185_000_000  # 14:30 UTC
SESSION_MS = 23_400_000
TICKERS = ("AAPL", "MSFT", "NVDA", "SPY")
HOUR = (f"{DATE}T16:00Z", f"{DATE}T17:00Z")
TRADES_A_FRAME = 4


def publish(layout: Layout, trades: int, windows: int) -> None:
    """Publish four tickers with the same number of trades each."""
    tables = []
    for seed, ticker in enumerate(TICKERS):
        dice = np.random.default_rng(seed)
        count = trades // len(TICKERS)
        happened = OPENS_MS + np.sort(dice.integers(0, SESSION_MS, count))
        frames = np.arange(count) // TRADES_A_FRAME * TRADES_A_FRAME
        arrived = happened[frames] * 1000 + 60_000 + dice.integers(0, 900, count)[frames]
        price = np.round(200 + np.cumsum(dice.choice([-0.01, 0, 0, 0.01], count)), 2)
        volume = dice.choice([1.0, 5.0, 10.0, 50.0, 100.0, 100.0, 200.0, 300.0], count)
        codes = pa.array(["1", "1 12", "1 8", "1 8 12"]).take(pa.array(dice.integers(0, 4, count)))
        table = pa.Table.from_arrays(
            [
                pa.repeat(ticker, count),
                pa.array(happened).cast(TRADE_SCHEMA.types[1]),
                pa.array(arrived).cast(TRADE_SCHEMA.types[2]),
                pa.array(price),
                pa.array(volume),
                codes,
            ],
            schema=TRADE_SCHEMA,
        )
        tables.append(table)
    layout.date_folder(DATE).mkdir(parents=True)
    for number in range(windows):
        part = WindowId(f"{DATE.replace('-', '')}T142958Z_3f9a1c", _window(number, windows))
        begin, end = (count * at // windows for at in (number, number + 1))
        chunks = [table.slice(begin, end - begin) for table in tables]
        write_window_file(layout.window_file(part), part, chunks, sum(map(len, chunks)))


def _window(number: int, windows: int) -> str:
    seconds = (OPENS_MS + SESSION_MS * number // windows) // 1000
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(seconds))}_{number + 1:05}"


def best(run: Callable[[], int], times: int = 9) -> tuple[float, int]:
    """Return the shortest of several runs in ms, and the number of rows that it returned."""
    rows, shortest = 0, float("inf")
    for _ in range(times):
        began = time.perf_counter()
        rows = run()
        shortest = min(shortest, time.perf_counter() - began)
    return shortest * 1e3, rows


def count_duckdb(query: str) -> int:
    """Run a query in DuckDB. Return the number of rows."""
    relation = duckdb.sql(query)
    assert relation is not None
    return len(relation.to_arrow_table())


def readers(layout: Layout) -> dict[str, tuple[Callable[[], int], Callable[[], int]]]:
    """Return for each reader how it reads the whole day, and one hour of one ticker."""
    root, folder = layout.root, layout.dataset
    files = f"read_parquet('{folder}/**/*.parquet', hive_partitioning=true)"
    first, last = (pl.lit(each).str.to_datetime(time_zone="UTC") for each in HOUR)
    within = [pc.cast(pa.scalar(each), pa.timestamp("ms", "UTC")) for each in HOUR]
    condition = (
        (pc.field("symbol") == "SPY")
        & (pc.field("ts_event") >= within[0])
        & (pc.field("ts_event") < within[1])
    )
    lazy = pl.col("ts_event")

    def ours(backend: str) -> tuple[Callable[[], int], Callable[[], int]]:
        return (
            lambda: len(read_trades(TICKERS, date=DATE, backend=backend, data_dir=root)),  # type: ignore[arg-type]
            lambda: len(read_trades("SPY", *HOUR, backend=backend, data_dir=root)),  # type: ignore[arg-type]
        )

    return {
        "read_trades, pandas": ours("pandas"),
        "read_trades, pyarrow": ours("pyarrow"),
        "read_trades, polars": ours("polars"),
        "pyarrow.dataset": (
            lambda: len(ds.dataset(folder, partitioning="hive").to_table()),
            lambda: len(ds.dataset(folder, partitioning="hive").to_table(filter=condition)),
        ),
        "DuckDB": (
            lambda: count_duckdb(f"SELECT * FROM {files}"),
            lambda: count_duckdb(
                f"SELECT * FROM {files} WHERE symbol = 'SPY' AND ts_event >= '{HOUR[0]}' "
                f"AND ts_event < '{HOUR[1]}'"
            ),
        ),
        "polars": (
            lambda: len(pl.scan_parquet(folder, hive_partitioning=True).collect()),
            lambda: len(
                pl.scan_parquet(folder, hive_partitioning=True)
                .filter(pl.col("symbol") == "SPY", lazy >= first, lazy < last)
                .collect()
            ),
        ),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trades", type=int, default=2_000_000)
    parser.add_argument("--windows", type=int, default=39)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        layout = Layout(Path(name))
        publish(layout, options.trades, options.windows)
        _report(layout, f"files of {options.windows} windows")
        assert compaction.compact_date(layout, DATE) is not None
        _report(layout, "compacted")


def _report(layout: Layout, what: str) -> None:
    files = list(layout.dataset.rglob("*.parquet"))
    size = sum(path.stat().st_size for path in files)
    print(f"{what}: {len(files)} files, {size:,} bytes")
    counts = set()
    for name, (day, hour) in readers(layout).items():
        whole, rows = best(day)
        part, hour_rows = best(hour)
        counts.add((rows, hour_rows))
        print(f"  {name:22} day {whole:8.1f} ms   hour of SPY {part:7.1f} ms   {part / whole:.3f}")
    assert len(counts) == 1, counts
    bars, rows = best(lambda: len(read_bars(TICKERS, "1m", date=DATE, data_dir=layout.root)))
    print(f"  {'read_bars, 1m':22} day {bars:8.1f} ms   {rows} bars")


if __name__ == "__main__":
    main()
