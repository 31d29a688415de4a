"""Shared by the stories: quick settings, wrong clocks, crashed sessions, captures to kill."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from stocktrace.clock import Clock
from stocktrace.live.api import capture
from stocktrace.live.control import CaptureControl
from stocktrace.marks import ConnectedMark, OpeningMark
from stocktrace.sessions.report import SessionReport
from stocktrace.settings import Settings
from stocktrace.simulator import Simulator
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.tape import TapeWriter
from stocktrace.trade import Trade
from stocktrace.verify import dates_of_sessions, verify
from tests.conftest import NOON, SESSION, WINDOW, Director, Scenario, Studio, frame

SECOND = 1_000_000_000
#: These are told over TLS in every run of the tests, the others with ``-m slow``.
SAMPLED_OVER_TLS = {
    "test_01_half_open_tcp_is_noticed_and_replaced",
    "test_11_after_a_drop_all_tickers_are_subscribed_again",
    "test_40_one_bad_row_of_a_thousand_is_quarantined",
}
#: What two noisy cores may add to any bound, in seconds.
SLACK = 3.0
#: Bounds that a test can wait for; the feed's tick is a quarter of a second.
QUICK = {
    "ping_interval": "300ms",
    "pong_timeout": "300ms",
    "backoff_base": "20ms",
    "backoff_cap": "50ms",
    "backoff_floor": "10ms",
}
#: How soon a stalled connection is noticed and replaced with these, in seconds.
QUICK_BOUND = 0.3 + 0.3 + 2 * 0.25 + 0.05
PART = WindowId(SESSION, WINDOW)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tell each story with an exchange twice: over plain TCP and over TLS."""
    names = metafunc.fixturenames
    told_twice = "studio" in names and "trusted" not in names
    if told_twice and "exchange(" in inspect.getsource(metafunc.function):
        sampled = metafunc.function.__name__ in SAMPLED_OVER_TLS
        tls = pytest.param("wss", marks=[] if sampled else pytest.mark.slow)
        metafunc.parametrize("scheme", ["ws", tls], indirect=True)


@pytest.fixture
def scheme(request: pytest.FixtureRequest) -> str:
    return getattr(request, "param", "ws")


@pytest.fixture
def studio(studio: Studio, scheme: str, request: pytest.FixtureRequest) -> Studio:
    """Captures of this test, over TCP or over TLS."""
    if scheme == "wss":
        studio.authority = request.getfixturevalue("trusted")
    return studio


def numbered(count: int, symbol: str = "AAPL", begin: int = 1) -> list[tuple[int, bytes]]:
    """``count`` frames of one trade for a script; the prices are 1, 2, 3 …, a second apart."""
    return [(n * SECOND, frame((symbol, n))) for n in range(begin, begin + count)]


def all_sent(exchange: Simulator) -> list[bytes]:
    """Every frame that the exchange sent, connection by connection; it must ``keep`` them."""
    return [frame for connection in exchange.connections for frame in connection.frames]


def findings(data_dir: Path) -> list[str]:
    """Whatever ``stocktrace verify`` finds wrong with any session."""
    layout = Layout(data_dir)
    return [
        f"{finding.path}: {finding.problem}"
        for session, dates in dates_of_sessions(layout).items()
        for finding in verify(layout, session, dates)
    ]


def events(data_dir: Path, name: str) -> list[dict[str, Any]]:
    """The lines of the audit log of one kind."""
    log = Layout(data_dir).audit
    if not log.exists():
        return []
    lines = [json.loads(line) for line in log.read_text().split("\n")[:-1]]
    return [line for line in lines if line["event"] == name]


def report_of(data_dir: Path) -> SessionReport:
    """The report of the only session, or of the last one."""
    return SessionReport.read(max(Layout(data_dir).sessions.glob("*.json")))


