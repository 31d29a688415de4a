"""Serves a running capture over HTTP: ``/metrics`` for Prometheus, and ``/healthz``.

The address is bound before the capture begins, and separate threads answer. ``/healthz`` is 200
without problems and 503 with problems, which its body lists.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, MetricsHandler, ProcessCollector

from stocktrace.clock import SYSTEM_CLOCK, Clock
from stocktrace.errors import SettingsError, StocktraceError, usage_or
from stocktrace.live.metrics import Metrics
from stocktrace.sessions.status import CaptureStatus
from stocktrace.settings import Settings

log = logging.getLogger(__name__)

# How long a client may take to send its request, or to read the answer.
_CLIENT_TIMEOUT_S = 10.0
# A capture that takes over the key waits for the end of this, too.
_POLL_INTERVAL_S = 0.1


@contextlib.contextmanager
def serve_metrics(
    settings: Settings, clock: Clock = SYSTEM_CLOCK
) -> Iterator[Callable[[CaptureStatus], None]]:
    """Serve at the address in ``settings.metrics``; yield what to call with each status.

    Raises:
        SettingsError: the address cannot be bound.
    """
    metrics = Metrics(settings, clock)
    server = _bind(settings.metrics, metrics)
    with server:
        thread = threading.Thread(
            target=server.serve_forever, args=(_POLL_INTERVAL_S,), name="stocktrace-metrics"
        )
        thread.daemon = True  # a client that hangs must not hold up the process's end
        thread.start()
        log.info("metrics at %s/metrics, health at %s/healthz", server.url, server.url)
        try:
            yield metrics
        finally:
            server.shutdown()
            thread.join()


def _bind(address: str, metrics: Metrics) -> _MetricsServer:
    parts = urlsplit(f"//{address}")
    try:
        family, _, _, _, host_port = socket.getaddrinfo(
            parts.hostname, parts.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return _MetricsServer(family, host_port, metrics)
    except OSError as error:
        raise usage_or(StocktraceError, error, SettingsError)(
            f"--metrics: Cannot listen on {address} ({error.strerror}). "
            "Choose another port, or off."
        ) from error


class _MetricsServer(ThreadingHTTPServer):
    """Answers each request on its own thread, which ends with the process."""

    def __init__(self, family: int, host_port: Any, metrics: Metrics) -> None:
        self.address_family = family  # read by the socket that the next line makes
        super().__init__(host_port, _Handler)
        self.metrics = metrics
        self.registry = CollectorRegistry()
        self.registry.register(metrics)
        ProcessCollector(registry=self.registry)

    def server_bind(self) -> None:
        """Bind without looking up the host's name, which could delay the capture."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    @property
    def url(self) -> str:
        """The server's address."""
        host = f"[{self.server_name}]" if ":" in self.server_name else self.server_name
        return f"http://{host}:{self.server_port}"

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
        metrics = self.server.metrics
        problems = metrics.problems()
        sentences = (
            ["the capture has not begun"]
            if problems is None
            else [problem.sentence for problem in problems]
        )
        health = {"healthy": not sentences, "session": metrics.session, "problems": sentences}
        body = json.dumps(health).encode()
        self.send_response(HTTPStatus.SERVICE_UNAVAILABLE if sentences else HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
