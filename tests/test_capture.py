"""Whole captures of the simulated exchange, in this process; what is left on disk is judged."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import stocktrace
from stocktrace.clock import Clock
from stocktrace.errors import (
    DiskFull,
    FeedStopped,
    KeyInUse,
    KeyRefused,
    StoreError,
    TickerError,
    UsageError,
)
from stocktrace.feed import protocol
from stocktrace.feed.handshake import Dialer
from stocktrace.feed.socket import BatchSocket
from stocktrace.live import session
from stocktrace.record.intake import Intake
from stocktrace.record.recorder import Recorder
from stocktrace.sessions.report import Books, SessionReport
from stocktrace.sessions.status import CaptureStatus
from stocktrace.simulator import Fault, ScriptedSource, SyntheticMarket, synthetic_frames
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.tape import TapeWriter
from tests.conftest import (
    Row,
    Scenario,
    Studio,
    all_of,
    connected,
    frame,
    hurry,
    played,
    published,
    sent,
    taped,
    trades,
    tree,
)
from tests.opened import opened_below
from tests.sampling import sizes
from tests.tables import put, table_of

MARKET = (
    *(f"T{n:02}" for n in range(40)),
    *("BINANCE:BTCUSDT", "IC MARKETS:1", "FXCM:EUR/USD", "BRK.B", "a..b", "CON"),
    *("7203", "007", "NULL", "NA"),
)
# How much longer than asked for a capture may take on a busy machine, in seconds; the promise is
# two, an idle machine takes about half a second.
GRACE_S = 5.0


@dataclass
class Take:
    """A capture that many tests look at."""

    studio: Studio
    report: SessionReport
    wanted: dict[str, list[Row]]
    frames: list[bytes]

    @property
    def dataset(self) -> Path:
        return self.studio.data_dir / "parquet"


def take(folder: Path, count: int, **given: Any) -> Take:
    frames = list(synthetic_frames(MARKET, count, seed=7))
    studio = Studio(folder / "data")
    with pytest.MonkeyPatch.context() as patch, studio.exchange(ScriptedSource(frames)) as exchange:
        hurry(patch)
        report = studio.record(exchange, MARKET, played(exchange), lasting=60, **given)
        (connection,) = exchange.connections
    wanted = sent(each for _, each in frames)
    assert sent(connection.frames) == wanted, "the exchange itself must have sent all"
    return Take(studio, report, wanted, connection.frames)


@pytest.fixture(scope="module", params=sizes(40_000, 200_000))
def large(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Take:
    return take(tmp_path_factory.mktemp("large"), request.param)


@pytest.fixture(scope="module")
def spilled(tmp_path_factory: pytest.TempPathFactory) -> Take:
    return take(
        tmp_path_factory.mktemp("spilled"),
        30_000,
        max_pending_rows_per_ticker=20,
        max_pending_rows=600,
        roll_size="2MB",
    )


# --- a market of many trades ------------------------------------------------------------------


def test_parquet_holds_the_sent_trades_in_their_order(large: Take) -> None:
    found = published(large.studio.data_dir)
    assert {ticker: len(rows) for ticker, rows in found.items()} == {
        ticker: len(rows) for ticker, rows in large.wanted.items()
    }
    assert found == large.wanted
    assert sum(map(len, found.values())) == large.report.books.trades


def test_the_tape_holds_the_sent_frames(large: Take) -> None:
    assert taped(large.studio.data_dir) == large.frames


def test_the_books_balance_and_say_the_same(large: Take) -> None:
    report = large.report
    count, trades = len(large.frames), sum(map(len, large.wanted.values()))
    assert report.differences() == []
    assert report.books == Books(count, count, trades=trades, recorded=trades)
    assert {name: one.parquet for name, one in report.per_ticker.items()} == {
        ticker: len(rows) for ticker, rows in large.wanted.items()
    }
    assert (report.unpublished, report.errors, report.reconnects) == ([], {}, 0)
    assert report == large.studio.report()


def test_nothing_but_the_results_is_left_on_disk(large: Take) -> None:
    folders = {name.split("/")[0] for name in large.studio.files()}
    assert folders == {"tape", "sessions", "log", "parquet", "coverage"}
    files = large.studio.files()
    assert not [name for name in files if name.endswith((".tmp", ".open", ".csv", ".tape"))]
    published_files = [name for name in files if name.startswith("parquet/")]
    assert len(published_files) == len(large.report.windows) == large.report.files


def test_receive_times_never_go_back_and_are_those_of_the_session(large: Take) -> None:
    assert large.report.ended is not None
    for ticker in MARKET[:3]:
        times = stocktrace.read_trades(ticker, data_dir=large.studio.data_dir)["ts_recv"]
        assert times.is_monotonic_increasing
        assert large.report.started <= times.iloc[0]
        assert times.iloc[-1] <= large.report.ended


def test_the_documented_call_reads_them_back(large: Take) -> None:
    for ticker in ("BINANCE:BTCUSDT", "007", "a..b", "FXCM:EUR/USD"):
        frame = stocktrace.read_trades(ticker, data_dir=large.studio.data_dir)
        assert set(frame["symbol"]) == {ticker}
        assert frame["price"].tolist() == [row[1] for row in large.wanted[ticker]]


def test_duckdb_counts_the_same_trades_and_sums(large: Take) -> None:
    import duckdb

    found = duckdb.sql(
        "SELECT symbol, count(*), sum(volume) FROM "
        f"read_parquet('{large.dataset}/**/*.parquet', hive_partitioning=true) GROUP BY symbol"
    )
    assert found is not None
    wanted = {t: (len(rows), sum(row[2] for row in rows)) for t, rows in large.wanted.items()}
    rows = {symbol: (count, volume) for symbol, count, volume in found.fetchall()}
    assert rows == {
        ticker: (count, pytest.approx(total)) for ticker, (count, total) in wanted.items()
    }


def test_polars_reads_the_same_trades(large: Take) -> None:
    import polars as pl

    frame = pl.scan_parquet(large.dataset, hive_partitioning=True).collect()
    counts = dict(frame.group_by("symbol").len().iter_rows())
    assert counts == {ticker: len(rows) for ticker, rows in large.wanted.items()}


def test_trades_that_overflow_the_queues_are_rebuilt_from_the_tape(
    spilled: Take,
) -> None:
    assert spilled.report.spilled, "the queues were meant to be too small"
    assert len(spilled.report.windows) > 1
    assert published(spilled.studio.data_dir) == spilled.wanted
    assert spilled.report.differences() == []
    assert spilled.report.books.recorded == 30_000
    assert set(spilled.report.spilled) <= set(spilled.report.windows)
    assert not list(spilled.studio.data_dir.glob("csv/*/*"))


@pytest.mark.parametrize("count", sizes(200, 2000))
def test_many_tickers_are_captured_at_once(studio: Studio, count: int) -> None:
    tickers = tuple(f"S{n:04}" for n in range(count))
    frames = list(synthetic_frames(tickers, 3 * count, seed=3))
    with studio.exchange(ScriptedSource(frames), settle=1.0) as exchange:
        report = studio.record(exchange, tickers, played(exchange), lasting=60)
        assert set(exchange.connections[0].subscriptions) == set(tickers)
    wanted = sent(each for _, each in frames)
    assert published(studio.data_dir) == wanted
    assert (report.books.recorded, report.balanced) == (3 * count, True)
    assert len(report.tickers) == count


# --- ending in time --------------------------------------------------------------------------


@dataclass
class Watch:
    began: float

    def elapsed(self) -> float:
        return time.monotonic() - self.began


@pytest.fixture
def stopwatch() -> Watch:
    return Watch(time.monotonic())


@pytest.mark.parametrize(
    ("fault", "state"),
    [
        (None, "complete"),
        (Fault("mute"), "complete"),
        (Fault("stall"), "complete"),
        (Fault("half-frame"), "complete"),
        (Fault("no-answer", repeat=True), "failed"),
        (Fault("status", status=503, repeat=True), "failed"),
        (Fault("drop", repeat=True), "failed"),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
def test_it_ends_in_time_whatever_the_socket_does(
    studio: Studio, stopwatch: Watch, fault: Fault | None, state: str
) -> None:
    with studio.exchange(faults=[fault] if fault else []) as exchange:
        report = studio.record(exchange, lasting=0.6, backoff_floor=30, backoff_cap=30)
        assert 0.6 <= stopwatch.elapsed() < 0.6 + GRACE_S
    assert report.state == state
    assert report == studio.report()
    if state == "failed":
        assert report.reason.startswith("not connected at the end: ")
        assert report.reason.partition(": ")[2] not in {"", "connecting"}


def test_it_ends_in_time_without_an_answer_to_its_dial(studio: Studio, stopwatch: Watch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else's
        url = f"ws://127.0.0.1:{nobody.getsockname()[1]}"
        report = studio.record(url, lasting=0.5)
    assert stopwatch.elapsed() < 0.5 + GRACE_S
    assert report.state == "failed"
    assert "refused" in report.reason


def test_it_ends_at_the_moment_that_was_asked_for(studio: Studio) -> None:
    with studio.exchange() as exchange:
        until = datetime.now(UTC) + timedelta(seconds=0.6)
        report = stocktrace.capture(["AAPL"], until=until, settings=studio.settings(exchange))
    assert report.ended is not None
    assert until <= report.ended < until + timedelta(seconds=GRACE_S)
    assert (report.state, report.reason) == ("complete", "its end time was reached")


def test_it_ends_when_the_wall_clock_jumps_past_the_moment(
    studio: Studio, stopwatch: Watch
) -> None:
    """As after a suspend: the monotonic clock did not run in the meantime."""
    jump = [0]
    clock = Clock(wall=lambda: time.time_ns() + jump[0])

    def watch(status: CaptureStatus) -> None:
        if status.connected:
            jump[0] = 3600 * 10**9

    with studio.exchange() as exchange:
        stocktrace.capture(
            ["AAPL"],
            until=datetime.now(UTC) + timedelta(minutes=30),
            settings=studio.settings(exchange),
            on_status=watch,
            clock=clock,
        )
    assert stopwatch.elapsed() < GRACE_S + 5


def test_stopping_by_hand_publishes_all_and_says_so(studio: Studio) -> None:
    with studio.exchange() as exchange:

        def scenario() -> Scenario:
            yield connected
            exchange.send_raw(frame(("AAPL", 1)))
            yield trades(1)

        report = studio.record(exchange, scenario=scenario())
    assert (report.state, report.reason) == ("interrupted", "the scenario is through")
    assert published(studio.data_dir) == sent([frame(("AAPL", 1))])


# --- wrong usage -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "Set a duration"),
        ({"duration": 1, "until": datetime(2027, 1, 1, tzinfo=UTC)}, "Set a duration"),
        ({"duration": "soon"}, "'soon' is not a duration"),
        ({"duration": 0}, "0 is not a duration"),
        ({"duration": -1}, "-1 is not a duration"),
        ({"until": datetime(2027, 1, 1)}, "until needs a time zone"),  # noqa: DTZ001
        ({"until": datetime(2001, 1, 1, tzinfo=UTC)}, "until 2001-01-01 00:00:00 UTC has passed"),
    ],
)
def test_an_impossible_time_is_refused_and_nothing_is_made(
    studio: Studio, given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        stocktrace.capture(["AAPL"], settings=studio.settings("ws://127.0.0.1:1"), **given)
    assert not studio.data_dir.exists()


@pytest.mark.parametrize("tickers", [[], [""], ["é"], ["AAPL", "A\nB"]])
def test_invalid_tickers_are_refused_and_nothing_is_made(
    studio: Studio, tickers: list[str]
) -> None:
    with pytest.raises(TickerError):
        studio.record("ws://127.0.0.1:1", tickers)
    assert not studio.data_dir.exists()


def test_a_data_folder_that_cannot_be_written_is_reported(studio: Studio) -> None:
    studio.data_dir.write_text("a file in the way")
    with pytest.raises(UsageError, match=r"Cannot write to the data folder .*: name another one"):
        studio.record("ws://127.0.0.1:1")
    assert studio.data_dir.read_text() == "a file in the way"


# --- the key ---------------------------------------------------------------------------------


def test_a_key_that_is_refused_ends_it_at_once_with_a_sentence(
    studio: Studio, stopwatch: Watch
) -> None:
    with studio.exchange() as exchange:
        studio.key = "another"
        with pytest.raises(KeyRefused, match=r"refused the API key \(HTTP 401\)"):
            studio.record(exchange)
        assert exchange.dials == 1
    assert stopwatch.elapsed() < GRACE_S + 5
    report = studio.report()
    assert (report.state, report.unpublished) == ("failed", report.unpublished)
    assert report.reason.startswith("The server refused the API key (HTTP 401)")


def test_a_second_capture_with_the_key_is_refused_and_the_first_is_unharmed(
    studio: Studio, tmp_path: Path
) -> None:
    with studio.exchange() as exchange:

        def scenario() -> Scenario:
            yield connected
            with pytest.raises(KeyInUse, match="Another capture on this host") as caught:
                stocktrace.capture(
                    ["AAPL"],
                    duration=1,
                    settings=studio.settings(exchange, data_dir=tmp_path / "other"),
                )
            assert studio.statuses[-1].session in str(caught.value)
            exchange.send_raw(frame(("AAPL", 1)))
            yield trades(1)

        report = studio.record(exchange, scenario=scenario())
        assert (exchange.dials, report.reconnects, report.books.recorded) == (1, 0, 1)
    assert not (tmp_path / "other").exists()


def test_the_same_key_at_another_address_has_another_lock(studio: Studio, tmp_path: Path) -> None:
    with studio.exchange() as exchange, studio.exchange() as other:

        def scenario() -> Scenario:
            yield connected
            report = stocktrace.capture(
                ["AAPL"],
                duration=0.3,
                settings=studio.settings(other, data_dir=tmp_path / "other"),
            )
            assert report.state == "complete"

        assert studio.record(exchange, scenario=scenario()).state == "interrupted"


# --- settings, by their effect ---------------------------------------------------------------


def feeding(exchange: Any, until: Callable[[], bool]) -> Scenario:
    """A trade at each look, until something happened."""
    yield connected
    price = 0

    def fed(_: CaptureStatus) -> bool:
        nonlocal price
        price += 1
        exchange.send_raw(frame(("AAPL", price)))
        return until()

    yield fed


def test_roll_interval_publishes_while_it_runs(studio: Studio) -> None:
    def two_files() -> bool:
        return len(list(studio.data_dir.glob("parquet/*/2*.parquet"))) >= 2

    with studio.exchange() as exchange:
        report = studio.record(exchange, scenario=feeding(exchange, two_files), roll_interval=0.3)
        assert len(report.windows) >= 2
        assert published(studio.data_dir) == sent(exchange.connections[0].frames)
    assert report.balanced
    starts = [datetime.strptime(name[:16], "%Y%m%dT%H%M%SZ") for name in report.windows]  # noqa: DTZ007
    assert starts == sorted(starts)


def test_the_end_of_a_capture_opens_no_file_of_another_session_or_of_a_window_before(
    studio: Studio,
) -> None:
    layout = Layout(studio.data_dir)
    today = datetime.now(UTC).strftime("%Y%m%d")
    for number in range(1, 4):
        other = WindowId(f"{today}T000000Z_aaaaaa", f"{today}T000000Z_0000{number}")
        put(layout, "AAPL", other, table_of([(0, 1.0, 1.0, "")]))
    before: set[Path] = set()

    def scenario(exchange: Any) -> Scenario:
        yield from feeding(exchange, lambda: studio.statuses[-1].published >= 2)
        before.update(sorted(layout.dataset.glob("*/*"))[:5])  # a third window may be under way
        opened.append(watch.enter_context(opened_below([layout.dataset])))
        exchange.send_raw(frame(("AAPL", 1)))
        yield all_of(exchange)

    opened: list[set[Path]] = []
    with ExitStack() as watch, studio.exchange() as exchange:
        report = studio.record(exchange, scenario=scenario(exchange), roll_size=1000)
    assert report.balanced
    last = layout.window_file(WindowId(report.session, max(report.windows)))
    assert len(before) == 5
    assert last in opened[0]
    assert not opened[0] & before


def test_roll_size_ends_a_window_too(studio: Studio) -> None:
    def two_files() -> bool:
        return len(list(studio.data_dir.glob("parquet/*/2*.parquet"))) >= 2

    with studio.exchange() as exchange:
        report = studio.record(exchange, scenario=feeding(exchange, two_files), roll_size=1000)
        assert len(report.windows) >= 2
        assert published(studio.data_dir) == sent(exchange.connections[0].frames)


def test_flush_interval_writes_a_trade_within_its_time(studio: Studio) -> None:
    def written(_: CaptureStatus) -> bool:
        return any(studio.data_dir.glob("csv/AAPL/*.csv.open"))

    with studio.exchange() as exchange:

        def scenario() -> Scenario:
            yield connected
            exchange.send_raw(frame(("AAPL", 1)))
            yield written

        assert (
            studio.record(exchange, scenario=scenario(), flush_interval=0.01).state == "interrupted"
        )


@pytest.mark.parametrize("batch_rows", [3, 100])
def test_a_full_batch_is_written_before_flush_interval(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, batch_rows: int
) -> None:
    batches: list[int] = []
    write = Recorder._write

    def noting(self: Any, writer: Any, batch: Any, rows: int) -> None:
        batches.append(rows)
        write(self, writer, batch, rows)

    monkeypatch.setattr(Recorder, "_write", noting)
    with studio.exchange() as exchange:

        def scenario() -> Scenario:
            yield connected
            exchange.send_raw(frame(("AAPL", 1), ("AAPL", 2), ("AAPL", 3)))
            yield trades(3)
            if batch_rows == 3:
                yield lambda _: batches == [3]
            exchange.send_raw(frame(("AAPL", 4)))
            yield trades(4)
            assert batches[:1] == ([3] if batch_rows == 3 else [])

        report = studio.record(
            exchange, scenario=scenario(), flush_interval=60, batch_rows=batch_rows
        )
    assert report.books.recorded == 4
    assert batches == ([3, 1] if batch_rows == 3 else [4])


@pytest.mark.parametrize("setting", ["max_pending_rows_per_ticker", "max_pending_rows"])
def test_pending_rows_are_bounded_and_nothing_is_lost(studio: Studio, setting: str) -> None:
    some = frame(*(("AAPL", n) for n in range(1, 4)), *(("MSFT", n) for n in range(1, 5)))
    with studio.exchange() as exchange:

        def scenario() -> Scenario:
            yield connected
            exchange.send_raw(some)
            yield trades(7)

        given: dict[str, Any] = {setting: 3, "flush_interval": 60}
        report = studio.record(exchange, ("AAPL", "MSFT"), scenario(), **given)
    (names,) = report.spilled.values()
    assert names == ["MSFT"]
    assert max(status.backlog for status in studio.statuses) <= 3
    assert CaptureStatus.read(Layout(studio.data_dir).status(report.session)).spilled == 1
    assert published(studio.data_dir) == sent([some])
    assert report.balanced


def test_sync_interval_has_the_tape_written_through(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: list[Path] = []
    sync = TapeWriter.sync

    def noting(self: TapeWriter) -> None:
        sync(self)
        syncs.append(self.path)

    monkeypatch.setattr(TapeWriter, "sync", noting)
    with studio.exchange() as exchange:

        def scenario() -> Scenario:
            yield connected
            yield lambda _: len(syncs) >= 3

        studio.record(exchange, scenario=scenario(), sync_interval=0.01)
        syncs.clear()
        studio.handle.stopping.clear()

        def quick() -> Scenario:
            yield connected

        studio.record(exchange, scenario=quick(), sync_interval=60)
    assert syncs == []


def test_min_free_space_stops_it_cleanly_before_the_disk_is_full(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [10**12]
    monkeypatch.setattr("stocktrace.store.files.free_bytes", lambda _: free[0])
    with studio.exchange() as exchange:

        def scenario() -> Scenario:
            yield connected
            exchange.send_raw(frame(("AAPL", 1)))
            yield trades(1)
            free[0] = 10**6
            yield lambda _: False

        with pytest.raises(DiskFull, match="has only 1 MB left"):
            studio.record(exchange, scenario=scenario(), min_free_space="2MB")
    assert taped(studio.data_dir) == [frame(("AAPL", 1))]
    report = studio.report()
    assert report.state == "failed"
    assert "has only 1 MB left" in report.reason
    assert report.books.recorded == 1
    assert not list(studio.data_dir.glob("csv/*/*.open"))


LOSSES: dict[str, tuple[Fault | None, dict[str, Any], str]] = {
    "handshake_timeout": (
        Fault("no-answer"),
        {"handshake_timeout": 0.2},
        "no answer to the handshake in 0.2 s",
    ),
    "pong_timeout": (
        Fault("stall"),
        {"ping_interval": 0.1, "pong_timeout": 0.3},
        "ping unanswered for 0.3 s",
    ),
    "frame_timeout": (
        Fault("half-frame"),
        {"frame_timeout": 0.2},
        "half a frame, then nothing for 0.2 s",
    ),
    "idle_timeout": (None, {"idle_timeout": 0.3}, "no frame for 0.3 s"),
}


@pytest.mark.parametrize("setting", LOSSES)
def test_each_timeout_is_the_one_that_was_set(studio: Studio, setting: str) -> None:
    fault, given, reason = LOSSES[setting]
    with studio.exchange(faults=[fault] if fault else []) as exchange:

        def scenario() -> Scenario:
            yield lambda _: exchange.dials >= 2
            yield connected

        report = studio.record(
            exchange, scenario=scenario(), backoff_floor=0.01, backoff_base=0.01, **given
        )
    assert reason in {event["reason"] for event in studio.events("retry")}
    assert report.state == "interrupted"


WAITS: dict[str, tuple[dict[str, Any], list[float]]] = {
    "backoff_base": ({"backoff_base": 0.02, "backoff_floor": 0.001}, [0.02, 0.04, 0.08]),
    "backoff_cap": (
        {"backoff_base": 0.02, "backoff_cap": 0.03, "backoff_floor": 0.001},
        [0.02, 0.03, 0.03],
    ),
    "backoff_floor": ({"backoff_base": 0.02, "backoff_floor": 0.05}, [0.05, 0.05, 0.08]),
    "stable_after": (
        {"backoff_base": 0.02, "backoff_floor": 0.001, "stable_after": 0.001},
        [0.02, 0.02, 0.02],
    ),
}


@pytest.mark.parametrize("setting", WAITS)
def test_each_setting_of_the_backoff_is_in_the_waits(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setattr(random.SystemRandom, "uniform", lambda _, floor, ceiling: ceiling)
    given, waits = WAITS[setting]
    with studio.exchange(faults=[Fault("drop", after_seconds=0.02, repeat=True)]) as exchange:

        def scenario() -> Scenario:
            yield lambda status: status.reconnects >= 3 and exchange.dials >= 4

        studio.record(exchange, scenario=scenario(), **{"backoff_cap": 60.0, **given})
    assert [event["wait_s"] for event in studio.events("retry")][:3] == waits


def test_url_and_data_dir_are_used_and_in_the_report(studio: Studio) -> None:
    with studio.exchange() as exchange:

        def scenario() -> Scenario:
            yield connected

        report = studio.record(exchange, scenario=scenario(), roll_interval="5m")
        assert report.settings["url"] == exchange.url
    assert report.settings["data_dir"] == str(studio.data_dir)
    assert report.settings["roll_interval"] == 300.0
    assert "finnhub_api_key" not in report.settings


# --- failures -------------------------------------------------------------------------------


def test_a_bad_row_and_nonsense_among_the_trades_leave_them_unharmed(studio: Studio) -> None:
    good = [frame(*(("AAPL", n) for n in range(1, 1000))), frame(("MSFT", 5))]
    odd = [
        frame(("AAPL", -1)), b"nonsense", b'{"type":"ping"}', b'{"type":"error","msg":"Invalid"}',
        b'{"type":"new kind"}', b"\xff\xfe", b"", b"#not a mark", b"two\nlines", b"null",
    ]  # fmt: skip
    with studio.exchange() as exchange:

        def scenario() -> Scenario:
            yield connected
            for each in (good[0], *odd, good[1]):
                exchange.send_raw(each)
            yield trades(1001)

        report = studio.record(exchange, ("AAPL", "MSFT"), scenario())
    assert published(studio.data_dir) == sent(good)
    assert taped(studio.data_dir) == [good[0], *odd, good[1]]
    assert report.books == Books(12, 3, 2, 7, trades=1001, recorded=1000, quarantined=1)
    assert (report.errors, report.reconnects, report.balanced) == ({"Invalid": 1}, 0, True)
    (path,) = studio.data_dir.glob("quarantine/*.jsonl")
    assert len(path.read_text().splitlines()) == 8


def test_a_lost_connection_is_made_again_with_all_tickers_and_one_gap(studio: Studio) -> None:
    with studio.exchange() as exchange:

        def scenario() -> Scenario:
            yield connected
            exchange.send_raw(frame(("AAPL", 1)))
            yield trades(1)
            exchange.drop_all()
            yield lambda status: status.reconnects == 1 and status.connected
            exchange.wait_for(lambda each: set(each.subscriptions) == {"AAPL", "MSFT"})
            exchange.send_raw(frame(("MSFT", 2)))
            yield trades(2)

        report = studio.record(
            exchange, ("AAPL", "MSFT"), scenario(), backoff_floor=0.01, backoff_base=0.01
        )
        assert [each.subscriptions for each in exchange.connections] == [("AAPL", "MSFT")] * 2
    assert published(studio.data_dir) == sent([frame(("AAPL", 1)), frame(("MSFT", 2))])
    (gap,) = report.outages
    assert gap.tickers == 2
    assert gap.reason.startswith("connection lost: TCP ended without a close frame")
    assert report.started < gap.start < gap.end
    assert len(studio.events("disconnect")) == 1


def test_tickers_change_while_it_runs(studio: Studio) -> None:
    with studio.exchange() as exchange:

        def scenario() -> Scenario:
            yield connected
            studio.handle.request_change(["MSFT", "BINANCE:BTCUSDT"])
            yield lambda status: set(status.tickers) == {"MSFT", "BINANCE:BTCUSDT"}
            exchange.wait_for(lambda each: set(each.subscriptions) == {"MSFT", "BINANCE:BTCUSDT"})
            exchange.send_raw(frame(("BINANCE:BTCUSDT", 1)))
            yield trades(1)

        report = studio.record(exchange, ("AAPL", "MSFT"), scenario())
    assert set(report.tickers) == {"MSFT", "BINANCE:BTCUSDT"}
    (event,) = studio.events("subscribe")
    assert (event["added"], event["removed"]) == (["BINANCE:BTCUSDT"], ["AAPL"])
    assert published(studio.data_dir) == sent([frame(("BINANCE:BTCUSDT", 1))])


def test_an_error_on_the_feeds_thread_ends_it_and_is_raised_chained(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Intake, "add_frames", broken)
    with studio.exchange() as exchange:

        def scenario() -> Scenario:
            yield connected
            exchange.send_raw(frame(("AAPL", 1)))
            yield lambda _: False

        with pytest.raises(FeedStopped, match="ZeroDivisionError: a bug") as caught:
            studio.record(exchange, scenario=scenario())
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert studio.report().state == "failed"


def test_a_feed_that_hangs_at_the_end_costs_an_error_and_no_trade(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, go_on = threading.Event(), threading.Event()
    decode = protocol.decode
    some = [frame(("AAPL", 1)), frame(("AAPL", 2), ("MSFT", 3))]

    def hanging(frames: Sequence[bytes]) -> protocol.DecodedFrames:
        if threading.current_thread().name == "stocktrace-feed" and frames == some[1:]:
            hangs.set()
            assert go_on.wait(30)
        return decode(frames)

    monkeypatch.setattr(protocol, "decode", hanging)
    monkeypatch.setattr(session, "STOP_FEED_TIMEOUT_S", 0.1)
    with studio.exchange() as exchange:

        def scenario() -> Scenario:
            yield connected
            exchange.send_raw(some[0])
            yield trades(1)
            exchange.send_raw(some[1])
            yield lambda _: hangs.is_set()

        try:
            with pytest.raises(StoreError, match="The feed did not end in time"):
                studio.record(exchange, ("AAPL", "MSFT"), scenario(), lasting=60)
        finally:
            go_on.set()
    assert published(studio.data_dir) == sent(some)
    assert studio.report().balanced


def test_a_feed_that_hangs_while_it_connects_is_not_said_to_hold_trades(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, go_on = threading.Event(), threading.Event()

    def hanging(_: Dialer) -> BatchSocket:
        hangs.set()
        assert go_on.wait(30)
        raise TimeoutError

    monkeypatch.setattr(Dialer, "dial", hanging)
    monkeypatch.setattr(session, "STOP_FEED_TIMEOUT_S", 0.1)

    def scenario() -> Scenario:
        yield lambda _: hangs.is_set()

    with studio.exchange() as exchange:
        try:
            with pytest.raises(StoreError, match="while it was connecting") as told:
                studio.record(exchange, scenario=scenario(), lasting=60)
        finally:
            go_on.set()
    assert "tape" not in str(told.value)
    assert studio.report().spilled == {}


def test_an_error_in_syncing_ends_it_and_is_raised(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: TapeWriter) -> None:
        raise StoreError("Cannot write: Input/output error.")

    monkeypatch.setattr(TapeWriter, "sync", broken)
    with studio.exchange() as exchange, pytest.raises(StoreError, match="Input/output error"):
        studio.record(exchange, sync_interval=0.01)
    assert studio.report().state == "failed"


def test_an_error_in_on_status_stops_it_cleanly(studio: Studio) -> None:
    with studio.exchange() as exchange:

        def scenario() -> Scenario:
            yield connected
            exchange.send_raw(frame(("AAPL", 1)))
            yield trades(1)
            raise ZeroDivisionError("the watcher's own")

        with pytest.raises(ZeroDivisionError):
            studio.record(exchange, scenario=scenario())
    assert studio.report().state == "failed"
    assert taped(studio.data_dir) == [frame(("AAPL", 1))]
    assert studio.report().books.recorded == 1


class Broken:
    """A publisher's result that never works."""

    def done(self) -> bool:
        return True

    def result(self) -> Any:
        raise StoreError("the lake is dry")


