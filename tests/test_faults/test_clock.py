"""Stories 19, 20, 33 to 36 60 and 61: clocks that are set, days that end, days that are shorter."""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow.parquet as pq
import pytest

from stocktrace.calendar import session_close, us_regular_session
from stocktrace.end_time import parse_until
from stocktrace.errors import StocktraceError
from stocktrace.feed.handshake import Dialer
from stocktrace.feed.socket import BatchSocket
from stocktrace.intervals import CONNECTING
from stocktrace.live.health import find_silent
from stocktrace.query.criteria import TradeQuery
from stocktrace.query.trades import read_last_trades, read_trades, scan
from stocktrace.simulator import Fault, ScriptedSource, Simulator, SyntheticMarket
from stocktrace.store.compaction import compact_date, finish_swap
from stocktrace.store.layout import Layout
from stocktrace.store.names import RollPolicy, utc_date
from stocktrace.store.source import open_source
from stocktrace.units import NS_PER_DAY
from stocktrace.verify import verify
from tests.conftest import (
    Scenario,
    Studio,
    connected,
    frame,
    played,
    published,
    sent,
    taped,
    trades,
)
from tests.test_faults.conftest import (
    QUICK_BOUND,
    SECOND,
    SLACK,
    Hands,
    Launch,
    all_sent,
    at,
    events,
    findings,
    numbered,
    record,
    recorded,
    report_of,
    snapshot,
)
from tests.waiting import eventually

NEW_YORK = ZoneInfo("America/New_York")


