"""The questions that ``benchmarks.archive`` asks, and the readers that answer each."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from benchmarks import market
from benchmarks.archive_data import SESSION_MS, Archive, opening_ms
from benchmarks.peers import ARCTICDB
from stocktrace.query.bars import read_bars
from stocktrace.query.trades import read_trades
from stocktrace.trade import COLUMNS
from stocktrace.units import NS_PER_MS, utc_datetime

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000


@dataclass(frozen=True, slots=True)
class Question:
    """Trades of some tickers (none: of all) on ``dates`` of an archive, or their daily bars.

    ``begin`` and ``end`` are epoch ms; both are 0 if the dates are meant as a whole.
    """

    title: str
    archive: Archive
    dates: tuple[str, ...]
    symbol: str = ""
    begin: int = 0
    end: int = 0
    kind: Literal["trades", "bars"] = "trades"

    @property
    def bounds(self) -> tuple[int, int]:
        """The first time and the one after the last, epoch ms."""
        midnights = [opening_ms(day) // DAY_MS * DAY_MS for day in self.dates]
        return self.begin or midnights[0], self.end or midnights[-1] + DAY_MS

    @property
    def files(self) -> list[str]:
        """The files of its dates, as a user would name them."""
        folder = self.archive.layout.dataset
        if len(self.dates) == self.archive.days:
            return [f"{folder}/**/*.parquet"]
        return [f"{folder}/date={day}/*.parquet" for day in self.dates]


def make_questions(root: Path, *, small: bool) -> list[Question]:
    """Return the questions; ``small`` archives are for a trial."""
    scale = 10 if small else 1
    year = Archive(250 // scale, 100, 200, root)
    large = Archive(1, 4, 500_000 // scale, root)
    middle = Archive(1, 500, 4000 // scale, root)
    wide = Archive(1, 5000 // scale, 40, root)
    dates = year.dates
    day, ticker = dates[len(dates) // 2], year.symbols[50]
    today, noon = (dates[0],), opening_ms(dates[0]) + SESSION_MS // 2
    month = tuple(dates[:20])
    return [
        Question("one ticker, a day", year, (day,), ticker),
        Question(f"one ticker, {year.days} days", year, tuple(dates), ticker),
        Question("one of 4 large tickers, an hour", large, today, "ZAAD", noon, noon + HOUR_MS),
        Question("500 tickers, a minute", middle, today, "", noon, noon + MINUTE_MS),
        Question(f"{wide.tickers:,} tickers, an hour", wide, today, "", noon, noon + HOUR_MS),
        Question(f"{wide.tickers:,} tickers, a day", wide, today),
        Question(f"daily bars, 100 tickers, {len(month)} days", year, month, kind="bars"),
        Question(f"daily bars, {wide.tickers:,} tickers, a day", wide, today, kind="bars"),
    ]


class Reader(Protocol):
    """Answers questions."""

    def ask(self, question: Question) -> tuple[float, int]:
        """Return the CPU time of an answer, in seconds, and its number of rows."""


class Local:
    """A reader in this process."""

    def ask(self, question: Question) -> tuple[float, int]:
        """Return the CPU time of an answer, in seconds, and its number of rows."""
        began = time.process_time()
        rows = self.answer(question)
        return time.process_time() - began, rows

    def answer(self, question: Question) -> int:
        """Answer, and return the number of rows."""
        raise NotImplementedError


class Ours(Local):
    """``read_trades`` and ``read_bars``."""

    def answer(self, question: Question) -> int:
        """Answer as a user of the package would."""
        archive = question.archive
        tickers = [question.symbol] if question.symbol else archive.symbols
        root = archive.layout.root
        if question.kind == "trades" and not question.begin and len(question.dates) == 1:
            day = question.dates[0]
            return len(read_trades(tickers, date=day, backend="pyarrow", data_dir=root))
        span = [utc_datetime(ms * NS_PER_MS) for ms in question.bounds]
        if question.kind == "bars":
            return len(read_bars(tickers, "1d", *span, backend="pyarrow", data_dir=root))
        return len(read_trades(tickers, *span, backend="pyarrow", data_dir=root))


class DuckDb(Local):
    """DuckDB over its own table of the same rows in the same order, or over our files."""

    def __init__(self, archives: Sequence[Archive], root: Path, *, table: bool) -> None:
        self._table = table
        self._connection = duckdb.connect(str(root / "table.duckdb") if table else ":memory:")
        for archive in archives if table else ():
            self._connection.sql(
                f'CREATE TABLE IF NOT EXISTS "{archive.name}" AS SELECT {", ".join(COLUMNS)} '
                f"FROM read_parquet('{archive.layout.dataset}/**/*.parquet')"
            )
        if table:
            self._connection.sql("CHECKPOINT")

    def answer(self, question: Question) -> int:
        """Answer by SQL."""
        begin, end = question.bounds
        names = ", ".join(COLUMNS)
        source = f'"{question.archive.name}"'
        if not self._table:
            source = f"read_parquet({question.files}, hive_partitioning=true)"
        conditions = [f"symbol = '{question.symbol}'"] if question.symbol else []
        if question.begin or self._table:
            conditions += [
                f"ts_event >= TIMESTAMPTZ '{utc_datetime(begin * NS_PER_MS)}'",
                f"ts_event < TIMESTAMPTZ '{utc_datetime(end * NS_PER_MS)}'",
            ]
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        if question.kind == "bars":
            query = (
                "SELECT symbol, date_trunc('day', ts_event) AS start, arg_min(price, ts_event), "
                "max(price), min(price), arg_max(price, ts_event), sum(volume), count(*), "
                f"sum(price * volume) / sum(volume) FROM {source} {where} GROUP BY symbol, start "
                "ORDER BY symbol, start"
            )
        else:
            query = f"SELECT {names} FROM {source} {where}"
        return len(self._connection.sql(query).to_arrow_table())


class Polars(Local):
    """Polars over our files."""

    def answer(self, question: Question) -> int:
        """Answer by a lazy frame."""
        lazy = pl.scan_parquet(question.files, hive_partitioning=True)
        if question.symbol:
            lazy = lazy.filter(pl.col("symbol") == question.symbol)
        if question.begin:
            begin, end = (utc_datetime(ms * NS_PER_MS) for ms in question.bounds)
            lazy = lazy.filter(pl.col("ts_event") >= begin, pl.col("ts_event") < end)
        if question.kind == "trades":
            return len(lazy.select(COLUMNS).collect())
        start = pl.col("ts_event").dt.truncate("1d").alias("start")
        price, volume = pl.col("price"), pl.col("volume")
        bars = lazy.group_by("symbol", start).agg(
            price.first().alias("open"),
            price.max().alias("high"),
            price.min().alias("low"),
            price.last().alias("close"),
            volume.sum().alias("volume"),
            pl.len(),
            ((price * volume).sum() / volume.sum()).alias("vwap"),
        )
        return len(bars.sort("symbol", "start").collect())


class Arrow(Local):
    """``pyarrow.dataset`` over our files."""

    def answer(self, question: Question) -> int:
        """Answer by a filtered scan."""
        folder = question.archive.layout.dataset
        dataset = ds.dataset(folder, partitioning="hive")
        condition = pc.scalar(value=True)
        if len(question.dates) < question.archive.days:
            condition = pc.field("date").isin(list(question.dates))
        if question.symbol:
            condition &= pc.field("symbol") == question.symbol
        if question.begin:
            begin, end = (pa.scalar(ms, pa.timestamp("ms", "UTC")) for ms in question.bounds)
            condition &= (pc.field("ts_event") >= begin) & (pc.field("ts_event") < end)
        table = dataset.to_table(columns=list(COLUMNS), filter=condition)
        if question.kind == "trades":
            return len(table)
        start = pc.floor_temporal(table["ts_event"], unit="day")
        table = table.append_column("start", start).append_column(
            "turnover", pc.multiply(table["price"], table["volume"])
        )
        prices = [("price", name) for name in ("first", "max", "min", "last")]
        sums = [("volume", "sum"), ("volume", "count"), ("turnover", "sum")]
        bars = table.group_by(["symbol", "start"], use_threads=False).aggregate([*prices, *sums])
        return len(bars.sort_by([("symbol", "ascending"), ("start", "ascending")]))


class Arctic:
    """ArcticDB, in a process of its own: one of its symbols for each ticker; a context manager."""

    def __init__(self, archives: Sequence[Archive], root: Path) -> None:
        """Load the archives, unless they are loaded."""
        self._process = subprocess.Popen(
            # By its path: ArcticDB brings a package that is called "benchmarks", too.
            [ARCTICDB.python, market.ROOT / "benchmarks/peer/arctic.py", str(root / "arctic")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for archive in archives:
            self._call({"load": str(archive.layout.dataset), "library": archive.name})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def _call(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request, default=str) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def ask(self, question: Question) -> tuple[float, int]:
        """Return the CPU time of an answer, in seconds, and its number of rows."""
        symbols = [question.symbol] if question.symbol else question.archive.symbols
        request = {
            "library": question.archive.name,
            "symbols": symbols,
            "bounds": question.bounds,
            "bars": question.kind == "bars",
        }
        answer = self._call(request)
        return answer["cpu"], answer["rows"]
