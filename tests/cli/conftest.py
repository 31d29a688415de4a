"""Commands in this process and as processes of their own, and something to ask them about."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stocktrace import cli
from stocktrace.simulator import Simulator
from stocktrace.store import conversion
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.segments import SegmentWriter
from stocktrace.trade import Trade
from stocktrace.verify import dates_of_sessions, verify
from tests.conftest import NOON, SESSION, WINDOW, Studio, published, sent, taped
from tests.store.conftest import batch_of

PART = WindowId(SESSION, WINDOW)
# Long enough for a busy machine to import everything, in seconds.
PATIENCE_S = 60
STOCKTRACE = (sys.executable, "-m", "stocktrace")


def ran(*words: str, check: bool = False, **given: Any) -> subprocess.CompletedProcess[str]:
    """A program that was run to its end, and what it said."""
    return subprocess.run(
        words, capture_output=True, text=True, check=check, timeout=PATIENCE_S, **given
    )


@contextmanager
def running(*words: str, **given: Any) -> Iterator[subprocess.Popen[str]]:
    """A program that runs, with pipes from what it says; killed if a test fails."""
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, **given) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@dataclass(frozen=True)
class Said:
    status: int
    out: str
    err: str


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs a command in this process."""

    def say(*words: object) -> Said:
        capsys.readouterr()
        status = cli.run([str(word) for word in words])
        captured = capsys.readouterr()
        return Said(status, captured.out, captured.err)

    return say


def sealed(root: Path, *trades: Trade) -> Layout:
    """A folder with one sealed window of these."""
    layout = Layout(root)
    root.mkdir(parents=True, exist_ok=True)
    writer = SegmentWriter(layout, PART)
    writer.write(batch_of(trades, NOON + 5000))
    writer.seal()
    return layout


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a few published trades."""
    t = NOON // 10**6
    layout = sealed(
        tmp_path / "data",
        Trade("AAPL", 1.5, t, 100.0, ("1", "12")),
        Trade("AAPL", 0.1, t + 1, 0.25),
        Trade("7203", 3.0, t, 1.0),
    )
    conversion.convert_window(layout, PART)
    return layout.root


@contextmanager
def capturing(
    studio: Studio, exchange: Simulator, *words: str, tickers: tuple[str, ...] = ("AAPL",)
) -> Iterator[subprocess.Popen[str]]:
    """``stocktrace capture`` as a process of its own; killed if a test fails."""
    place = ("--url", exchange.url, "--data-dir", str(studio.data_dir))
    command = (*STOCKTRACE, "capture", *tickers, "--for", "60s", *place, *words)
    with running(*command, env={**os.environ, "FINNHUB_API_KEY": studio.key}) as process:
        yield process


@pytest.fixture
def quick(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> Studio:
    """The key in the environment, for captures in this process."""
    monkeypatch.setenv("FINNHUB_API_KEY", studio.key)
    return studio


@contextmanager
def started(
    studio: Studio,
    exchange: Simulator | str,
    *before: str,
    lasting: str = "60s",
    roll_interval: str = "1m",
    **given: Any,
) -> Iterator[subprocess.Popen[bytes]]:
    """``stocktrace capture``, run by the words ``before`` it; killed if a test fails."""
    url = exchange if isinstance(exchange, str) else exchange.url
    where = (
        "--url",
        url,
        "--data-dir",
        str(studio.data_dir),
        "--min-free-space",
        "0",
        "--roll-interval",
        roll_interval,
    )
    words = [*before, *STOCKTRACE, "capture", "AAPL", "--for", lasting, *where]
    env = {**os.environ, "FINNHUB_API_KEY": studio.key, "TERM": "xterm"}
    with subprocess.Popen(words, env=env, **given) as process:
        try:
            yield process
        finally:
            process.kill()


def everything_is_recorded(studio: Studio, exchange: Simulator) -> None:
    """What was received is on the tape and in Parquet, and nothing else is."""
    frames = exchange.connections[0].frames
    kept = taped(studio.data_dir)
    assert kept == frames[: len(kept)]
    assert published(studio.data_dir) == sent(kept) != {}
    layout = Layout(studio.data_dir)
    assert [each for session in dates_of_sessions(layout) for each in verify(layout, session)] == []