def test_19_a_gap_in_which_the_clock_is_set_back_is_still_a_gap(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    hands = Hands(at("2026-11-24T14:30:00"))
    dial = Dialer.dial

    def set_back(self: Dialer) -> BatchSocket:
        hands.stepped -= 30
        return dial(self)

    def scenario(exchange: Simulator) -> Scenario:
        yield connected
        exchange.send_raw(frame(("AAPL", 1)))
        yield trades(1)
        monkeypatch.setattr(Dialer, "dial", set_back)
        exchange.drop_all()
        yield lambda status: status.reconnects == 1 and status.connected

    with studio.exchange() as exchange:
        report = record(studio, exchange, scenario(exchange), clock=hands.clock())
    connecting, lost = sorted(report.gaps, key=lambda gap: gap.reason == CONNECTING)[::-1]
    assert connecting.end > connecting.start
    assert lost.end > lost.start
    assert lost.end < connecting.end, "by the new clock"
    assert findings(studio.data_dir) == []


def test_19_a_clock_set_back_over_midnight_opens_nothing_again(studio: Studio) -> None:
    hands = Hands(at("2026-11-24T23:59:50"))
    tapes: dict[str, tuple[int, bytes]] = {}

    def scenario(exchange: Simulator) -> Scenario:
        folder = studio.data_dir
        yield connected
        exchange.send_raw(frame(("AAPL", 1)))
        yield trades(1)
        hands.stepped += 20  # into the next day
        exchange.send_raw(frame(("AAPL", 2)))
        yield trades(2)
        yield lambda _: len(list(folder.glob("tape/*/[!.]*.tape.zst"))) == 1  # published before
        tapes.update(snapshot(folder / "tape", "*.tape.zst"))
        tapes.update(snapshot(folder / "parquet", "[!.]*.parquet"))
        hands.stepped -= 30  # and back into the one before
        exchange.send_raw(frame(("AAPL", 3)))
        yield trades(3)

    with studio.exchange() as exchange:
        report = record(studio, exchange, scenario(exchange), clock=hands.clock())
    assert len(tapes) == 2
    after = {
        **snapshot(studio.data_dir / "tape", "*.tape.zst"),
        **snapshot(studio.data_dir / "parquet"),
    }
    assert tapes.items() <= after.items()
    assert [name[-5:] for name in report.windows] == ["00001", "00002", "00003"]
    days = {
        path.parent.name: sorted(
            price
            for each in path.parent.glob("*.parquet")
            for price in pq.ParquetFile(each).read()["price"].to_pylist()
        )
        for path in studio.data_dir.glob("parquet/*/*.parquet")
    }
    assert days == {"date=2026-11-24": [1, 3], "date=2026-11-25": [2]}
    reasons = [event["reason"] for event in events(studio.data_dir, "gap")]
    assert any(reason.startswith("the clock was set back by 30.") for reason in reasons)
    assert findings(studio.data_dir) == []


@pytest.mark.parametrize("step", [3600.0, -3600.0], ids=["an hour on", "an hour back"])
def test_20_a_clock_that_is_set_changes_no_timer(studio: Studio, step: float) -> None:
    hands, took = Hands(), 0.0

    def scenario(exchange: Simulator) -> Scenario:
        nonlocal took
        yield trades(10)
        exchange.inject(Fault("stall"))
        began = time.monotonic()
        hands.stepped += step
        yield lambda status: status.connected and status.reconnects == 1
        took = time.monotonic() - began

    with studio.exchange(ScriptedSource(numbered(10)), settle=0.05) as exchange:
        report = record(studio, exchange, scenario(exchange), clock=hands.clock())
    assert 0.3 <= took < QUICK_BOUND + SLACK
    (gap,) = [gap for gap in report.gaps if gap.reason == "ping unanswered for 0.3 s"]
    length = (gap.end - gap.start).total_seconds()
    assert 0 < length < QUICK_BOUND + SLACK + max(0, step)
    assert published(studio.data_dir) == {"AAPL": recorded(range(1, 11))}


def test_33_a_burst_across_midnight_is_split_exactly(studio: Studio) -> None:
    # The next one, for a market's trades happen now.
    midnight = (time.time_ns() // NS_PER_DAY + 1) * NS_PER_DAY
    hands = Hands(midnight - SECOND)

    def scenario(exchange: Simulator) -> Scenario:
        yield lambda _: hands.wall() > midnight + SECOND
        exchange.mute()
        yield lambda status: status.trades >= exchange.sent_trades

    with studio.exchange(SyntheticMarket(rate=2000), settle=0.05) as exchange:
        report = record(studio, exchange, scenario(exchange), ["AAPL", "MSFT"], clock=hands.clock())
    rows = {utc_date(midnight - 1): 0, utc_date(midnight): 0}
    for path in studio.data_dir.glob("parquet/*/*.parquet"):
        date = path.parent.name.removeprefix("date=")
        received = pq.ParquetFile(path).read()["ts_recv"].to_pylist()
        assert {f"{stamp:%Y-%m-%d}" for stamp in received} == {date}
        rows[date] += len(received)
    assert all(count > 100 for count in rows.values())
    assert sum(rows.values()) == report.books.trades
    assert published(studio.data_dir) == sent(all_sent(exchange))
    assert findings(studio.data_dir) == []


@pytest.mark.parametrize(
    ("day", "now", "close", "hours"),
    [
        ("2026-03-08", "2026-03-08T01:30-05:00", "2026-03-08T20:00+00:00", 23),
        ("2026-11-01", "2026-11-01T01:30-04:00", "2026-11-01T21:00+00:00", 25),
    ],
)
def test_34_on_days_with_a_clock_change_times_follow_new_york(
    day: str, now: str, close: str, hours: int
) -> None:
    here = datetime.fromisoformat(now).astimezone(NEW_YORK)
    assert parse_until("16:00 America/New_York", here) == datetime.fromisoformat(close)
    # A window every ten minutes from midnight to midnight there: none missing, none twice.
    begin = datetime.fromisoformat(day).replace(tzinfo=NEW_YORK).astimezone(UTC)
    policy, stamp = RollPolicy(600.0, 1 << 40), int(begin.timestamp()) * SECOND
    names = list[str]()
    end = stamp + hours * 3600 * SECOND
    while stamp < end:
        window = policy.open("s", len(names) + 1, stamp)
        assert (window.start, window.end) == (stamp, stamp + 600 * SECOND)
        assert policy.due(window, window.end, 0)
        names.append(window.name[:16])
        stamp = window.end
    assert len(set(names)) == len(names) == hours * 6


def test_34_the_repeated_hour_has_its_own_files(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        for begin in ("2026-11-01T05:59:59", "2026-11-01T06:59:59"):  # both are 01:59:59 there
            hands = Hands(at(begin))
            frames = [(n * SECOND, frame(("AAPL", n), t=hands.start // 10**6)) for n in range(1, 6)]
            with studio.exchange(ScriptedSource(frames, speed=4.0), settle=0.05) as exchange:
                record(studio, exchange, played(exchange), clock=hands.clock(), roll_interval="1s")
    finally:
        monkeypatch.undo()
        time.tzset()
    files = list(studio.data_dir.glob("parquet/date=2026-11-01/*.parquet"))
    assert len(files) >= 4
    (rows,) = published(studio.data_dir).values()
    assert [row[1] for row in rows] == [1, 2, 3, 4, 5] * 2
    assert findings(studio.data_dir) == []


def test_35_a_suspended_process_wakes_and_records_the_gap(studio: Studio, launch: Launch) -> None:
    # What a person would call a pause is 5 s; a test has no time for that.
    before = "from stocktrace import clock; clock.PAUSE_S = 0.8"
    with studio.exchange(SyntheticMarket(rate=200), ping_period=0.05, settle=0.05) as exchange:
        process = launch(exchange, before=before, roll_interval="1s", flush_interval="100ms")
        eventually(lambda: list(studio.data_dir.glob("tape/*/*_00002.tape")))
        process.signal(signal.SIGSTOP)
        stopped, beats = time.monotonic(), exchange.sent_frames
        exchange.wait_for(
            lambda exchange: time.monotonic() - stopped > 2.0 and exchange.sent_frames > beats, 30
        )
        process.signal(signal.SIGCONT)
        eventually(lambda: any("suspended" in gap["reason"] for gap in gaps(studio.data_dir)))
        process.signal(signal.SIGINT)
        assert process.end()[0] == 130
    report = report_of(studio.data_dir)
    assert report.state == "interrupted"
    (gap,) = [gap for gap in report.gaps if gap.reason.startswith("suspended or stalled for")]
    assert (gap.end - gap.start).total_seconds() >= 2.0
    assert not list(studio.data_dir.glob("tape/*/*.tape"))  # all windows were closed
    assert published(studio.data_dir) == sent(taped(studio.data_dir, report.session))
    assert findings(studio.data_dir) == []


def gaps(data_dir: Path) -> list[dict[str, str]]:
    return events(data_dir, "gap")


def test_35_a_machine_that_slept_for_a_day_ends_a_capture_past_its_end(studio: Studio) -> None:
    """Linux's monotonic clock does not run in the meantime; the wall clock does."""
    hands = Hands(at("2026-11-24T15:00:00"))

    def scenario(exchange: Simulator) -> Scenario:
        yield trades(5)
        hands.stepped += 86_400
        exchange.send_raw(frame(("AAPL", 6)))
        yield trades(6)
        yield lambda _: False

    end = datetime.fromisoformat("2026-11-25T15:00:02+00:00")
    began = time.monotonic()
    with studio.exchange(ScriptedSource(numbered(5)), settle=0.05) as exchange:
        report = record(studio, exchange, scenario(exchange), clock=hands.clock(), until=end)
    assert time.monotonic() - began < 6 + SLACK
    assert (report.state, report.reason) == ("complete", "its end time was reached")
    (gap,) = [gap for gap in report.outages if "suspended" in gap.reason]
    assert (gap.end - gap.start).total_seconds() == pytest.approx(86_400, abs=5)
    dates = {path.name for path in studio.data_dir.glob("parquet/*")}
    assert dates == {"date=2026-11-24", "date=2026-11-25"}
    assert published(studio.data_dir) == {"AAPL": recorded(range(1, 7))}
    assert findings(studio.data_dir) == []


@pytest.mark.parametrize("when", ["listening", "reconnecting"])
def test_60_a_clock_of_1970_is_reported_and_costs_neither_rows_nor_files(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    hands, now = Hands(at("1970-01-01T00:00:20")), at("2026-11-24T14:30:00")
    dial = Dialer.dial

    def set_clock() -> None:
        hands.stepped += (now - hands.start) / SECOND

    def set_then_dial(self: Dialer) -> BatchSocket:
        set_clock()
        return dial(self)

    def scenario(exchange: Simulator) -> Scenario:
        yield connected
        exchange.send_raw(frame(("AAPL", 1)))
        yield trades(1)
        if when == "listening":
            set_clock()
        else:
            monkeypatch.setattr(Dialer, "dial", set_then_dial)
            exchange.drop_all()
            yield lambda status: status.reconnects == 1 and status.connected
        exchange.send_raw(frame(("AAPL", 2)))
        yield trades(2)

    with studio.exchange() as exchange:
        report = record(studio, exchange, scenario(exchange), clock=hands.clock())
    assert [notice[:42] for notice in report.notices] == [
        "the clock of this machine says 1970-01-01 "
    ]
    assert published(studio.data_dir) == {"AAPL": recorded([1, 2])}
    assert report.books.quarantined == 0
    dates = {path.parent.name for path in studio.data_dir.glob("coverage/*/*.parquet")}
    assert dates == {"date=1970-01-01", "date=2026-11-24"}
    assert report.gap_s < 30
    assert len(report.outages) == (when == "reconnecting")
    (said,) = [gap for gap in gaps(studio.data_dir) if gap["reason"] != CONNECTING]
    assert (when == "listening") == said["reason"].startswith("the clock was first set, ")
    assert findings(studio.data_dir) == []


def test_60_a_clock_that_is_set_before_the_first_connection_makes_no_gap_of_decades(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    hands, dial = Hands(at("1970-01-01T00:00:20")), Dialer.dial

    def set_then_dial(self: Dialer) -> BatchSocket:
        hands.stepped += (at("2026-11-24T14:30:00") - hands.start) / SECOND
        return dial(self)

    monkeypatch.setattr(Dialer, "dial", set_then_dial)
    with studio.exchange(ScriptedSource(numbered(3)), settle=0.05) as exchange:
        report = record(studio, exchange, played(exchange), clock=hands.clock())
    (gap,) = report.gaps
    assert gap.reason == CONNECTING
    assert gap.start > datetime(2026, 11, 24, tzinfo=UTC)
    assert {path.parent.name for path in studio.data_dir.glob("coverage/*/*")} == {
        "date=2026-11-24"
    }
    assert published(studio.data_dir) == {"AAPL": recorded(range(1, 4))}
    assert findings(studio.data_dir) == []


def test_36_until_close_ends_at_one_on_a_half_day(studio: Studio) -> None:
    session = us_regular_session(datetime(2026, 11, 27, tzinfo=UTC).date())
    assert session is not None
    assert session.closes.astimezone(NEW_YORK) == datetime(2026, 11, 27, 13, tzinfo=NEW_YORK)
    hands = Hands(int(session.closes.timestamp() - 1) * SECOND)
    now = datetime.fromtimestamp(hands.wall() / SECOND, UTC)
    with studio.exchange(ScriptedSource(numbered(5)), settle=0.05) as exchange:
        report = record(studio, exchange, clock=hands.clock(), until=session_close(now))
    assert report.state == "complete"
    assert report.ended is not None
    assert 0 <= (report.ended - session.closes).total_seconds() < SLACK
    assert published(studio.data_dir) == {"AAPL": recorded(range(1, 6))}
    # The afternoon after the close, and Thanksgiving before it, do not make a stock silent.
    for begin, end in (
        ("2026-11-27T18:00", "2026-11-28T00:00"),
        ("2026-11-26T09", "2026-11-26T23"),
    ):
        times = [datetime.fromtimestamp(at(text) / SECOND, UTC) for text in (begin, end)]
        assert find_silent(["AAPL", "BRK.B"], {}, *times) == {}


def test_36_a_holiday_is_reported_and_skipped() -> None:
    for day in ("2026-05-25", "2026-11-26", "2026-11-28"):  # Memorial Day, Thanksgiving, a Saturday
        with pytest.raises(StocktraceError, match=r"closed today[:;] its next session opens"):
            session_close(datetime.fromisoformat(f"{day}T10:00-05:00"))
    begin, end = (datetime.fromisoformat(f"2026-05-25T{hour}:30+00:00") for hour in (13, 20))
    assert find_silent(["AAPL"], {}, begin, end) == {}
    assert find_silent(["BINANCE:BTCUSDT"], {}, begin, end) == {"BINANCE:BTCUSDT": 7 * 3600.0}


def test_61_a_clock_set_back_over_two_windows_keeps_the_order_of_arrival(studio: Studio) -> None:
    hands = Hands(at("2026-11-24T14:30:00"))

    def scenario(exchange: Simulator) -> Scenario:
        yield connected
        for number, step in enumerate((0, 61, 61, -3600, 61), 1):
            hands.stepped += step
            exchange.send_raw(frame(("AAPL", number), ("MSFT", number)))
            yield trades(2 * number)

    with studio.exchange() as exchange:
        report = record(
            studio, exchange, scenario(exchange), ["AAPL", "MSFT"], clock=hands.clock(),
            roll_interval="1m",
        )  # fmt: skip
    assert [name[-5:] for name in report.windows] == [f"{n:05}" for n in range(1, 6)]
    assert list(report.windows) != sorted(report.windows), "their times went back"
    layout = Layout(studio.data_dir)

    def prices() -> list[float]:
        return list(read_trades("MSFT", data_dir=studio.data_dir, date="2026-11-24")["price"])

    in_order = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert prices() == in_order
    dataset = scan("AAPL", data_dir=studio.data_dir, date="2026-11-24")
    assert dataset.to_table()["price"].to_pylist() == in_order
    last = read_last_trades(open_source(studio.data_dir), TradeQuery.of("MSFT"), 2)
    assert last["price"].to_pylist() == in_order[-2:]
    assert findings(studio.data_dir) == []
    assert compact_date(layout, "2026-11-24") is not None
    assert finish_swap(layout, "2026-11-24")
    assert prices() == in_order
    assert findings(studio.data_dir) == []
    # A repair of the compacted date keeps the order, too.
    (day,) = layout.date_folder("2026-11-24").glob("day-*.parquet")
    day.write_bytes(day.read_bytes()[:-30])
    found = list(verify(layout, report.session, repair=True))
    assert [one.problem for one in found if not one.repaired] == []
    assert prices() == in_order