def test_a_window_that_cannot_be_published_fails_the_run_and_the_capture_continues(
    studio: Studio,
) -> None:
    calls: list[str] = []

    def publisher(layout: Any, window: Any, *, whole: bool) -> Any:
        calls.append(window.window)
        return Broken()

    with studio.exchange() as exchange:
        feed = feeding(exchange, lambda: len(calls) >= 2)
        with pytest.raises(StoreError, match="the lake is dry"):
            studio.record(exchange, scenario=feed, publisher=publisher, roll_interval=0.3)
        wanted = sent(exchange.connections[0].frames)
    report = studio.report()
    assert report.state == "failed"
    assert report.unpublished == calls
    assert len(studio.events("failure")) == len(calls)
    assert report.books.recorded == len(wanted["AAPL"])
    rows = [
        line.split(",")[3]
        for path in sorted(studio.data_dir.glob("csv/AAPL/*.csv"))
        for line in path.read_text().splitlines()[1:]
    ]
    assert rows == [f"{row[1]:g}" for row in wanted["AAPL"]], "the sources stay"


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_it_leaves_no_thread_no_socket_and_no_file_behind(studio: Studio) -> None:
    with studio.exchange() as exchange:

        def scenario() -> Scenario:
            yield connected

        studio.record(exchange, scenario=scenario())  # what is made once is made now
        threads, files = set(threading.enumerate()), open_files()
        for _ in range(3):
            studio.handle.stopping.clear()
            studio.record(exchange, scenario=scenario())
        exchange.wait_for(lambda each: each.open_connections == 0)
        assert set(threading.enumerate()) == threads
        assert open_files() <= files


