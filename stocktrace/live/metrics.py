"""A capture's status as Prometheus metrics, served over HTTP: ``/metrics`` and ``/healthz``.

The capture only stores its newest status here, twice a second; metrics are computed at each scrape.
Counters begin at 0 with each session, which Prometheus treats like a restart of the process.
``/healthz`` is 200 without problems and 503 with problems, which its body lists. The address is
bound before the capture begins, and separate threads answer.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from operator import attrgetter
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Metric, MetricsHandler, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from stocktrace._version import __version__
from stocktrace.clock import SYSTEM_CLOCK, Clock
from stocktrace.errors import SettingsError, StocktraceError, usage_or
from stocktrace.live.health import PROBLEM_KINDS, HealthInput, find_problems
from stocktrace.sessions.status import CaptureStatus
from stocktrace.settings import Settings
from stocktrace.store import files
from stocktrace.units import MS_PER_SECOND, NS_PER_SECOND, utc_datetime

log = logging.getLogger(__name__)

#: With more tickers only the totals are exported: each ticker is four time series of the server.
MAX_TICKERS = 500
# How long a client may take to send its request, or to read the answer.
_CLIENT_TIMEOUT_S = 10.0
# A capture that takes over the key waits for the end of this, too.
_POLL_INTERVAL_S = 0.1

_Value = Callable[[CaptureStatus], float]
_Family = type[CounterMetricFamily | GaugeMetricFamily]
# Names without their prefix; Prometheus' client adds "_total" to those of counters.
_COUNTERS: dict[str, tuple[str, _Value]] = {
    "trades": ("Trades received.", attrgetter("trades")),
    "trades_recorded": ("Trades in CSV or Parquet.", attrgetter("recorded")),
    "trades_quarantined": ("Trades that the schema refused.", attrgetter("quarantined")),
    "trades_published": ("Trades in Parquet.", attrgetter("parquet")),
    "trades_unrequested": (
        "Trades of tickers that nobody asked for; they are only on the tape.",
        attrgetter("unrequested"),
    ),
    "windows_rolled": ("Windows that have ended.", attrgetter("rolled")),
    "windows_published": ("Windows whose trades are in Parquet.", attrgetter("published")),
    "parquet_files": ("Parquet files published.", attrgetter("files")),
    "spilled_tickers": (
        "Tickers that are rebuilt from the tape because a queue was full, once for each window.",
        attrgetter("spilled"),
    ),
    "reconnects": ("Connections lost.", attrgetter("reconnects")),
    "gaps": ("Gaps, with one that lasts; all tickers together count once.", attrgetter("all_gaps")),
    "gap_seconds": ("Seconds of these gaps.", attrgetter("all_gap_s")),
    "notices": ("Warnings in the session's report.", attrgetter("notices")),
}
_GAUGES: dict[str, tuple[str, _Value]] = {
    "connected": ("1 while the feed is connected.", attrgetter("connected")),
    "tickers": ("Captured tickers.", lambda status: len(status.tickers)),
    "session_elapsed_seconds": ("Age of the session.", attrgetter("elapsed_s")),
    "session_remaining_seconds": ("Time until the session ends.", attrgetter("remaining_s")),
    "queue_trades": ("Trades that wait for the recorder.", attrgetter("backlog")),
    "queue_oldest_seconds": ("How long the oldest of them has waited.", attrgetter("behind_s")),
    "publishing_oldest_seconds": (
        "How long the oldest window that is not published has waited.",
        attrgetter("publishing_s"),
    ),
    "reconnect_attempt": (
        "Number of the next attempt to connect; 0 while connected.",
        lambda status: status.retry.attempt if status.retry else 0,
    ),
    "feed_lag_seconds": (
        "How far the feed is behind, whatever the clocks say; 0 up to two seconds.",
        attrgetter("feed_lag_s"),
    ),
    "lag_seconds": (
        "Median lag of the last batch after the exchange's time.",
        lambda status: status.lag_ms / MS_PER_SECOND,
    ),
}
_TICKER_METRICS: tuple[tuple[_Family, str, str, str], ...] = (
    (CounterMetricFamily, "trades", "Trades received.", "per_ticker"),
    (
        CounterMetricFamily,
        "quarantined",
        "Trades that the schema refused.",
        "quarantined_by_ticker",
    ),
    (GaugeMetricFamily, "queue_trades", "Trades that wait for the recorder.", "queued"),
)
_FRAMES = {"trade": "trade_frames", "control": "control", "undecodable": "undecodable"}
_QUANTILES = {"0.5": "p50", "0.99": "p99", "1": "max"}


class Metrics(Collector):
    """Called with each status of a capture; collected from any thread."""

    def __init__(self, settings: Settings, clock: Clock = SYSTEM_CLOCK) -> None:
        self._settings = settings
        self._clock = clock
        self._connected_s = 0.0
        #: The newest status, when it was stored (monotonic), and the seconds since the disconnect.
        self._latest: tuple[CaptureStatus, float, float] | None = None

    def __call__(self, status: CaptureStatus) -> None:
        """Store the newest status."""
        if status.connected:
            self._connected_s = status.elapsed_s
        # One assignment: other threads see all of the old status or all of the new one.
        self._latest = (status, self._clock.monotonic(), status.elapsed_s - self._connected_s)

    def health_input(self) -> HealthInput | None:
        """Return everything known of the capture now; ``None`` if it has not begun."""
        latest = self._latest
        if latest is None:
            return None
        status, stored_at, disconnected_s = latest
        return HealthInput(
            status,
            self._settings,
            utc_datetime(self._clock.wall()),
            self._clock.monotonic() - stored_at,
            disconnected_s,
            files.free_bytes(self._settings.data_dir),
            files.free_inodes(self._settings.data_dir),
        )

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics; none before the capture begins."""
        capture = self.health_input()
        if capture is None:
            return
        status = capture.status
        info = InfoMetricFamily("stocktrace_session", "The session and who records it.")
        info.add_metric([], {"session": status.session, "version": __version__})
        yield info
        for name, (text, value) in _COUNTERS.items():
            yield CounterMetricFamily(f"stocktrace_{name}", text, value(status))
        for name, (text, value) in _GAUGES.items():
            yield GaugeMetricFamily(f"stocktrace_{name}", text, value(status))
        for name, text, figure in (
            ("status_age_seconds", "Age of these figures.", capture.status_age_s),
            ("disconnected_seconds", "Seconds since the disconnect.", capture.disconnected_s),
            ("disk_free_bytes", "Free space for the data folder.", capture.free_bytes),
            ("disk_min_free_bytes", "The capture ends below it.", self._settings.min_free_space),
        ):
            yield GaugeMetricFamily(f"stocktrace_{name}", text, figure)
        if capture.free_inodes is not None:
            text = "Files that can still be made in the data folder."
            yield GaugeMetricFamily("stocktrace_disk_free_inodes", text, capture.free_inodes)
        kinds = [kind for kind, _ in find_problems(capture)]
        counts: dict[str, float] = {kind: kinds.count(kind) for kind in PROBLEM_KINDS}
        text = "Problems that /healthz reports, by kind."
        yield _labelled(GaugeMetricFamily, "problems", text, "kind", counts)
        frames = {kind: getattr(status, name) for kind, name in _FRAMES.items()}
        yield _labelled(CounterMetricFamily, "frames", "Frames received, by kind.", "kind", frames)
        quantiles = {share: getattr(status.latency, name) for share, name in _QUANTILES.items()}
        lags = {share: ms / MS_PER_SECOND for share, ms in quantiles.items() if ms is not None}
        text = "Lag of all trades of the session after the exchange's time."
        yield _labelled(GaugeMetricFamily, "session_lag_seconds", text, "quantile", lags)
        if len(status.tickers) > MAX_TICKERS:
            return
        for kind, name, text, field in _TICKER_METRICS:
            values = getattr(status, field)
            counts = {ticker: values.get(ticker, 0) for ticker in status.tickers}
            yield _labelled(kind, f"ticker_{name}", text, "ticker", counts)
        times = {name: status.last[name] for name in status.tickers if name in status.last}
        yield _labelled(
            GaugeMetricFamily,
            "ticker_last_trade_timestamp_seconds",
            "When the last trade was received; missing before the first.",
            "ticker",
            {name: stamp / NS_PER_SECOND for name, stamp in times.items()},
        )


