from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from stocktrace.clock import Clock
from stocktrace.errors import SettingsError
from stocktrace.live.health import find_problems
from stocktrace.live.metrics import MAX_TICKERS, Metrics, serve_metrics
from stocktrace.sessions.report import LagReport
from stocktrace.sessions.status import CaptureStatus
from stocktrace.settings import Settings
from stocktrace.simulator import SyntheticMarket
from tests.conftest import NOON, SESSION, Scenario, Studio, all_of
from tests.statuses import a_status

#: Ten seconds after the last trade.
NOW = NOON + 10_000_000_000

Samples = dict[tuple[str, str], float]


def busy(**given: Any) -> CaptureStatus:
    """One in which every figure is another."""
    usual: dict[str, Any] = {
        "trades": 30,
        "backlog": 4,
        "reconnects": 1,
        "tickers": ("AAPL", 'odd"\\\n'),
        "per_ticker": {"AAPL": 30},
        "recorded": 25,
        "quarantined": 1,
        "quarantined_by_ticker": {"AAPL": 1},
        "queued": {"AAPL": 4},
        "gaps": 2,
        "gap_s": 8.5,
        "latency": LagReport(70.0, 90.0, 100.0),
        "behind_s": 0.5,
        "trade_frames": 9,
        "control": 2,
        "undecodable": 1,
        "last": {"AAPL": NOON + 500_000_000},
        "rolled": 3,
        "spilled": 2,
        "published": 2,
        "files": 6,
        "parquet": 20,
        "notices": 1,
    }
    return a_status(**{**usual, **given})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(data_dir=tmp_path, min_free_space="1MB", metrics="0")


def clock(monotonic: float = 0.0) -> Clock:
    return Clock(lambda: NOW, lambda: monotonic)


def samples(text: str) -> Samples:
    """Name and label (one at most) to value."""
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(metrics: Metrics) -> Samples:
    registry = CollectorRegistry()
    registry.register(metrics)
    return samples(generate_latest(registry).decode())


def test_every_figure_of_the_status_is_a_metric(settings: Settings) -> None:
    metrics = Metrics(settings, clock())
    metrics(busy())
    found = scraped(metrics)
    assert found.pop(("stocktrace_disk_free_bytes", "")) > 0
    assert found.pop(("stocktrace_disk_free_inodes", ""), 1) > 0  # btrfs has no limit
    problems = {key: value for key, value in found.items() if key[0] == "stocktrace_problems"}
    assert problems == {
        ("stocktrace_problems", kind): 0.0
        for kind in ("stalled", "disconnected", "late", "lag", "queue", "publishing", "disk")
    }
    assert {key: value for key, value in found.items() if key not in problems} == {
        ("stocktrace_session_info", SESSION): 1.0,
        ("stocktrace_frames_total", "trade"): 9.0,
        ("stocktrace_frames_total", "control"): 2.0,
        ("stocktrace_frames_total", "undecodable"): 1.0,
        ("stocktrace_trades_total", ""): 30.0,
        ("stocktrace_trades_recorded_total", ""): 25.0,
        ("stocktrace_trades_quarantined_total", ""): 1.0,
        ("stocktrace_trades_unrequested_total", ""): 0.0,
        ("stocktrace_trades_published_total", ""): 20.0,
        ("stocktrace_windows_rolled_total", ""): 3.0,
        ("stocktrace_spilled_tickers_total", ""): 2.0,
        ("stocktrace_windows_published_total", ""): 2.0,
        ("stocktrace_parquet_files_total", ""): 6.0,
        ("stocktrace_reconnects_total", ""): 1.0,
        ("stocktrace_gaps_total", ""): 2.0,
        ("stocktrace_gap_seconds_total", ""): 8.5,
        ("stocktrace_notices_total", ""): 1.0,
        ("stocktrace_connected", ""): 1.0,
        ("stocktrace_disconnected_seconds", ""): 0.0,
        ("stocktrace_tickers", ""): 2.0,
        ("stocktrace_session_elapsed_seconds", ""): 10.0,
        ("stocktrace_session_remaining_seconds", ""): 20.0,
        ("stocktrace_status_age_seconds", ""): 0.0,
        ("stocktrace_queue_trades", ""): 4.0,
        ("stocktrace_queue_oldest_seconds", ""): 0.5,
        ("stocktrace_feed_lag_seconds", ""): 0.0,
        ("stocktrace_publishing_oldest_seconds", ""): 0.0,
        ("stocktrace_reconnect_attempt", ""): 0.0,
        ("stocktrace_lag_seconds", ""): 0.08,
        ("stocktrace_session_lag_seconds", "0.5"): 0.07,
        ("stocktrace_session_lag_seconds", "0.99"): 0.09,
        ("stocktrace_session_lag_seconds", "1"): 0.1,
        ("stocktrace_disk_min_free_bytes", ""): 1_000_000.0,
        ("stocktrace_ticker_trades_total", "AAPL"): 30.0,
        ("stocktrace_ticker_trades_total", 'odd"\\\n'): 0.0,
        ("stocktrace_ticker_quarantined_total", "AAPL"): 1.0,
        ("stocktrace_ticker_quarantined_total", 'odd"\\\n'): 0.0,
        ("stocktrace_ticker_queue_trades", "AAPL"): 4.0,
        ("stocktrace_ticker_queue_trades", 'odd"\\\n'): 0.0,
        ("stocktrace_ticker_last_trade_timestamp_seconds", "AAPL"): 1_795_444_200.5,
    }


