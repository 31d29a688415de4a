"""Archives for the benchmarks: days of trades as stocktrace keeps them, and what surrounds them.

Each date is one compacted file, written by the package's own writer, as if a session of ten-minute
windows had been captured. Prices walk in cents; trades of four come in one frame.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks import market
from stocktrace import marks
from stocktrace.record.coverage import CoverageBuilder
from stocktrace.record.file_hashes import hash_files
from stocktrace.record.journal import new_report, report_gaps
from stocktrace.sessions.report import Books, TickerBooks
from stocktrace.sessions.status import CaptureStatus, StatusFile
from stocktrace.settings import Settings
from stocktrace.store.arrow_schema import FILE_SCHEMA, TRADE_SCHEMA
from stocktrace.store.audit import AuditLog
from stocktrace.store.checksum import Content, hash_tables
from stocktrace.store.coverage import write_coverage
from stocktrace.store.layout import Layout
from stocktrace.store.lock import hold_lock
from stocktrace.store.names import WindowId, compact_utc
from stocktrace.store.tape import TapeWriter, archive_tape
from stocktrace.store.trade_file import DATE_FORMAT, write_trade_files
from stocktrace.units import MS_PER_SECOND, NS_PER_MS, NS_PER_SECOND, US_PER_MS, utc_datetime

WINDOWS = 39
#: From 14:30 to 21:00 UTC, as New York trades in winter.
SESSION_MS = 23_400_000
FIRST_DATE = date(2025, 1, 2)
_FRAME_TRADES = 4
_LATENCY_MS = 60
_CODES = ("1", "1 12", "1 8", "1 8 12")


@dataclass(frozen=True, slots=True)
class Archive:
    """``days`` weekdays of ``tickers``, each with ``trades`` a day, in a folder."""

    days: int
    tickers: int
    trades: int
    root: Path = Path()

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.days}x{self.tickers}x{self.trades}"

    @property
    def symbols(self) -> list[str]:
        """Its tickers, sorted."""
        return _tickers(self.tickers)

    @property
    def dates(self) -> list[str]:
        """Its dates."""
        days = (FIRST_DATE + timedelta(n) for n in range(2 * self.days + 2))
        return [day.isoformat() for day in days if day.weekday() < 5][: self.days]

    @property
    def layout(self) -> Layout:
        """Its data folder."""
        return Layout(self.root / self.name)

    def make(self) -> None:
        """Write it, unless it is there."""
        done = self.layout.root / "done"
        if not done.exists():
            for seed, day in enumerate(self.dates):
                write_day(self.layout, day, make_trades(self, day, seed))
            done.touch()


# A reader's time must not contain the making of thousands of names.
_tickers = functools.cache(market.tickers)


def opening_ms(day: str) -> int:
    """Return when the session of a date opens, epoch ms."""
    opening = datetime.fromisoformat(day).replace(hour=14, minute=30, tzinfo=UTC)
    return int(opening.timestamp()) * MS_PER_SECOND


def make_trades(archive: Archive, day: str, seed: int) -> pa.Table:
    """Make the trades of a date (``TRADE_SCHEMA``), by ticker, and in the order of arrival."""
    dice, shape = np.random.default_rng(seed), (archive.tickers, archive.trades)
    count = archive.tickers * archive.trades
    happened = opening_ms(day) + np.sort(dice.integers(0, SESSION_MS - 1000, shape), axis=1)
    frames = np.minimum(
        np.arange(archive.trades) // _FRAME_TRADES * _FRAME_TRADES + _FRAME_TRADES - 1,
        archive.trades - 1,
    )
    stamps = (happened + _LATENCY_MS) * US_PER_MS + dice.integers(0, 900, shape)
    steps = dice.choice([-0.01, 0, 0, 0.01], shape)
    starts = np.linspace(20, 400, archive.tickers)[:, np.newaxis]
    price = np.round(starts + np.cumsum(steps, axis=1) / 10, 2)
    volume = dice.choice([1.0, 5.0, 10.0, 50.0, 100.0, 100.0, 200.0, 300.0], count)
    codes = pa.array(dice.integers(0, len(_CODES), count))
    symbols = pa.array(np.repeat(np.arange(archive.tickers), archive.trades))
    columns = [
        pa.array(archive.symbols).take(symbols),
        pa.array(happened.ravel()).cast(TRADE_SCHEMA.field("ts_event").type),
        pa.array(stamps[:, frames].ravel()).cast(TRADE_SCHEMA.field("ts_recv").type),
        pa.array(price.ravel()),
        pa.array(volume),
        pa.array(_CODES).take(codes),
    ]
    return pa.Table.from_arrays(columns, schema=TRADE_SCHEMA)


def session_of(day: str) -> str:
    """Return the session that captured a date of an archive."""
    return f"{day.replace('-', '')}T142958Z_3f9a1c"


def windows_of(day: str) -> list[WindowId]:
    """Return the windows of that session."""
    width = SESSION_MS // WINDOWS
    stamps = ((opening_ms(day) + at * width) * NS_PER_MS for at in range(WINDOWS))
    return [
        WindowId(session_of(day), f"{compact_utc(stamp)}_{number:05}")
        for number, stamp in enumerate(stamps, 1)
    ]


def split_windows(day: str, trades: pa.Table) -> tuple[pa.Array, dict[WindowId, pa.Table]]:
    """Return the number of each trade's window, and the trades of each window."""
    received = trades["ts_recv"].cast("int64").to_numpy() // US_PER_MS - opening_ms(day)
    numbers = np.clip(received * WINDOWS // SESSION_MS, 0, WINDOWS - 1) + 1
    rows = {
        window: trades.take(pa.array(np.flatnonzero(numbers == window.number)))
        for window in windows_of(day)
    }
    return pa.array(numbers.astype(np.int32)), rows


def write_day(layout: Layout, day: str, trades: pa.Table) -> None:
    """Write the compacted file of a date, and all that its session left."""
    numbers, rows = split_windows(day, trades)
    windows = {window: hash_tables([table]) for window, table in rows.items()}
    folder = layout.date_folder(day)
    folder.mkdir(parents=True)
    table = pa.Table.from_arrays(
        [*trades.columns, pa.repeat(session_of(day), len(trades)), numbers], schema=FILE_SCHEMA
    )
    path = folder / "day-00001.parquet"
    write_trade_files([path], [table], lambda: windows, rows=len(table), form=DATE_FORMAT)
    counts = trades["symbol"].value_counts().to_pylist()
    tickers = {count["values"]: count["counts"] for count in counts}
    write_session(layout, day, tickers, windows, path.stat().st_size)


def write_session(
    layout: Layout, day: str, counts: dict[str, int], windows: dict[WindowId, Content], size: int
) -> None:
    """Write the tapes (without frames), report, coverage, status, lock and log of a session."""
    session, tickers = session_of(day), tuple(counts)
    begin = opening_ms(day) * NS_PER_MS
    end = begin + SESSION_MS * NS_PER_MS
    lost = begin + SESSION_MS // 2 * NS_PER_MS
    again = lost + 3 * NS_PER_SECOND
    events: list[marks.Mark] = [
        marks.OpeningMark(begin, session=session, connected=False, tickers=tickers),
        marks.ConnectedMark(begin + NS_PER_SECOND, tickers),
        marks.GapMark(again, lost, "the connection was reset"),
        marks.ConnectedMark(again, tickers),
        marks.EndedMark(end),
    ]
    coverage, audit = CoverageBuilder(), AuditLog(layout.audit, session)
    settings = Settings.load(data_dir=layout.root).public()
    report = new_report(session, tickers, begin, settings)
    audit("start", tickers=tickers, settings=settings)
    with _tape(layout, next(iter(windows))) as tape:
        for event in events:
            tape.append_mark(event)
            coverage.add(event)
            audit(event.name, **event.facts)
    for window, content in windows.items():
        rows = content.rows
        books = Books(frames=rows, trade_frames=rows, trades=rows, recorded=rows)
        report.windows[window.window] = books
        report.books.add(books)
        audit("roll", window=window.window, trades=rows)
        audit("convert", window=window.window, rows=rows)
    last = utc_datetime(end)
    for ticker, rows in counts.items():
        report.per_ticker[ticker] = TickerBooks(rows, rows, 0, rows, last)
    report.state, report.reason, report.ended = "complete", "its end time was reached", last
    report.files, report.size, report.gaps = len(windows), size, report_gaps(coverage)
    hash_files(layout, report, write_coverage(layout, session, coverage.intervals))
    report.write(layout.report(session))
    audit("end", state=report.state, reason=report.reason, books=report.books)
    with hold_lock(layout.lock(session), {"session": session}):
        seconds = SESSION_MS / MS_PER_SECOND
        rows = report.books.recorded
        status = CaptureStatus(
            *(session, False, seconds, 0.0, rows, 0, 1, 60.0, tickers, counts),
            state="ended",
            recorded=rows,
            final_state="complete",
        )
        StatusFile(layout.status(session)).write(status)


@contextlib.contextmanager
def _tape(layout: Layout, window: WindowId) -> Iterator[TapeWriter]:
    tape = TapeWriter(layout.tape(window))
    yield tape
    tape.close()
    archive_tape(layout.tape(window), layout.archived_tape(window))
