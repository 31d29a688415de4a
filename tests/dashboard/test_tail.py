"""The tail: every recorded row is given once, whenever reading begins and whatever moves on."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from stocktrace.clock import Clock, Deadline
from stocktrace.dashboard.bars import GrowingBars
from stocktrace.dashboard.rows import TickerRows
from stocktrace.dashboard.tail import SessionTail
from stocktrace.maintenance.compact import compact_days
from stocktrace.record.journal import new_report
from stocktrace.sessions.report import Books
from stocktrace.simulator import ScriptedSource, SyntheticMarket, synthetic_frames
from stocktrace.store import parquet
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.segments import HEADER
from tests.conftest import NOON, SESSION, Scenario, Studio, all_of, connected, published, trades

PART = WindowId(SESSION, "20261123T143000Z_00001")
NEXT = WindowId(SESSION, "20261123T143001Z_00002")
# When the day of the windows above is over.
TOMORROW = Clock(wall=lambda: NOON + 86_400 * 10**9)


def line(price: int, ticker: str = "A") -> bytes:
    return (
        f"{ticker},2026-11-23 14:30:00.123Z,2026-11-23 14:30:00.200000Z,{price},100,1\n"
    ).encode()


class Reader:
    """Looks, and keeps the prices that it was given."""

    def __init__(self, layout: Layout, session: str, tickers: Sequence[str]) -> None:
        self.tail = SessionTail(layout, session, tickers)
        self.prices: dict[str, list[float]] = defaultdict(list)
        self.bars = GrowingBars()

    def look(self) -> list[float]:
        """The prices that came."""
        rows = list(self.tail.read(Deadline.after(60)))
        for each in rows:
            self.prices[each.ticker] += each.price.tolist()
            self.bars.add(each)
        return [price for each in rows for price in each.price.tolist()]

    def look_until(self, done: Callable[[], bool]) -> None:
        """Look again and again; once more when it is done."""
        ended = False
        while not ended:
            ended = done()
            self.look()
            while self.tail.is_behind:
                self.look()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    layout.csv("A", PART).parent.mkdir(parents=True)
    # A report names a window before anything of it is published.
    report = new_report(SESSION, ["A"], NOON, {})
    report.state = "complete"
    report.windows = {PART.window: Books()}
    report.write(layout.report(SESSION))
    return layout


@pytest.fixture
def reader(layout: Layout) -> Reader:
    return Reader(layout, SESSION, ["A"])


def write(layout: Layout, part: WindowId, *lines: bytes) -> Path:
    path = layout.open_csv("A", part)
    with path.open("ab") as file:
        file.write((b"" if file.tell() else HEADER) + b"".join(lines))
    return path


def seal(layout: Layout, part: WindowId) -> Path:
    return layout.open_csv("A", part).rename(layout.csv("A", part))


def test_rows_are_given_as_they_are_appended(layout: Layout, reader: Reader) -> None:
    assert reader.look() == []
    write(layout, PART, line(1), line(2))
    assert reader.look() == [1, 2]
    assert reader.look() == []
    write(layout, PART, line(3))
    assert reader.look() == [3]


def test_an_incomplete_line_waits_for_its_rest(layout: Layout, reader: Reader) -> None:
    write(layout, PART, line(1), line(234)[:-30])
    assert reader.look() == [1]
    write(layout, PART, line(234)[-30:])
    assert reader.look() == [234]


def test_half_a_header_is_no_row(layout: Layout, reader: Reader) -> None:
    layout.open_csv("A", PART).write_bytes(HEADER[:10])
    assert reader.look() == []
    layout.open_csv("A", PART).write_bytes(HEADER + line(1))
    assert reader.look() == [1]


@pytest.mark.parametrize("seen", range(4))
@pytest.mark.parametrize("state", ["open", "sealed", "published", "compacted"])
def test_a_window_that_moves_on_is_given_once(
    layout: Layout, reader: Reader, seen: int, state: str
) -> None:
    write(layout, PART, *(line(n) for n in range(seen)))
    assert reader.look() == list(range(seen))
    write(layout, PART, *(line(n) for n in range(seen, 4)))
    if state != "open":
        sealed = seal(layout, PART)
        if state != "sealed":
            parquet.publish_segment(layout, sealed)
        if state == "compacted":
            compact_days(layout, clock=TOMORROW)
        write(layout, NEXT, line(9))
    rest = [9] if state != "open" else []
    assert reader.look() == [*range(seen, 4), *rest]
    assert reader.look() == []


def test_windows_that_came_and_went_between_two_looks_are_had_from_parquet(
    layout: Layout, reader: Reader
) -> None:
    write(layout, PART, line(1))
    reader.look()
    for number in range(2, 6):
        part = WindowId(SESSION, f"20261123T14300{number}Z_0000{number}")
        write(layout, part, line(number))
        parquet.publish_segment(layout, seal(layout, part))
    parquet.publish_segment(layout, seal(layout, PART))
    assert reader.look() == [2, 3, 4, 5]


def test_a_window_that_is_rebuilt_from_its_tape_is_read_on_where_it_was_left(
    layout: Layout, reader: Reader
) -> None:
    write(layout, PART, line(1), line(2))
    write(layout, NEXT, line(9))
    assert reader.look() == [1, 2], "the next window waits: this one is not whole"
    layout.open_csv("A", PART).unlink()
    write(layout, PART, line(1))
    assert reader.look() == []
    write(layout, PART, line(2), line(3))
    seal(layout, PART)
    assert reader.look() == [3, 9]


def test_a_window_that_is_nowhere_for_a_moment_is_waited_for(
    layout: Layout, reader: Reader
) -> None:
    write(layout, PART, line(1), line(2))
    write(layout, NEXT, line(9))
    assert reader.look() == [1, 2]
    layout.open_csv("A", PART).unlink()
    assert reader.look() == []
    write(layout, PART, line(1), line(2), line(3))
    assert reader.look() == [3]
    seal(layout, PART)
    assert reader.look() == [9]


def test_a_window_that_shows_only_after_the_next_one_costs_no_row(
    layout: Layout, reader: Reader
) -> None:
    write(layout, NEXT, line(9))
    assert reader.look() == [9]
    write(layout, PART, line(1))
    seal(layout, PART)
    write(layout, NEXT, line(10))
    assert reader.look() == [1, 10]


def test_other_sessions_are_left_alone(layout: Layout, reader: Reader) -> None:
    other = WindowId("20261123T142957Z_000000", PART.window)
    write(layout, other, line(7))
    parquet.publish_segment(layout, seal(layout, other))
    write(layout, PART, line(1))
    assert reader.look() == [1]


def test_trades_that_make_no_price_are_counted_all_the_same() -> None:
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
    (rows,) = TickerRows.part(table, [("AAPL", 3, None)])
    bars.add(rows)
    assert bars.every(1).rows() == [
        (1, 10.0, 10.0, 10.0, 10.0, 3.0, 2),
        (2, None, None, None, None, 0.0, 1),
    ]
    assert bars.every(5).rows() == [(0, 10.0, 10.0, 10.0, 10.0, 3.0, 3)]
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
        # A window that was had from the tape as a whole is read when it shows.
        assert (prices if in_order else sorted(prices)) == (
            wanted[name] if in_order else sorted(wanted[name])
        )
    assert reader.bars.trades == count
    for seconds in (1, 5, 60):
        assert int(reader.bars.every(seconds).trades.sum()) == count


def record_and_read(
    studio: Studio, source: ScriptedSource | SyntheticMarket, middle: int, **given: Any
) -> None:
    """Capture; one reader begins before, one in the middle, one when all is over."""
    over = threading.Event()
    found: list[Reader] = []
    threads: list[threading.Thread] = []
    layout = Layout(studio.data_dir)

    def begin(session: str) -> None:
        reader = Reader(layout, session, TICKERS)
        found.append(reader)
        threads.append(threading.Thread(target=reader.look_until, args=(over.is_set,)))
        threads[-1].start()

    with studio.exchange(source) as exchange:

        def scenario() -> Scenario:
            yield connected
            begin(studio.statuses[-1].session)
            yield trades(middle)
            begin(studio.statuses[-1].session)
            yield all_of(exchange)

        try:
            report = studio.record(exchange, TICKERS, scenario(), lasting=60, **given)
        finally:
            over.set()
            for thread in threads:
                thread.join(60)
    found.append(Reader(layout, report.session, TICKERS))
    found[-1].look_until(lambda: True)
    assert report.state == "complete" or report.balanced
    assert len(report.windows) > 3, "there must have been rolls"
    for reader in found:
        check(reader, studio, report.books.recorded, in_order=not report.spilled)


def test_whoever_begins_before_in_the_middle_or_after_counts_what_was_recorded(
    studio: Studio,
) -> None:
    frames = list(synthetic_frames(TICKERS, 16_000, seed=11))
    record_and_read(studio, ScriptedSource(frames), 8_000, roll_size="200KB", flush_interval="50ms")


def test_tickers_that_came_too_fast_and_were_had_from_the_tape_are_counted_once(
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