def test_a_capture_that_has_not_begun_has_no_metrics(settings: Settings) -> None:
    metrics = Metrics(settings)
    assert scraped(metrics) == {}
    assert metrics.health_input() is None


def test_with_very_many_tickers_only_the_totals_are_exported(settings: Settings) -> None:
    tickers = tuple(f"T{number}" for number in range(MAX_TICKERS + 1))
    metrics = Metrics(settings, clock())
    metrics(busy(tickers=tickers))
    found = scraped(metrics)
    assert found["stocktrace_tickers", ""] == MAX_TICKERS + 1
    assert not [name for name, _ in found if name.startswith("stocktrace_ticker_")]
    metrics(busy(tickers=tickers[1:]))
    assert ("stocktrace_ticker_trades_total", "T1") in scraped(metrics)


def test_disconnected_seconds_count_from_the_last_connection(
    settings: Settings,
) -> None:
    metrics = Metrics(settings, clock())
    for elapsed_s, connected in ((10.0, True), (40.0, False), (80.0, False)):
        metrics(busy(elapsed_s=elapsed_s, connected=connected))
    assert scraped(metrics)["stocktrace_disconnected_seconds", ""] == 70.0
    assert scraped(metrics)["stocktrace_problems", "disconnected"] == 1.0
    metrics(busy(elapsed_s=81.0))
    assert scraped(metrics)["stocktrace_disconnected_seconds", ""] == 0.0


def test_a_capture_without_a_new_status_is_stalled(settings: Settings) -> None:
    now = [0.0]
    metrics = Metrics(settings, replace(clock(), monotonic=lambda: now[0]))
    metrics(busy())
    now[0] = 60.0
    assert scraped(metrics)["stocktrace_status_age_seconds", ""] == 60.0
    capture = metrics.health_input()
    assert capture is not None
    assert [kind for kind, _ in find_problems(capture)] == ["stalled"]


# --- over HTTP -------------------------------------------------------------------------------


class Answer(NamedTuple):
    status: int
    text: str


