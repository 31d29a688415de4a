"""Where a running capture can be asked over HTTP: ``/metrics`` by Prometheus, ``/healthz``.

The address is taken before anything of the capture begins, and answers come from threads of their
own. ``/healthz`` is 200 while nothing is wrong, else 503; its body says what.
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

# What a client may take to send its request, or to read our answer.
_CLIENT_TIMEOUT_S = 10.0
# Who takes over a key waits for the end of this, too.
_POLL_S = 0.1


@contextlib.contextmanager
def serve_metrics(
    settings: Settings, clock: Clock = SYSTEM_CLOCK
) -> Iterator[Callable[[CaptureStatus], None]]:
    """Answer at the address in ``settings.metrics``; gives whom to tell each status.

    Raises:
        SettingsError: the address cannot be had.
    """
    metrics = Metrics(settings, clock)
    server = _bind(settings.metrics, metrics)
    with server:
        thread = threading.Thread(
            target=server.serve_forever, args=(_POLL_S,), name="stocktrace-metrics"
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
        found = socket.getaddrinfo(
            parts.hostname, parts.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, place = found[0]
        return _MetricsServer(family, place, metrics)
    except OSError as error:
        raise usage_or(StocktraceError, error, SettingsError)(
            f"--metrics: Cannot listen on {address} ({error.strerror}). Choose another port, or off."
        ) from error


class _MetricsServer(ThreadingHTTPServer):
    """Answers each request on a thread of its own, which ends with the process."""

    def __init__(self, family: int, place: Any, metrics: Metrics) -> None:
        self.address_family = family  # asked for by the socket that the next line makes
        super().__init__(place, _Handler)
        self.metrics = metrics
        self.registry = CollectorRegistry()
        self.registry.register(metrics)
        ProcessCollector(registry=self.registry)

    def server_bind(self) -> None:
        """Without looking up the host's name, for which a capture would wait."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    @property
    def url(self) -> str:
        """Its address."""
        host = f"[{self.server_name}]" if ":" in self.server_name else self.server_name
        return f"http://{host}:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - theirs
        """A client that goes away is its own affair; anything else is told, without a traceback."""
        error = sys.exception()
        if not isinstance(error, (ConnectionError, TimeoutError)):
            log.warning("a request for metrics failed: %s: %s", type(error).__name__, error)


class _Handler(MetricsHandler):
    server: _MetricsServer
    timeout = _CLIENT_TIMEOUT_S

    def do_GET(self) -> None:  # noqa: N802 - so it is called by the base
        """Answer."""
        path = urlsplit(self.path).path
        if path == "/metrics":
            self.registry = self.server.registry
            super().do_GET()
        elif path in ("/healthz", "/health"):
            self._tell_health()
        else:
            self.send_error(HTTPStatus.NOT_FOUND, explain="Ask for /metrics or /healthz.")

    def _tell_health(self) -> None:
        metrics = self.server.metrics
        found = metrics.problems()
        sentences = (
            ["the capture has not begun"] if found is None else [one.sentence for one in found]
        )
        said = {"healthy": not sentences, "session": metrics.session, "problems": sentences}
        body = json.dumps(said).encode()
        self.send_response(HTTPStatus.SERVICE_UNAVAILABLE if sentences else HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
