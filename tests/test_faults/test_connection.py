"""Stories 1 to 14: failures of a connection."""

from __future__ import annotations

import threading
import time
from typing import Any

import psutil
import pytest

from stocktrace.errors import KeyInUse
from stocktrace.feed import reconnect
from stocktrace.feed.socket import BatchSocket
from stocktrace.live.api import capture
from stocktrace.sessions.report import GapReport, SessionReport
from stocktrace.simulator import Fault, ScriptedSource, Simulator, SyntheticMarket
from stocktrace.store.layout import Layout
from stocktrace.store.tape import TapeFrames, TapeReader
from tests.conftest import (
    Scenario,
    Studio,
    all_of,
    connected,
    played,
    published,
    sent,
    taped,
    trades,
)
from tests.sampling import sizes
from tests.test_faults.conftest import (
    QUICK_BOUND,
    SLACK,
    all_sent,
    events,
    findings,
    numbered,
    record,
    recorded,
)

PATIENT: dict[str, Any] = {"ping_interval": "60s", "pong_timeout": "60s"}


def seconds(gap: GapReport) -> float:
    return (gap.end - gap.start).total_seconds()


def reconnected(times: int = 1):
    return lambda status: status.connected and status.reconnects >= times


def test_01_half_open_tcp_is_noticed_and_replaced(studio: Studio) -> None:
    faults = [Fault("stall", after_trades=10)]
    with studio.exchange(ScriptedSource(numbered(20)), faults, settle=0.05) as exchange:
        report = record(studio, exchange, played(exchange))
    (gap,) = report.outages
    assert gap.reason == "ping unanswered for 0.3 s"
    assert 0.3 <= seconds(gap) < QUICK_BOUND + SLACK
    assert (exchange.dials, report.reconnects) == (2, 1)
    assert published(studio.data_dir) == {"AAPL": recorded(range(1, 21))}
    assert findings(studio.data_dir) == []


def test_02_half_a_frame_and_then_silence_is_noticed(studio: Studio) -> None:
    faults = [Fault("half-frame", after_trades=10)]
    with studio.exchange(ScriptedSource(numbered(20)), faults, settle=0.05) as exchange:
        report = record(studio, exchange, played(exchange), **PATIENT, frame_timeout="300ms")
    (gap,) = report.outages
    assert gap.reason == "half a frame, then nothing for 0.3 s"
    assert 0.3 <= seconds(gap) < QUICK_BOUND + SLACK
    assert published(studio.data_dir) == {"AAPL": recorded(range(1, 21))}


def test_02_in_half_a_frame_stopping_returns(studio: Studio) -> None:
    stopped = 0.0

    def scenario(exchange: Simulator) -> Scenario:
        nonlocal stopped
        yield trades(10)
        stopped = time.monotonic()

    faults = [Fault("half-frame", after_trades=10)]
    with studio.exchange(ScriptedSource(numbered(20)), faults, settle=0.05) as exchange:
        report = record(studio, exchange, scenario(exchange), **PATIENT, frame_timeout="60s")
    assert time.monotonic() - stopped < 2 + SLACK
    assert report.state == "interrupted"
    assert published(studio.data_dir) == {"AAPL": recorded(range(1, 11))}


def test_03_a_slow_handshake_is_bounded_counted_and_tried_again(studio: Studio) -> None:
    faults = [Fault("handshake-delay", seconds=65.0), Fault("no-answer", after_connections=1)]
    began = time.monotonic()
    with studio.exchange(ScriptedSource(numbered(5)), faults, settle=0.05) as exchange:
        report = record(studio, exchange, played(exchange), handshake_timeout="300ms")
    assert time.monotonic() - began < 2 * (0.3 + 2 * 0.25) + 2 * SLACK
    assert exchange.dials == 3
    reasons = [event["reason"] for event in events(studio.data_dir, "retry")]
    assert reasons == ["no answer to the handshake in 0.3 s"] * 2
    assert [gap.reason for gap in report.gaps][-1] == reasons[-1]
    assert published(studio.data_dir) == {"AAPL": recorded(range(1, 6))}