def _labelled(
    kind: _Family, name: str, text: str, label: str, values: Mapping[str, float]
) -> Metric:
    family = kind(f"stocktrace_{name}", text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


@contextlib.contextmanager
def serve_metrics(
    settings: Settings, clock: Clock = SYSTEM_CLOCK
) -> Iterator[Callable[[CaptureStatus], None]]:
    """Serve at the address in ``settings.metrics``; yield what to call with each status.

    ``SettingsError`` if the address cannot be bound.
    """
    metrics = Metrics(settings, clock)
    with _MetricsServer(settings.metrics, metrics) as server:
        # A daemon: a client that hangs must not hold up the process's end.
        thread = threading.Thread(
            target=server.serve_forever,
            args=(_POLL_INTERVAL_S,),
            name="stocktrace-metrics",
            daemon=True,
        )
        thread.start()
        host = f"[{server.server_name}]" if ":" in server.server_name else server.server_name
        url = f"http://{host}:{server.server_port}"
        log.info("metrics at %s/metrics, health at %s/healthz", url, url)
        try:
            yield metrics
        finally:
            server.shutdown()
            thread.join()


class _MetricsServer(ThreadingHTTPServer):
    """Answers each request on its own thread, which ends with the process."""

    def __init__(self, address: str, metrics: Metrics) -> None:
        parts = urlsplit(f"//{address}")
        try:
            # The family is read by the socket that the base class makes.
            self.address_family, _, _, _, host_port = socket.getaddrinfo(
                parts.hostname, parts.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            super().__init__(host_port, _Handler)  # type: ignore[arg-type]
        except OSError as error:
            raise usage_or(StocktraceError, error, SettingsError)(
                f"--metrics: Cannot listen on {address} ({error.strerror}). "
                "Choose another port, or off."
            ) from error
        self.metrics = metrics
        self.registry = CollectorRegistry()
        self.registry.register(metrics)
        ProcessCollector(registry=self.registry)

    def server_bind(self) -> None:
        """Bind without looking up the host's name, which could delay the capture."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - theirs
        """Log a failed request, but not a client that disconnected."""
        error = sys.exception()
        if not isinstance(error, (ConnectionError, TimeoutError)):
            log.warning("a request for metrics failed: %s: %s", type(error).__name__, error)


class _Handler(MetricsHandler):
    server: _MetricsServer
    timeout = _CLIENT_TIMEOUT_S

    def do_GET(self) -> None:  # noqa: N802 - the base class calls it so
        """Answer a request."""
        path = urlsplit(self.path).path
        if path == "/metrics":
            self.registry = self.server.registry
            super().do_GET()
        elif path in ("/healthz", "/health"):
            self._send_health()
        else:
            self.send_error(HTTPStatus.NOT_FOUND, explain="Request /metrics or /healthz.")

    def _send_health(self) -> None:
        capture = self.server.metrics.health_input()
        session, problems = "", ["the capture has not begun"]
        if capture is not None:
            session = capture.status.session
            problems = [sentence for _, sentence in find_problems(capture)]
        health = {"healthy": not problems, "session": session, "problems": problems}
        body = json.dumps(health).encode()
        self.send_response(HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