def test_a_live_market_is_recorded_as_it_trades(studio: Studio) -> None:
    tickers = ("AAPL", "BINANCE:BTCUSDT", "OANDA:EUR_USD")
    with studio.exchange(SyntheticMarket(seed=2, rate=3000, trades=1500), settle=0.05) as exchange:
        report = studio.record(exchange, tickers, played(exchange), roll_interval=0.4)
        wanted = sent(exchange.connections[0].frames)
    assert published(studio.data_dir) == wanted
    assert report.books.recorded == 1500
    assert report.latency.p50 is not None
    assert 0 < report.latency.p50 < 5000


def test_the_status_counts_received_trades(studio: Studio) -> None:
    with studio.exchange() as exchange:

        def scenario() -> Scenario:
            yield connected
            exchange.send_raw(frame(("AAPL", 1), ("MSFT", 2), ("AAPL", 3)))
            yield trades(3)

        studio.record(exchange, ("AAPL", "MSFT"), scenario(), lasting=30)
    last = studio.statuses[-1]
    assert (last.trades, last.per_ticker) == (3, {"AAPL": 2, "MSFT": 1})
    assert last.tickers == ("AAPL", "MSFT")
    assert 29.0 < last.elapsed_s + last.remaining_s < 31.0


def test_two_sessions_share_a_folder(studio: Studio) -> None:
    with studio.exchange() as exchange:
        for price in (1, 2):

            def scenario(price: int = price) -> Scenario:
                yield connected
                exchange.send_raw(frame(("AAPL", price)))
                yield trades(1)

            studio.handle.stopping.clear()
            studio.record(exchange, scenario=scenario())
    assert {row[1] for row in published(studio.data_dir)["AAPL"]} == {1.0, 2.0}
    assert len(list(studio.data_dir.glob("sessions/*.json"))) == 2
    assert len([name for name in tree(studio.data_dir) if name.endswith(".tape.zst")]) == 2


def test_waiting_for_all_of_a_source_is_possible(studio: Studio) -> None:
    frames = list(synthetic_frames(["AAPL"], 50))
    with studio.exchange(ScriptedSource(frames)) as exchange:
        report = studio.record(exchange, scenario=played(exchange))
        assert all_of(exchange)(studio.statuses[-1])
    assert report.books.recorded == 50