def snapshot(folder: Path, pattern: str = "*") -> dict[str, tuple[int, bytes]]:
    """Every file with its inode and content: equal ones were not even replaced."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.read_bytes())
        for path in folder.rglob(pattern)
        if path.is_file()
    }


@dataclass(slots=True)
class Hands:
    """A wall clock that runs from ``start`` (epoch ns) and can be set; no other clock is moved."""

    start: int = field(default_factory=time.time_ns)
    stepped: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def wall(self) -> int:
        passed = time.monotonic() - self.began + self.stepped
        return self.start + int(passed * SECOND)

    def clock(self) -> Clock:
        return Clock(self.wall, time.monotonic)


def at(text: str) -> int:
    """An ISO time as epoch ns; UTC if it has no zone."""
    moment = datetime.fromisoformat(text)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) * SECOND


def record(
    studio: Studio,
    exchange: Simulator | str,
    scenario: Scenario | None = None,
    tickers: Sequence[str] = ("AAPL",),
    *,
    clock: Clock | None = None,
    lasting: float | None = 30.0,
    until: datetime | None = None,
    **given: Any,
) -> SessionReport:
    """Capture, as often as a test needs, with any clock; with quick settings by default."""
    handle = CaptureControl()
    return capture(
        tickers,
        duration=lasting if until is None else None,
        until=until,
        settings=studio.settings(exchange, **{**QUICK, **given}),
        on_status=Director(scenario, handle, studio.statuses)
        if scenario
        else studio.statuses.append,
        control=handle,
        clock=clock or Clock(),
    )


def crashed_session(
    data_dir: Path,
    frames: Sequence[bytes] = (),
    *,
    window: WindowId = PART,
    tickers: Sequence[str] = ("AAPL",),
    stamp: int | None = None,
) -> Path:
    """The tape of a session that crashed while it listened, its frames a second apart."""
    stamp = int(window.opened_at.timestamp()) * SECOND if stamp is None else stamp
    tape = TapeWriter(Layout(data_dir).tape(window))
    tape.append_mark(OpeningMark(stamp, connected=False, tickers=tuple(tickers)))
    tape.append_mark(ConnectedMark(stamp, tuple(tickers)))
    for number, each in enumerate(frames):
        tape.append(stamp + number * SECOND, [each])
    tape.close()
    return tape.path


def trades_of(prices: Sequence[float], symbol: str = "AAPL") -> list[Trade]:
    return [Trade(symbol, price, NOON // 10**6, 100, ("1",)) for price in prices]


def recorded(prices: Sequence[float]) -> list[tuple[int, float, float, str]]:
    """The trades of ``frame`` as ``published`` returns them."""
    return [(NOON // 10**6, float(price), 100.0, "1") for price in prices]


class Process:
    """``stocktrace capture`` in a process of its own."""

    def __init__(self, popen: subprocess.Popen[str], data_dir: Path) -> None:
        self.popen = popen
        self.data_dir = data_dir

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.popen.pid, number)

    def end(self, timeout: float = 40.0) -> tuple[int, str]:
        """Its exit status, and what it said on stderr."""
        _, said = self.popen.communicate(timeout=timeout)
        return self.popen.returncode, said

    @property
    def taped(self) -> int:
        """Bytes on its tapes."""
        return sum(path.stat().st_size for path in self.data_dir.glob("tape/*/*.tape"))


Launch = Callable[..., Process]


@pytest.fixture
def launch(studio: Studio) -> Iterator[Launch]:
    """Starts captures; the process is killed when the test ends, whatever happened."""
    with ExitStack() as stack:

        def launch(
            exchange: Simulator | str,
            *tickers: str,
            lasting: str = "60s",
            before: str = "",
            **given: Any,
        ) -> Process:
            url = exchange if isinstance(exchange, str) else exchange.url
            settings = {
                **QUICK,
                "min_free_space": "0",
                "url": url,
                "data_dir": studio.data_dir,
                **given,
            }
            flags = [
                part
                for name, value in settings.items()
                for part in (f"--{name.replace('_', '-')}", str(value))
            ]
            program = f"{before}\nfrom stocktrace.cli import main\nmain()"
            arguments = ["capture", *(tickers or ("AAPL",)), "--for", lasting, *flags]
            popen = subprocess.Popen(
                [sys.executable, "-c", program, *arguments],
                env={**os.environ, "FINNHUB_API_KEY": studio.key},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            process = Process(popen, Path(settings["data_dir"]))
            stack.callback(_bury, popen)
            return process

        yield launch


def _bury(popen: subprocess.Popen[str]) -> None:
    if popen.poll() is None:
        popen.kill()
        popen.communicate()
    assert popen.stderr is not None
    popen.stderr.close()


def settings_of(data_dir: Path, **given: Any) -> Settings:
    return Settings.load(data_dir=data_dir, **given)
