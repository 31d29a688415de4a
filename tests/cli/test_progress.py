from __future__ import annotations

import io
import logging
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from rich.console import Console
from rich.logging import RichHandler

from stocktrace.cli.progress import ProgressLines, TickerRates, make_progress, render_status
from stocktrace.errors import UsageError
from stocktrace.sessions.report import GapReport
from stocktrace.sessions.status import CaptureStatus, ReconnectAttempt, StepProgress
from tests.conftest import Scenario, Studio, connected
from tests.statuses import a_status


def status(elapsed_s: float, trades: int = 0, *, up: bool = True, **more: Any) -> CaptureStatus:
    return a_status(
        session="s",
        connected=up,
        elapsed_s=elapsed_s,
        remaining_s=100 - elapsed_s,
        trades=trades,
        backlog=7,
        reconnects=1,
        lag_ms=80.4,
        tickers=("AAPL", "MSFT"),
        per_ticker={"AAPL": trades, "MSFT": 1},
        **more,
    )


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_rate_is_measured_over_the_last_statuses() -> None:
    rates = TickerRates()
    assert rates.add(status(0, 0)) == 0
    assert rates.add(status(1, 100)) == 100
    found = [rates.add(status(2 + n, 100)) for n in range(12)]
    assert found[0] == 50
    assert found[-1] == 0


def test_each_ticker_has_its_rate() -> None:
    rates = TickerRates()
    for second in range(3):
        rates.add(status(second, 10 * second))
    assert [rates.of_ticker(name) for name in ("AAPL", "MSFT", "NONE")] == [10, 0, 0]


def test_lines_come_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "stocktrace")
    look = ProgressLines(every_s=30)
    for second in range(0, 100, 10):
        look(status(second, second * 5, up=second < 60))
    rest = "lag=80ms waiting=7 quarantined=0 reconnects=1 gaps=0 unpublished=0"
    assert [record.getMessage() for record in caplog.records] == [
        f"connected=yes elapsed=00:00:30 left=00:01:10 trades=150 rate=5/s {rest}",
        f"connected=no elapsed=00:01:00 left=00:00:40 trades=300 rate=5/s {rest}",
        f"connected=no elapsed=00:01:30 left=00:00:10 trades=450 rate=5/s {rest}",
    ]


def test_a_display_that_starts_late_logs_a_line_at_once_and_then_now_and_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "stocktrace")
    look = ProgressLines(every_s=30)
    for second in range(65, 100, 5):
        look(status(second))
    assert [record.getMessage().split()[1] for record in caplog.records] == [
        "elapsed=00:01:05",
        "elapsed=00:01:30",
    ]


def drawn(shown: CaptureStatus, **options: Any) -> str:
    console = Console(file=io.StringIO(), **{"width": 100, **options})
    rates = TickerRates()
    console.print(render_status(shown, rates.add(shown), rates))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_display_says_why_it_is_not_connected_and_when_it_retries() -> None:
    at = datetime(2026, 11, 23, tzinfo=UTC)
    retry = ReconnectAttempt(2, at + timedelta(seconds=4), "refused\x1b[2J")
    gap = GapReport(at - timedelta(seconds=75), at, "TCP ended", 1)
    shown = status(10, up=False, written_at=at, retry=retry, open_gap=gap)
    text = drawn(shown)
    assert text.startswith("○ reconnecting for 75 s, attempt 2 in 4 s (refused?[2J)")
    assert "1 gap (75.0 s)" in text


def test_the_display_says_how_far_the_feed_is_behind() -> None:
    assert drawn(status(10, feed_lag_s=14.1)).startswith("● connected, 14 s behind, ")


def test_106_the_display_counts_the_windows_that_wait_to_be_published() -> None:
    waiting = status(10, rolled=332, published=150)
    assert "182 windows to publish" in drawn(waiting)
    ending = msgspec.structs.replace(waiting, state="ending")
    text = "● ending: writing Parquet; 182 windows wait to be published  session s"
    assert drawn(ending).startswith(text)


def test_the_display_says_that_parquet_is_being_written() -> None:
    ending = msgspec.structs.replace(status(10), state="ending")
    assert drawn(ending).startswith("● ending: writing Parquet  session s")


def test_the_display_says_how_far_the_end_has_come() -> None:
    progress = StepProgress("writing Parquet", 412, 5000)
    ending = msgspec.structs.replace(status(10), state="ending", progress=progress)
    assert drawn(ending).startswith("● ending: writing Parquet, 412 of 5,000 tickers  session s")


def test_lines_say_how_far_the_end_has_come(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "stocktrace")
    look = ProgressLines(every_s=30)
    for step, done, elapsed_s in (
        ("reading", 10, 100.0),
        ("reading", 2000, 100.5),
        ("writing Parquet", 412, 102.0),
        ("writing Parquet", 900, 103.5),
        ("writing Parquet", 2100, 104.0),
    ):
        progress = StepProgress(step, done, 5000)
        look(msgspec.structs.replace(status(elapsed_s), state="ending", progress=progress))
    assert [record.getMessage() for record in caplog.records] == [
        "ending: reading, 10 of 5,000 tickers",
        "ending: writing Parquet, 412 of 5,000 tickers",
        "ending: writing Parquet, 2,100 of 5,000 tickers",
    ]


@pytest.mark.parametrize("width", [60, 100, 200])
def test_the_display_fits_its_terminal(width: int) -> None:
    lines = drawn(status(3000, 1234567), width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= 8


def test_no_color_turns_colours_off(monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = drawn(status(1), force_terminal=True, color_system="standard")
    assert "\x1b[32m" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    plain = drawn(status(1), force_terminal=True, color_system="standard")
    assert not re.search(r"\x1b\[[0-9;]*3\dm", plain)


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_terminal_that_cannot_draw_gets_lines(monkeypatch: pytest.MonkeyPatch, term: str) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", term)
    with make_progress("auto") as look:
        assert isinstance(look, ProgressLines)


def test_live_progress_without_a_terminal_is_refused_with_a_way_out() -> None:
    with pytest.raises(UsageError, match="Use --progress log"):
        make_progress("live")


def test_a_terminal_shows_the_live_display_below_the_log_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    before = logging.getLogger().handlers[:]
    with make_progress("auto") as look:
        (handler,) = logging.getLogger().handlers
        assert isinstance(handler, RichHandler)
        look(status(10, 1234))
        logging.getLogger("stocktrace").warning("a word [bold]as it is[/bold]")
        look(status(11, 1300, up=False))
    assert logging.getLogger().handlers == before
    shown = terminal.getvalue()
    for text in (
        "● connected",
        "○ reconnecting",
        "2 tickers",
        "1,234 trades",
        "AAPL",
        "7 waiting",
    ):
        assert text in shown


def test_without_a_terminal_there_are_log_lines_without_escapes(
    studio: Studio, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_progress("auto") as look:
        assert isinstance(look, ProgressLines)
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


def test_none_shows_nothing(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "stocktrace")
    with make_progress("none") as look:
        look(status(0))
        look(status(90))
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
