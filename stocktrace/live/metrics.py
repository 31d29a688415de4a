"""A capture's status as Prometheus metrics, made when somebody asks for them.

The capture only leaves its newest status here, twice a second. Counters begin at 0 with each
session, as they do for Prometheus when a process is started again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from stocktrace._version import __version__
from stocktrace.clock import SYSTEM_CLOCK, Clock
from stocktrace.live.health import PROBLEM_KINDS, HealthInput, Problem, find_problems
from stocktrace.sessions.status import CaptureStatus
from stocktrace.settings import Settings
from stocktrace.store import files
from stocktrace.units import MS_PER_SECOND, NS_PER_SECOND, utc_datetime

#: Above so many tickers only the totals are given: each ticker is four time series of the server.
MAX_TICKERS = 500

_Value = Callable[[CaptureStatus], float]
# Names without their prefix; Prometheus' client adds "_total" to those of counters.
_COUNTERS: dict[str, tuple[str, _Value]] = {
    "trades": ("Trades received.", attrgetter("trades")),
    "trades_recorded": ("Trades in CSV or Parquet.", attrgetter("recorded")),
    "trades_quarantined": ("Trades that the schema refused.", attrgetter("quarantined")),
    "trades_published": ("Trades in Parquet.", attrgetter("parquet")),
    "windows_rolled": ("Windows that have ended.", attrgetter("rolled")),
    "windows_published": ("Windows whose trades are in Parquet.", attrgetter("published")),
    "parquet_files": ("Parquet files published.", attrgetter("files")),
    "spilled_tickers": (
        "Tickers that are had from the tape for want of room in a queue, once for each window.",
        attrgetter("spilled"),
    ),
    "reconnects": ("Connections lost.", attrgetter("reconnects")),
    "gaps": ("Gaps that are over; all tickers together count once.", attrgetter("gaps")),
    "gap_seconds": ("Seconds of these gaps.", attrgetter("gap_s")),
    "notices": ("Warnings in the session's report.", attrgetter("notices")),
}
_GAUGES: dict[str, tuple[str, _Value]] = {
    "connected": ("1 while the feed listens.", attrgetter("connected")),
    "tickers": ("Tickers that are captured.", lambda status: len(status.tickers)),
    "session_elapsed_seconds": ("Age of the session.", attrgetter("elapsed_s")),
    "session_remaining_seconds": ("Time until the session ends.", attrgetter("remaining_s")),
    "queue_trades": ("Trades that wait for the recorder.", attrgetter("backlog")),
    "queue_oldest_seconds": ("For how long the oldest of them waits.", attrgetter("behind_s")),
    "lag_seconds": (
        "How long after the exchange's time the last batch came: its median.",
        lambda status: status.lag_ms / MS_PER_SECOND,
    ),
}
_FRAMES = {"trade": "trade_frames", "control": "control", "undecodable": "undecodable"}
_QUANTILES = {"0.5": "p50", "0.99": "p99", "1": "max"}


@dataclass(frozen=True, slots=True)
class _LatestStatus:
    """A status, and when it was left here (monotonic seconds)."""

    status: CaptureStatus
    at: float
    away_s: float


class Metrics(Collector):
    """Call it with each status of a capture; ask it from any thread."""

    def __init__(self, settings: Settings, clock: Clock = SYSTEM_CLOCK) -> None:
        self._settings = settings
        self._clock = clock
        self._heard_s = 0.0
        self._seen: _LatestStatus | None = None

    def __call__(self, status: CaptureStatus) -> None:
        """Take note of how the capture stands."""
        if status.connected:
            self._heard_s = status.elapsed_s
        # One assignment: who asks meanwhile has the whole of the old one, or of the new one.
        self._seen = _LatestStatus(
            status, self._clock.monotonic(), status.elapsed_s - self._heard_s
        )

    @property
    def session(self) -> str:
        """The session's name; empty before it begins."""
        return self._seen.status.session if self._seen else ""

    def problems(self) -> list[Problem] | None:
        """What is wrong with the capture; ``None`` if it has not begun."""
        seen = self._seen
        if seen is None:
            return None
        look = HealthInput(
            seen.status,
            utc_datetime(self._clock.wall()),
            self._clock.monotonic() - seen.at,
            seen.away_s,
            self._free(),
            self._settings.min_free_space,
            self._settings.flush_interval,
        )
        return list(find_problems(look))

    def collect(self) -> Iterator[Metric]:
        """All metrics; none before the capture begins."""
        seen = self._seen
        if seen is None:
            return
        status = seen.status
        info = InfoMetricFamily("stocktrace_session", "The session and who records it.")
        info.add_metric([], {"session": status.session, "version": __version__})
        yield info
        for name, (text, value) in _COUNTERS.items():
            yield CounterMetricFamily(f"stocktrace_{name}", text, value(status))
        for name, (text, value) in _GAUGES.items():
            yield GaugeMetricFamily(f"stocktrace_{name}", text, value(status))
        for name, text, now in (
            ("status_age_seconds", "Age of these figures.", self._clock.monotonic() - seen.at),
            ("disconnected_seconds", "Since the connection was lost.", seen.away_s),
            ("disk_free_bytes", "Free space for the data folder.", self._free()),
            ("disk_min_free_bytes", "The capture ends below it.", self._settings.min_free_space),
        ):
            yield GaugeMetricFamily(f"stocktrace_{name}", text, now)
        yield self._problems()
        yield _frames(status)
        yield _quantiles(status)
        if len(status.tickers) <= MAX_TICKERS:
            yield from _per_ticker(status)

    def _problems(self) -> Metric:
        family = GaugeMetricFamily(
            "stocktrace_problems", "What /healthz complains of, by kind.", labels=["kind"]
        )
        found = [problem.kind for problem in self.problems() or ()]
        for kind in PROBLEM_KINDS:
            family.add_metric([kind], found.count(kind))
        return family

    def _free(self) -> int:
        return files.free_bytes(self._settings.data_dir)


def _frames(status: CaptureStatus) -> Metric:
    family = CounterMetricFamily("stocktrace_frames", "Frames received, by kind.", labels=["kind"])
    for kind, name in _FRAMES.items():
        family.add_metric([kind], getattr(status, name))
    return family


def _quantiles(status: CaptureStatus) -> Metric:
    family = GaugeMetricFamily(
        "stocktrace_session_lag_seconds",
        "Receipt after the exchange's time, of all trades of the session.",
        labels=["quantile"],
    )
    for share, name in _QUANTILES.items():
        if (value := getattr(status.latency, name)) is not None:
            family.add_metric([share], value / MS_PER_SECOND)
    return family


def _per_ticker(status: CaptureStatus) -> Iterator[Metric]:
    labels = ["ticker"]
    received = CounterMetricFamily("stocktrace_ticker_trades", "Trades received.", labels=labels)
    refused = CounterMetricFamily(
        "stocktrace_ticker_quarantined", "Trades that the schema refused.", labels=labels
    )
    queued = GaugeMetricFamily("stocktrace_ticker_queue_trades", "Trades that wait.", labels=labels)
    last = GaugeMetricFamily(
        "stocktrace_ticker_last_trade_timestamp_seconds",
        "When the last trade was received; missing before the first.",
        labels=labels,
    )
    for ticker in status.tickers:
        received.add_metric([ticker], status.per_ticker.get(ticker, 0))
        refused.add_metric([ticker], status.quarantined_by_ticker.get(ticker, 0))
        queued.add_metric([ticker], status.queued.get(ticker, 0))
        if ticker in status.last:
            last.add_metric([ticker], status.last[ticker] / NS_PER_SECOND)
    yield from (received, refused, queued, last)
