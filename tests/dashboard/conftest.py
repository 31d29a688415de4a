"""A dashboard in this process, on a thread: real sockets, the real server."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stocktrace.dashboard.server import bind_port, page_address, run_server
from stocktrace.sessions.report import SessionReport
from stocktrace.sessions.status import CaptureStatus
from stocktrace.simulator import Simulator
from stocktrace.store.layout import Layout
from tests.conftest import Scenario, Studio, hurry

WITHIN_S = 20.0


@contextlib.contextmanager
def dashboard(data_dir: Path, port: int = 0) -> Iterator[str]:
    """Serve ``data_dir``. Yield the address."""
    reading, writing = os.pipe()
    listening = bind_port(port)
    with os.fdopen(reading, "rb") as parent:
        thread = threading.Thread(target=run_server, args=(Layout(data_dir), listening, parent))
        thread.start()
        try:
            yield page_address(listening)
        finally:
            os.close(writing)
            thread.join(WITHIN_S)
            listening.close()
    assert not thread.is_alive()


@dataclass
class Capture:
    """A capture of ``simulator`` on a thread; ``status`` is the newest."""

    studio: Studio
    simulator: Simulator
    tickers: tuple[str, ...]
    report: SessionReport | None = None
    status: CaptureStatus | None = None

    def __post_init__(self) -> None:
        self._news = threading.Condition()
        self._thread: threading.Thread | None = None

    def start(self, **given: Any) -> None:
        """Start the capture and wait until it is connected."""

        def run() -> None:
            self.report = self.studio.record(
                self.simulator, self.tickers, self._forever(), lasting=300, **given
            )

        self._thread = threading.Thread(target=run)
        self._thread.start()
        self.until(lambda status: status.connected)

    def _forever(self) -> Scenario:
        yield self._note

    def _note(self, status: CaptureStatus) -> bool:
        with self._news:
            self.status = status
            self._news.notify_all()
        return False

    def until(self, wanted: Callable[[CaptureStatus], bool]) -> CaptureStatus:
        """Wait until the status fulfils ``wanted``."""
        with self._news:
            found = self._news.wait_for(
                lambda: self.status is not None and wanted(self.status), WITHIN_S
            )
            assert found, self.status
            assert self.status is not None
            return self.status

    def stop(self) -> SessionReport:
        """Stop the capture and wait for its end."""
        self.studio.handle.stop("the test is through")
        assert self._thread is not None
        self._thread.join(WITHIN_S * 3)
        assert self.report is not None
        return self.report

    @property
    def session(self) -> str:
        """The name of the session."""
        assert self.status is not None
        return self.status.session


@contextlib.contextmanager
def capturing(
    studio: Studio, simulator: Simulator, tickers: tuple[str, ...], **given: Any
) -> Iterator[Capture]:
    """Run a capture that is stopped at the end, whatever happens."""
    capture = Capture(studio, simulator, tickers)
    capture.start(**given)
    try:
        yield capture
    finally:
        if capture.report is None:
            capture.stop()


@pytest.fixture(scope="module")
def hurried() -> Iterator[None]:
    """Like ``studio``, for captures that last longer than a test."""
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        yield


def free_port() -> int:
    """Return a port that is not in use."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
