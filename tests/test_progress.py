from __future__ import annotations

import io
import logging
import sys

import pytest
from rich.console import Console

from stocktrace.cli.progress import Lines, Live, Rate, clock, progress
from stocktrace.run import Status
from tests.conftest import Scenario, Studio, connected


def status(elapsed_s: float, trades: int = 0, *, up: bool = True) -> Status:
    return Status(
        session="s",
        connected=up,
        elapsed_s=elapsed_s,
        left_s=100 - elapsed_s,
        trades=trades,
        backlog=7,
        reconnects=1,
        lag_ms=80.4,
        tickers=("AAPL", "MSFT"),
        per_ticker={"AAPL": trades, "MSFT": 1},
    )


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_rate_is_that_of_the_last_looks() -> None:
    rate = Rate()
    assert rate(status(0, 0)) == 0
    assert rate(status(1, 100)) == 100
    found = [rate(status(2 + n, 100)) for n in range(12)]
    assert found[0] == 50
    assert found[-1] == 0


def test_a_clock_shows_hours_minutes_and_seconds() -> None:
    assert [clock(seconds) for seconds in (0, 59.6, 3661, 90_000)] == [
        "00:00:00",
        "00:01:00",
        "01:01:01",
        "25:00:00",
    ]


def test_lines_come_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "stocktrace")
    with Lines(every_s=30) as look:
        for second in range(0, 100, 10):
            look(status(second, second * 5, up=second < 60))
    rest = "lag=80ms waiting=7 reconnects=1"
    assert [record.getMessage() for record in caplog.records] == [
        f"connected=yes elapsed=00:00:30 left=00:01:10 trades=150 rate=5/s {rest}",
        f"connected=no elapsed=00:01:00 left=00:00:40 trades=300 rate=5/s {rest}",
        f"connected=no elapsed=00:01:30 left=00:00:10 trades=450 rate=5/s {rest}",
    ]


def test_a_terminal_shows_a_live_picture_with_messages_above_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    before = logging.getLogger().handlers[:]
    look = progress("auto")
    assert isinstance(look, Live)
    look._console = Console(file=terminal, width=160)
    look._live.console = look._console
    with look:
        assert logging.getLogger().handlers == [look._handler]
        look(status(10, 1234))
        logging.getLogger("stocktrace").warning("a word [bold]as it is[/bold]")
        look(status(11, 1300, up=False))
    assert logging.getLogger().handlers == before
    shown = terminal.getvalue()
    for text in (
        "● connected",
        "○ not connected",
        "2 tickers",
        "1,234 trades",
        "AAPL 1,234",
        "7 waiting",
    ):
        assert text in shown


def test_elsewhere_there_are_lines_and_no_escapes(
    studio: Studio, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(progress("auto"), Lines)
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger("stocktrace").addHandler(handler)
    try:
        with studio.exchange() as exchange:

            def scenario() -> Scenario:
                yield connected
                exchange.send_raw(b'{"type":"error","msg":"no \\u001b[2J\\u0007 such \\nthing"}')
                yield lambda _: bool(studio.events("error"))

            report = studio.record(exchange, scenario=scenario())
    finally:
        logging.getLogger("stocktrace").removeHandler(handler)
    out, err = capfd.readouterr()
    assert "the server says: no ?[2J? such ?thing" in err
    assert not {"\x1b", "\x07"} & set(out + err)
    assert report.errors == {"no \x1b[2J\x07 such \nthing": 1}


def test_none_shows_nothing() -> None:
    with progress("none") as look:
        assert look is None
