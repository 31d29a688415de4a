"""The tail reads every recorded row once, whenever reading starts and wherever files move."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stocktrace.clock import Clock, Deadline
from stocktrace.dashboard import csv_tail, tail
from stocktrace.dashboard.chart import GrowingBars
from stocktrace.dashboard.rows import TickerRows
from stocktrace.dashboard.tail import SessionTail
from stocktrace.errors import ConversionError
from stocktrace.maintenance.compact import compact_days
from stocktrace.record.journal import new_report
from stocktrace.sessions.report import Books
from stocktrace.simulator import ScriptedSource, SyntheticMarket, synthetic_frames
from stocktrace.store import compaction, parquet
from stocktrace.store.conversion import convert_window
from stocktrace.store.dataset import window_files
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.segments import HEADER
from stocktrace.store.trade_file import DATE_FORMAT, TradeFileReader
from tests.conftest import NOON, SESSION, Scenario, Studio, all_of, connected, published, trades

PART = WindowId(SESSION, "20261123T143000Z_00001")
NEXT = WindowId(SESSION, "20261123T143001Z_00002")
# When the day of these windows has ended.
TOMORROW = Clock(wall=lambda: NOON + 86_400 * 10**9)


def line(price: int, ticker: str = "A") -> bytes:
    return (
        f"{ticker},2026-11-23 14:30:00.123Z,2026-11-23 14:30:00.200000Z,{price},100,1\n"
    ).encode()


class Reader:
    """Reads a session and keeps the prices."""

    def __init__(self, layout: Layout, session: str, tickers: Sequence[str]) -> None:
        self.tail = SessionTail(layout, session, tickers)
        self.prices: dict[str, list[float]] = defaultdict(list)
        self.bars = GrowingBars()

    def read(self) -> list[float]:
        """Read what is new. Return the prices."""
        prices: list[float] = []
        for rows in self.tail.read(Deadline.after(60)):
            self.prices[rows.ticker] += rows.price.tolist()
            self.bars.add(rows)
            prices += rows.price.tolist()
        return prices

    def read_until(self, done: Callable[[], bool]) -> None:
        """Read until ``done`` returns True, and once more."""
        ended = False
        while not ended:
            ended = done()
            self.read()
            while self.tail.is_behind:
                self.read()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    layout.csv("A", PART).parent.mkdir(parents=True)
    # A report names a window before it is published.
    report = new_report(SESSION, ["A"], NOON, {})
    report.state = "complete"
    report.windows = {PART.window: Books()}
    report.write(layout.report(SESSION))
    return layout


@pytest.fixture
def reader(layout: Layout) -> Reader:
    return Reader(layout, SESSION, ["A"])


def write(layout: Layout, part: WindowId, *lines: bytes, ticker: str = "A") -> Path:
    path = layout.open_csv(ticker, part)
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as file:
        file.write((b"" if file.tell() else HEADER) + b"".join(lines))
    return path


def seal(layout: Layout, part: WindowId, ticker: str = "A") -> Path:
    return layout.open_csv(ticker, part).rename(layout.csv(ticker, part))


def publish(layout: Layout, part: WindowId) -> None:
    seal(layout, part)
    convert_window(layout, part)


def test_rows_are_read_as_they_are_appended(layout: Layout, reader: Reader) -> None:
    assert reader.read() == []
    write(layout, PART, line(1), line(2))
    assert reader.read() == [1, 2]
    assert reader.read() == []
    write(layout, PART, line(3))
    assert reader.read() == [3]


def test_an_incomplete_line_waits_for_its_rest(layout: Layout, reader: Reader) -> None:
    write(layout, PART, line(1), line(234)[:-30])
    assert reader.read() == [1]
    write(layout, PART, line(234)[-30:])
    assert reader.read() == [234]


def test_half_a_header_is_not_a_row(layout: Layout, reader: Reader) -> None:
    layout.open_csv("A", PART).write_bytes(HEADER[:10])
    assert reader.read() == []
    layout.open_csv("A", PART).write_bytes(HEADER + line(1))
    assert reader.read() == [1]


@pytest.mark.parametrize("seen", range(4))
@pytest.mark.parametrize("state", ["open", "sealed", "published", "compacted"])
def test_a_window_that_is_sealed_published_or_compacted_is_read_once(
    layout: Layout, reader: Reader, seen: int, state: str
) -> None:
    write(layout, PART, *(line(n) for n in range(seen)))
    assert reader.read() == list(range(seen))
    write(layout, PART, *(line(n) for n in range(seen, 4)))
    if state != "open":
        seal(layout, PART)
        if state != "sealed":
            convert_window(layout, PART)
        if state == "compacted":
            compact_days(layout, clock=TOMORROW)
        write(layout, NEXT, line(9))
    rest = [9] if state != "open" else []
    assert reader.read() == [*range(seen, 4), *rest]
    assert reader.read() == []


def test_windows_published_between_two_reads_are_read_from_parquet(
    layout: Layout, reader: Reader
) -> None:
    write(layout, PART, line(1))
    reader.read()
    for number in range(2, 6):
        part = WindowId(SESSION, f"20261123T14300{number}Z_0000{number}")
        write(layout, part, line(number))
        publish(layout, part)
    publish(layout, PART)
    assert reader.read() == [2, 3, 4, 5]


def test_a_window_that_is_rebuilt_from_its_tape_is_read_from_where_reading_stopped(
    layout: Layout, reader: Reader
) -> None:
    write(layout, PART, line(1), line(2))
    write(layout, NEXT, line(9))
    assert reader.read() == [1, 2], "the next window waits: this one is not complete"
    layout.open_csv("A", PART).unlink()
    write(layout, PART, line(1))
    assert reader.read() == []
    write(layout, PART, line(2), line(3))
    seal(layout, PART)
    assert reader.read() == [3, 9]


def test_the_tail_waits_for_a_window_that_is_missing_for_a_moment(
    layout: Layout, reader: Reader
) -> None:
    write(layout, PART, line(1), line(2))
    write(layout, NEXT, line(9))
    assert reader.read() == [1, 2]
    layout.open_csv("A", PART).unlink()
    assert reader.read() == []
    write(layout, PART, line(1), line(2), line(3))
    assert reader.read() == [3]
    seal(layout, PART)
    assert reader.read() == [9]


def test_a_window_that_appears_after_the_next_one_loses_no_row(
    layout: Layout, reader: Reader
) -> None:
    write(layout, NEXT, line(9))
    assert reader.read() == [9]
    write(layout, PART, line(1))
    seal(layout, PART)
    write(layout, NEXT, line(10))
    assert reader.read() == [1, 10]


def test_rows_of_other_sessions_are_not_read(layout: Layout, reader: Reader) -> None:
    other = WindowId("20261123T142957Z_000000", PART.window)
    write(layout, other, line(7))
    publish(layout, other)
    write(layout, PART, line(1))
    assert reader.read() == [1]


def test_a_published_window_is_opened_once_for_all_tickers(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    tickers = [f"T{number:03}" for number in range(200)]
    for part in (PART, NEXT):
        for ticker in tickers:
            write(layout, part, line(part.number, ticker), ticker=ticker)
            seal(layout, part, ticker)
        convert_window(layout, part)
    opened: list[Any] = []
    listed: list[str] = []

    def open_file(source: Any, *given: Any, **options: Any) -> pq.ParquetFile:
        opened.append(source)
        return pq.ParquetFile(source, *given, **options)

    def list_files(layout: Layout, date: str, session: str) -> list[Path]:
        listed.append(date)
        return window_files(layout, date, session)

    monkeypatch.setattr(parquet, "pq", SimpleNamespace(ParquetFile=open_file))
    monkeypatch.setattr(tail, "window_files", list_files)
    monkeypatch.setattr(csv_tail, "_SETTLED_NS", 0)
    reader = Reader(layout, SESSION, tickers)
    reader.read()
    assert reader.prices == {ticker: [1, 2] for ticker in tickers}
    assert reader.read() == []
    assert len(opened) == len([PART, NEXT])
    assert listed == ["2026-11-23"]


def test_rows_that_were_read_from_csv_are_not_decoded_again(
    layout: Layout, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(layout, PART, line(1))
    assert reader.read() == [1]
    publish(layout, PART)
    monkeypatch.delattr(TradeFileReader, "read")
    assert reader.read() == []
    assert not reader.tail.is_behind


@pytest.mark.parametrize("is_compacted", [False, True])
def test_a_ticker_that_is_added_late_has_the_windows_that_were_read_before(
    layout: Layout, reader: Reader, is_compacted: bool
) -> None:
    for number, ticker in enumerate("AB"):
        write(layout, PART, line(number, ticker), ticker=ticker)
        seal(layout, PART, ticker)
    convert_window(layout, PART)
    assert reader.read() == [0]
    if is_compacted:
        compact_days(layout, clock=TOMORROW)
    reader.tail.add_tickers(["B"])
    assert reader.read() == [1]
    assert reader.read() == []


def test_a_date_of_several_files_is_read_in_steps(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "MAX_BYTES", 1)
    monkeypatch.setattr(tail, "_ROWS", 2)
    other = WindowId("20261123T142957Z_000000", PART.window)
    for part in (PART, NEXT, other):
        for number, ticker in enumerate("ABC"):
            write(layout, part, *[line(10 * part.number + number, ticker)] * 2, ticker=ticker)
            seal(layout, part, ticker)
        convert_window(layout, part)
    with monkeypatch.context() as patch:
        small = replace(DATE_FORMAT, group_rows=3)
        patch.setattr(compaction, "DATE_FORMAT", small)
        compact_days(layout, clock=TOMORROW)
    assert len(list(layout.dataset.glob("*/*.parquet"))) > 2
    reader = Reader(layout, SESSION, "ABC")
    steps = [reader.read()]
    while reader.tail.is_behind:
        steps.append(reader.read())
    assert max(map(len, steps)) <= 4
    assert reader.prices == {
        ticker: [10 + number, 10 + number, 20 + number, 20 + number]
        for number, ticker in enumerate("ABC")
    }


def test_a_compaction_while_files_are_read_repeats_and_loses_no_row(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "_ROWS", 1)
    for part in (PART, NEXT):
        for ticker in "AB":
            write(layout, part, line(part.number, ticker), ticker=ticker)
            seal(layout, part, ticker)
        convert_window(layout, part)
    reader = Reader(layout, SESSION, "AB")
    assert reader.read() == [1]
    compact_days(layout, clock=TOMORROW)
    reader.read_until(lambda: True)
    assert reader.prices == {"A": [1, 2], "B": [1, 2]}


def test_a_damaged_file_is_an_error_and_no_row_is_read_twice(
    layout: Layout, reader: Reader
) -> None:
    for part in (PART, NEXT):
        write(layout, part, line(part.number))
        publish(layout, part)
    damaged = layout.window_file(NEXT)
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1])
    for _ in range(2):
        with pytest.raises(ConversionError, match="cannot be read"):
            reader.read()
        assert reader.prices == {"A": [1]}
    damaged.write_bytes(content)
    assert reader.read() == [2]


def test_trades_that_make_no_price_are_counted() -> None:
    us = pa.timestamp("us", "UTC")
    table = pa.table(
        {
            "ts_event": pa.array([1_000, 1_000, 2_000], pa.timestamp("ms", "UTC")),
            "ts_recv": pa.array([1_500_000, 1_600_000, 2_500_000], us),
            "price": [10.0, 99.0, 11.0],
            "volume": [1.0, 2.0, 4.0],
            "conditions": ["1", "12", "16"],
        }
    )
    bars = GrowingBars()
    (rows,) = TickerRows.split(table, [("AAPL", 3, None)])
    bars.add(rows)
    assert bars.bars(1).to_rows() == [
        (1, 10.0, 10.0, 10.0, 10.0, 3.0, 2),
        (2, None, None, None, None, 0.0, 1),
    ]
    assert bars.bars(5).to_rows() == [(0, 10.0, 10.0, 10.0, 10.0, 3.0, 3)]
    assert rows.lag_ms.tolist() == [500.0, 600.0, 500.0]


TICKERS = ("AAPL", "MSFT", "7203", "BINANCE:BTCUSDT", "a..b")


@pytest.fixture
def readers(studio: Studio) -> Callable[[str], Reader]:
    layout = Layout(studio.data_dir)
    return lambda session: Reader(layout, session, TICKERS)


def check(reader: Reader, studio: Studio, count: int, *, in_order: bool) -> None:
    wanted = {name: [row[1] for row in rows] for name, rows in published(studio.data_dir).items()}
    assert {name: len(prices) for name, prices in reader.prices.items()} == {
        name: len(prices) for name, prices in wanted.items()
    }
    for name, prices in reader.prices.items():
        # A window that was rebuilt from the tape completely is read when it appears.
        assert (prices if in_order else sorted(prices)) == (
            wanted[name] if in_order else sorted(wanted[name])
        )
    assert reader.bars.trades == count
    for seconds in (1, 5, 60):
        assert int(reader.bars.bars(seconds).trades.sum()) == count


def record_and_read(
    studio: Studio, source: ScriptedSource | SyntheticMarket, middle: int, **given: Any
) -> None:
    """Capture with three readers: one starts before, one in the middle, one at the end."""
    over = threading.Event()
    found: list[Reader] = []
    threads: list[threading.Thread] = []
    layout = Layout(studio.data_dir)

    def begin(session: str) -> None:
        reader = Reader(layout, session, TICKERS)
        found.append(reader)
        threads.append(threading.Thread(target=reader.read_until, args=(over.is_set,)))
        threads[-1].start()

    with studio.exchange(source) as simulator:

        def scenario() -> Scenario:
            yield connected
            begin(studio.statuses[-1].session)
            yield trades(middle)
            begin(studio.statuses[-1].session)
            yield all_of(simulator)

        try:
            report = studio.record(simulator, TICKERS, scenario(), lasting=60, **given)
        finally:
            over.set()
            for thread in threads:
                thread.join(60)
    found.append(Reader(layout, report.session, TICKERS))
    found[-1].read_until(lambda: True)
    assert report.state == "complete" or report.balanced
    assert len(report.windows) > 1, "there must have been rolls"
    for reader in found:
        check(reader, studio, report.books.recorded, in_order=not report.spilled)


def test_readers_that_start_before_during_or_after_a_capture_count_every_row(
    studio: Studio,
) -> None:
    frames = list(synthetic_frames(TICKERS, 16_000, seed=11))
    record_and_read(studio, ScriptedSource(frames), 8_000, roll_size="200KB", flush_interval="50ms")


def test_tickers_that_were_rebuilt_from_the_tape_are_counted_once(
    studio: Studio,
) -> None:
    frames = list(synthetic_frames(TICKERS, 16_000, seed=12))
    spilling: dict[str, Any] = {
        "max_pending_rows_per_ticker": "100",
        "max_pending_rows": "1000",
        "roll_size": "200KB",
    }
    record_and_read(studio, ScriptedSource(frames), 8_000, **spilling)


@pytest.mark.slow
def test_rolls_of_two_and_a_half_seconds_lose_nothing(studio: Studio) -> None:
    market = SyntheticMarket(seed=3, rate=4000, trades=60_000)
    record_and_read(studio, market, 25_000, roll_interval="2500ms")
