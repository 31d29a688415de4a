"""A capture's status as Prometheus metrics, computed at each scrape.

The capture only stores its newest status here, twice a second. Counters begin at 0 with each
session, which Prometheus treats like a restart of the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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

#: With more tickers only the totals are exported: each ticker is four time series of the server.
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
        "Tickers that are rebuilt from the tape because a queue was full, once for each window.",
        attrgetter("spilled"),
    ),
    "reconnects": ("Connections lost.", attrgetter("reconnects")),
    "gaps": ("Gaps that have ended; all tickers together count once.", attrgetter("gaps")),
    "gap_seconds": ("Seconds of these gaps.", attrgetter("gap_s")),
    "notices": ("Warnings in the session's report.", attrgetter("notices")),
}
_GAUGES: dict[str, tuple[str, _Value]] = {
    "connected": ("1 while the feed is connected.", attrgetter("connected")),
    "tickers": ("Captured tickers.", lambda status: len(status.tickers)),
    "session_elapsed_seconds": ("Age of the session.", attrgetter("elapsed_s")),
    "session_remaining_seconds": ("Time until the session ends.", attrgetter("remaining_s")),
    "queue_trades": ("Trades that wait for the recorder.", attrgetter("backlog")),
    "queue_oldest_seconds": ("How long the oldest of them has waited.", attrgetter("behind_s")),
    "lag_seconds": (
        "Median lag of the last batch after the exchange's time.",
        lambda status: status.lag_ms / MS_PER_SECOND,
    ),
}
_FRAMES = {"trade": "trade_frames", "control": "control", "undecodable": "undecodable"}
_QUANTILES = {"0.5": "p50", "0.99": "p99", "1": "max"}


@dataclass(frozen=True, slots=True)
class _LatestStatus:
    """A status, and when it was stored (monotonic seconds)."""

    status: CaptureStatus
    stored_at: float
    disconnected_s: float


class Metrics(Collector):
    """Called with each status of a capture; collected from any thread."""

    def __init__(self, settings: Settings, clock: Clock = SYSTEM_CLOCK) -> None:
        self._settings = settings
        self._clock = clock
        self._connected_s = 0.0
        self._latest: _LatestStatus | None = None

    def __call__(self, status: CaptureStatus) -> None:
        """Store the newest status."""
        if status.connected:
            self._connected_s = status.elapsed_s
        # One assignment: other threads see all of the old status or all of the new one.
        self._latest = _LatestStatus(
            status, self._clock.monotonic(), status.elapsed_s - self._connected_s
        )

    @property
    def session(self) -> str:
        """The session's name; empty before it begins."""
        return self._latest.status.session if self._latest else ""

    def problems(self) -> list[Problem] | None:
        """Return the problems of the capture; ``None`` if it has not begun."""
        latest = self._latest
        if latest is None:
            return None
        capture = HealthInput(
            latest.status,
            utc_datetime(self._clock.wall()),
            self._age_s(latest),
            latest.disconnected_s,
            self._free_bytes(),
            self._settings.min_free_space,
            self._settings.flush_interval,
        )
        return list(find_problems(capture))

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics; none before the capture begins."""
        latest = self._latest
        if latest is None:
            return
        status = latest.status
        info = InfoMetricFamily("stocktrace_session", "The session and who records it.")
        info.add_metric([], {"session": status.session, "version": __version__})
        yield info
        for name, (text, value) in _COUNTERS.items():
            yield CounterMetricFamily(f"stocktrace_{name}", text, value(status))
        for name, (text, value) in _GAUGES.items():
            yield GaugeMetricFamily(f"stocktrace_{name}", text, value(status))
        for name, text, figure in (
            ("status_age_seconds", "Age of these figures.", self._age_s(latest)),
            ("disconnected_seconds", "Seconds since the disconnect.", latest.disconnected_s),
            ("disk_free_bytes", "Free space for the data folder.", self._free_bytes()),
            ("disk_min_free_bytes", "The capture ends below it.", self._settings.min_free_space),
        ):
            yield GaugeMetricFamily(f"stocktrace_{name}", text, figure)
        kinds = [problem.kind for problem in self.problems() or ()]
        counts: dict[str, float] = {kind: kinds.count(kind) for kind in PROBLEM_KINDS}
        text = "Problems that /healthz reports, by kind."
        yield _labelled(GaugeMetricFamily, "problems", text, "kind", counts)
        frames = {kind: getattr(status, name) for kind, name in _FRAMES.items()}
        yield _labelled(CounterMetricFamily, "frames", "Frames received, by kind.", "kind", frames)
        quantiles = {share: getattr(status.latency, name) for share, name in _QUANTILES.items()}
        lags = {share: ms / MS_PER_SECOND for share, ms in quantiles.items() if ms is not None}
        text = "Lag of all trades of the session after the exchange's time."
        yield _labelled(GaugeMetricFamily, "session_lag_seconds", text, "quantile", lags)
        if len(status.tickers) <= MAX_TICKERS:
            yield from _per_ticker(status)

    def _age_s(self, latest: _LatestStatus) -> float:
        return self._clock.monotonic() - latest.stored_at

    def _free_bytes(self) -> int:
        return files.free_bytes(self._settings.data_dir)


def _per_ticker(status: CaptureStatus) -> Iterator[Metric]:
    for kind, name, text, values in (
        (CounterMetricFamily, "trades", "Trades received.", status.per_ticker),
        (
            CounterMetricFamily,
            "quarantined",
            "Trades that the schema refused.",
            status.quarantined_by_ticker,
        ),
        (GaugeMetricFamily, "queue_trades", "Trades that wait for the recorder.", status.queued),
    ):
        counts = {ticker: values.get(ticker, 0) for ticker in status.tickers}
        yield _labelled(kind, f"ticker_{name}", text, "ticker", counts)
    yield _labelled(
        GaugeMetricFamily,
        "ticker_last_trade_timestamp_seconds",
        "When the last trade was received; missing before the first.",
        "ticker",
        {name: status.last[name] / NS_PER_SECOND for name in status.tickers if name in status.last},
    )


def _labelled(
    kind: type[CounterMetricFamily | GaugeMetricFamily],
    name: str,
    text: str,
    label: str,
    values: Mapping[str, float],
) -> Metric:
    family = kind(f"stocktrace_{name}", text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