def test_04_connected_but_mute_is_flagged_per_ticker_without_a_storm(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Coins trade day and night, so that the test has no hours. A quarter of an hour is the default.
    monkeypatch.setattr("stocktrace.live.health.SILENT_S", 0.5)
    monkeypatch.setattr("stocktrace.live.session.STALENESS_INTERVAL_S", 0.05)
    tickers = ["BINANCE:BTCUSDT", "BINANCE:ETHUSDT"]

    def scenario() -> Scenario:
        yield lambda _: len(events(studio.data_dir, "notice")) >= 2
        yield lambda status: status.elapsed_s > 1.0

    with studio.exchange(SyntheticMarket(rate=200), [Fault("mute")], ping_period=0.05) as exchange:
        report = record(studio, exchange, scenario(), tickers)
    assert sorted(report.silent) == tickers
    assert sorted(report.notices) == [
        f"no {each} trades for 0 minutes of market hours" for each in tickers
    ]
    assert (exchange.dials, report.reconnects, report.outages) == (1, 0, [])
    assert report.books.control == report.books.frames > 0


@pytest.mark.parametrize(
    ("fault", "settings", "reason"),
    [
        (Fault("stall"), {}, "ping unanswered for 0.3 s"),
        (Fault("stall"), {**PATIENT, "idle_timeout": "500ms"}, "no frame for 0.5 s"),
        (Fault("half-frame"), {**PATIENT, "frame_timeout": "300ms"}, "half a frame, then nothing"),
        (Fault("mute"), {**PATIENT, "idle_timeout": "500ms"}, "no frame for 0.5 s"),
    ],
    ids=["ping", "silence", "half a frame", "mute"],
)
def test_05_the_watchdog_needs_no_first_message(
    studio: Studio, fault: Fault, settings: dict[str, Any], reason: str
) -> None:
    with studio.exchange(ScriptedSource(numbered(5)), [fault], settle=0.05) as exchange:
        report = record(studio, exchange, reconnects(exchange), **settings)
    (gap,) = report.outages
    assert gap.reason.startswith(reason)
    assert seconds(gap) < QUICK_BOUND + SLACK
    assert exchange.dials == 2


def reconnects(exchange: Simulator) -> Scenario:
    yield reconnected()


def test_06_growing_lag_is_reported(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stocktrace.live.session.STALENESS_INTERVAL_S", 0.05)

    def scenario() -> Scenario:
        yield lambda _: bool(events(studio.data_dir, "notice"))

    # A hundred seconds a second, so that minutes pass in the time of a test.
    faults = [Fault("lag", seconds=100.0)]
    with studio.exchange(SyntheticMarket(rate=500), faults) as exchange:
        report = record(studio, exchange, scenario(), flush_interval="50ms")
    notice, *_ = report.notices
    assert notice.startswith("trades arrive ")
    lags = [stamp // 10**6 - row[0] for stamp, row in stamped(studio, report)]
    assert report.latency.max == pytest.approx(max(lags), abs=2)
    assert max(lags) > 60_000
    for share, told in ((0.5, report.latency.p50), (0.99, report.latency.p99)):
        assert told is not None
        true = sorted(lags)[int(share * (len(lags) - 1))]
        assert true * 0.8 <= told <= true * 1.25  # a bucket is 19 % wide
    assert report.reconnects == 0


def stamped(
    studio: Studio, report: SessionReport
) -> list[tuple[int, tuple[int, float, float, str]]]:
    """The trades on the tape, each with its receive time (epoch ns)."""
    tapes = Layout(studio.data_dir).session_tapes(report.session).values()
    return [
        (entry.stamp, row)
        for tape in tapes
        for entry in TapeReader(tape)
        if isinstance(entry, TapeFrames)
        for rows in sent(entry.frames).values()
        for row in rows
    ]


def test_07_an_illiquid_ticker_causes_no_reconnect(studio: Studio) -> None:
    def scenario(exchange: Simulator) -> Scenario:
        yield trades(1)
        beats = exchange.sent_frames
        yield lambda _: exchange.sent_frames >= beats + 20  # several times all bounds

    with studio.exchange(ScriptedSource(numbered(1)), settle=0.05, ping_period=0.1) as exchange:
        report = record(
            studio, exchange, scenario(exchange), idle_timeout="600ms", frame_timeout="300ms"
        )
    assert (exchange.dials, report.reconnects, report.outages) == (1, 0, [])
    assert report.books.trades == 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault("close", code=1000, repeat=True),
        Fault("close", code=1001, repeat=True),
        Fault("drop", repeat=True),
        Fault("status", status=503, repeat=True),
    ],
    ids=["1000", "1001", "drop", "503"],
)
def test_08_no_reconnect_storm(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    others: list[int] = []
    connect = BatchSocket.connect

    def counted(self: BatchSocket, url: str, **options: object) -> None:
        others.append(connections_to(exchange.port))
        connect(self, url, **options)

    def scenario() -> Scenario:
        yield lambda _: exchange.dials >= 8

    monkeypatch.setattr(BatchSocket, "connect", counted)
    with studio.exchange(faults=[fault]) as exchange:
        base, cap, floor = 0.02, 0.2, 0.01
        began = time.monotonic()
        record(
            studio, exchange, scenario(), backoff_base=base, backoff_cap=cap, backoff_floor=floor
        )
        elapsed = time.monotonic() - began
    waits = [event["wait_s"] for event in events(studio.data_dir, "retry")]
    assert len(waits) >= 7
    for number, wait in enumerate(waits):
        assert floor <= wait <= max(floor, min(cap, base * 2**number)) + 0.001
    assert len(set(waits)) > len(waits) // 2  # jitter
    assert sum(waits[:7]) <= elapsed + 0.01
    assert set(others) == {0}  # never two at once


def connections_to(port: int) -> int:
    """This process' own open connections to ``port``."""
    return sum(
        each.status == psutil.CONN_ESTABLISHED and each.raddr[1] == port
        for each in psutil.Process().net_connections("tcp")
    )


def test_08_after_too_many_dials_it_waits_for_minutes(studio: Studio) -> None:
    def scenario() -> Scenario:
        yield lambda _: bool(events(studio.data_dir, "retry"))
        yield lambda status: status.elapsed_s > 1.0

    with studio.exchange(faults=[Fault("status", status=429, repeat=True)]) as exchange:
        record(studio, exchange, scenario())
    (retry,) = events(studio.data_dir, "retry")
    assert retry["reason"] == "HTTP 429 at the handshake"
    assert reconnect.RATE_LIMIT_FLOOR_S == 60 <= retry["wait_s"] <= 600
    assert exchange.dials == 1


@pytest.mark.parametrize("code", [1000, 1001])
def test_09_a_clean_close_is_not_the_end(studio: Studio, code: int) -> None:
    with studio.exchange(
        ScriptedSource(numbered(20)), [Fault("close", after_trades=10, code=code)], settle=0.05
    ) as exchange:
        report = record(studio, exchange, lasting=2.0)
    assert (report.state, report.reason) == ("complete", "its end time was reached")
    assert report.ended is not None
    assert (report.ended - report.started).total_seconds() >= 1.9
    assert [gap.reason for gap in report.outages] == [f"closed by the server ({code})"]
    assert published(studio.data_dir) == {"AAPL": recorded(range(1, 21))}


def test_10_a_server_that_stays_away_fails_the_run_and_keeps_the_trades(studio: Studio) -> None:
    exchange = studio.exchange(ScriptedSource(numbered(20)), settle=0.05).start()

    def scenario() -> Scenario:
        yield all_of(exchange)
        exchange.stop()
        yield lambda _: False

    report = record(studio, exchange, scenario(), lasting=2.5)
    assert report.state == "failed"
    assert report.reason.startswith("not connected at the end: ")
    assert "refused" in report.reason.lower()
    assert published(studio.data_dir) == {"AAPL": recorded(range(1, 21))}
    assert report.balanced
    assert findings(studio.data_dir) == []


def test_11_after_a_drop_all_tickers_are_subscribed_again(studio: Studio) -> None:
    tickers = ["AAPL", "MSFT", "BINANCE:BTCUSDT", "OANDA:EUR_USD"]
    with studio.exchange(faults=[Fault("drop", after_seconds=0.2)]) as exchange:
        report = record(studio, exchange, reconnects(exchange), tickers)
        exchange.wait_for(lambda exchange: len(exchange.connections) == 2)
    first, second = exchange.connections
    assert first.subscriptions == second.subscriptions == tuple(tickers)
    assert report.reconnects == 1


@pytest.mark.parametrize("drops", sizes(50, 200))
def test_12_many_drops_leak_no_socket_and_no_thread(studio: Studio, drops: int) -> None:
    process, counts = psutil.Process(), []

    def scenario(exchange: Simulator) -> Scenario:
        for times in (20, drops):
            yield reconnected(times)
            exchange.clear_faults()
            yield lambda status: status.connected and exchange.open_connections == 1
            counts.append(
                (process.num_fds(), threading.active_count(), connections_to(exchange.port))
            )
            exchange.inject(Fault("drop", after_trades=1, repeat=True))

    fault = Fault("drop", after_trades=1, repeat=True)
    market = SyntheticMarket(rate=500)
    with studio.exchange(market, [fault], settle=None, keep=False) as exchange:
        report = record(
            studio, exchange, scenario(exchange),
            backoff_base="1ms", backoff_cap="2ms", backoff_floor="1ms", lasting=60.0,
        )  # fmt: skip
    (fds, threads, sockets), (later_fds, later_threads, later_sockets) = counts
    assert (sockets, later_sockets) == (1, 1)
    # The audit log is open for moments, and a dial has a guard.
    assert later_fds <= fds + 3
    assert later_threads <= threads + 1
    assert report.reconnects >= drops
    assert report.books.trades >= drops


def test_13_each_drop_is_reported_once_in_the_log_and_in_the_gaps(studio: Studio) -> None:
    def scenario() -> Scenario:
        yield reconnected(20)

    fault = Fault("drop", after_trades=1, repeat=True)
    with studio.exchange(SyntheticMarket(rate=500), [fault], settle=None) as exchange:
        report = record(studio, exchange, scenario())
    drops = events(studio.data_dir, "disconnect")
    connects = events(studio.data_dir, "connect")
    assert len(connects) - 1 == report.reconnects >= 20
    assert len(report.outages) == len(drops)
    assert {drop["reason"] for drop in drops} == {gap.reason for gap in report.outages}
    assert len(drops) <= len(exchange.connections) <= len(drops) + 1


def test_14_a_second_capture_with_the_key_is_refused_and_harms_nothing(studio: Studio) -> None:
    told: list[str] = []

    def scenario(exchange: Simulator) -> Scenario:
        yield connected
        before = studio.files()
        with pytest.raises(KeyInUse) as refused:
            capture(["MSFT"], duration=5, settings=studio.settings(exchange))
        told.append(str(refused.value))
        assert studio.files() == before
        yield all_of(exchange)

    market = SyntheticMarket(rate=500, trades=500)
    with studio.exchange(market, settle=0.05) as exchange:
        report = record(studio, exchange, scenario(exchange))
    assert told == [
        (
            f"Another capture on this host already uses this API key (session {report.session}, "
            f"process {report.pid}). Stop it first, or use a second key."
        )
    ]
    assert (exchange.dials, report.reconnects) == (1, 0)
    assert published(studio.data_dir) == sent(all_sent(exchange))


def test_14_a_key_in_use_on_another_host_is_reported_as_likely(studio: Studio) -> None:
    """No lock of ours can know, but short connections can be seen."""

    def scenario() -> Scenario:
        yield lambda _: bool(events(studio.data_dir, "notice"))

    with studio.exchange(faults=[Fault("drop", repeat=True)]) as exchange:
        report = record(studio, exchange, scenario())
    assert report.notices == [
        (
            f"{reconnect.SHORT_CONNECTIONS} connections in a row ended within 10 s: "
            "is this API key in use elsewhere?"
        )
    ]
    assert taped(studio.data_dir, report.session) == []