@pytest.fixture
def ask(caplog: pytest.LogCaptureFixture) -> Callable[[str], Answer]:
    """Asks the endpoint that told its address last."""
    caplog.set_level("INFO", "stocktrace")

    def ask(path: str) -> Answer:
        connection = http.client.HTTPConnection(address(caplog), timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return Answer(response.status, response.read().decode())

    return ask


def address(caplog: pytest.LogCaptureFixture) -> str:
    told = [each.getMessage() for each in caplog.records if "metrics at" in each.getMessage()]
    return told[-1].split("/")[2]


def test_the_server_answers_metrics_and_health_only(
    settings: Settings, ask: Callable[[str], Answer]
) -> None:
    with serve_metrics(settings, clock()) as tell:
        early = ask("/healthz")
        tell(busy())
        found = samples(ask("/metrics").text)
        assert found["stocktrace_trades_total", ""] == 30.0
        assert ("process_resident_memory_bytes", "") in found, "the process's own are there, too"
        health, other = ask("/healthz"), ask("/")
        assert ask("/health?probe=1") == health
    assert early.status == 503
    assert json.loads(early.text)["problems"] == ["the capture has not begun"]
    assert health.status == 200
    assert json.loads(health.text) == {"healthy": True, "session": SESSION, "problems": []}
    assert other.status == 404


def test_a_problem_makes_health_503_and_is_in_its_body(
    settings: Settings, ask: Callable[[str], Answer]
) -> None:
    with serve_metrics(settings, clock()) as tell:
        tell(busy(behind_s=90.0))
        answer = ask("/healthz")
        tell(busy())
        assert ask("/healthz").status == 200
    assert answer.status == 503
    assert json.loads(answer.text) == {
        "healthy": False,
        "session": SESSION,
        "problems": ["4 trades wait for the disk, the oldest for 90 s"],
    }


def test_a_silent_client_does_not_delay_others(
    settings: Settings, ask: Callable[[str], Answer], caplog: pytest.LogCaptureFixture
) -> None:
    with serve_metrics(settings, clock()) as tell:
        tell(busy())
        host, port = address(caplog).split(":")
        with contextlib.ExitStack() as silent:
            for _ in range(20):
                silent.enter_context(socket.create_connection((host, int(port))))
            assert ask("/healthz").status == 200


def test_the_address_is_free_again_afterwards(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    again = settings.model_copy(update={"metrics": f"127.0.0.1:{port}"})
    for _ in range(2):
        with serve_metrics(again):
            pass


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield str(server.getsockname()[1])


def test_an_address_in_use_is_reported_before_anything_is_created(
    studio: Studio, taken: str
) -> None:
    with (
        studio.exchange() as exchange,
        pytest.raises(
            SettingsError, match=r"Cannot listen on 127\.0\.0\.1:.*\. Choose another port"
        ),
    ):
        studio.record(exchange, metrics=taken)
    assert not studio.data_dir.exists()
    assert not exchange.connections


def test_an_unknown_host_is_reported(settings: Settings) -> None:
    wrong = settings.model_copy(update={"metrics": "no.such.host.invalid:0"})
    with (
        pytest.raises(SettingsError, match=r"Cannot listen on no\.such\.host\.invalid:0"),
        serve_metrics(wrong),
    ):
        pass


# --- of a real capture -----------------------------------------------------------------------


def test_the_metrics_of_a_capture_are_its_books(
    studio: Studio, ask: Callable[[str], Answer]
) -> None:
    seen: list[Samples] = []
    health: list[int] = []
    with studio.exchange(SyntheticMarket(rate=5000, trades=2000)) as exchange:

        def scenario() -> Scenario:
            yield lambda _: bool(exchange.connections)
            seen.append(samples(ask("/metrics").text))
            yield lambda status: all_of(exchange)(status) and status.recorded == status.trades
            seen.append(samples(ask("/metrics").text))
            health.append(ask("/healthz").status)

        report = studio.record(exchange, ["AAPL", "MSFT"], scenario(), metrics="0")
    last = seen[-1]
    assert last["stocktrace_trades_total", ""] == report.books.trades > 0
    assert last["stocktrace_trades_recorded_total", ""] == report.books.recorded
    assert last["stocktrace_frames_total", "trade"] == report.books.trade_frames
    assert {name: last["stocktrace_ticker_trades_total", name] for name in ("AAPL", "MSFT")} == {
        name: one.trades for name, one in report.per_ticker.items()
    }
    assert health == [200]
    with pytest.raises(ConnectionRefusedError):
        ask("/metrics")
