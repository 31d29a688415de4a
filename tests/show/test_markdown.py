"""The pages of a capture, its report and a conversion, as text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from stocktrace.record.recovery import ConversionResult, RecoveredSession
from stocktrace.sessions.report import Books, GapReport, LagReport, SessionReport, TickerBooks
from stocktrace.sessions.status import CaptureStatus, ReconnectAttempt
from stocktrace.show.markdown import (
    conversion_line,
    conversion_page,
    progress_line,
    report_page,
    status_line,
    status_page,
)
from stocktrace.store.layout import Layout
from tests.conftest import SESSION
from tests.statuses import a_status

BEGIN = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)


def a_report(**given: Any) -> SessionReport:
    began = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)
    fields = {"tickers": ["A"], "started": began, "ended": began + timedelta(minutes=30)}
    return SessionReport("20261123T143000Z_3f9a1c", **{**fields, "state": "complete", **given})


def test_values_on_the_page_are_escaped(tmp_path: Path) -> None:
    nasty = "a|b\n# <b>c</b> [d](e) `f`"
    text = report_page(a_report(reason=nasty, notices=[nasty]), Layout(tmp_path))
    escaped = r"a\|b \# \<b\>c\</b\> \[d\](e) \`f\`"
    assert text.splitlines()[0] == f"# Complete: {escaped}"
    assert f"- {escaped}" in text.splitlines()


def test_what_the_free_feed_of_us_stocks_contains_is_among_the_notes(tmp_path: Path) -> None:
    report = a_report(settings={"url": "wss://ws.finnhub.io"})
    assert "- US stocks: Finnhub's free feed has the trades of one venue, IEX" in report_page(
        report, Layout(tmp_path)
    )


def test_a_page_of_many_tickers_and_gaps_is_shortened(tmp_path: Path) -> None:
    began = datetime(2026, 11, 23, tzinfo=UTC)
    report = a_report(
        per_ticker={f"T{number:03}": TickerBooks(trades=number) for number in range(120)},
        gaps=[GapReport(began, began, f"gap {number}", 1) for number in range(60)],
    )
    text = report_page(report, Layout(tmp_path))
    assert "| T119 | 119 |" in text
    assert "| T069 |" not in text
    assert "… and 70 more." in text
    assert "gap 49" in text
    assert "… and 10 more." in text


def test_books_that_do_not_balance_stand_out(tmp_path: Path) -> None:
    text = report_page(a_report(books=Books(trades=3, recorded=1)), Layout(tmp_path))
    assert "**The books do not balance:**" in text


def test_unpublished_windows_are_reported_with_what_to_do(tmp_path: Path) -> None:
    text = report_page(a_report(unpublished=["20261123T143000Z_00002"]), Layout(tmp_path))
    assert "**1 window not in Parquet yet:** run stocktrace convert --data-dir" in text


def test_progress_says_when_it_is_not_connected() -> None:
    gap = GapReport(BEGIN, BEGIN + timedelta(seconds=75), "lost", 2)
    status = a_status(
        open_gap=gap,
        connected=False,
        remaining_s=65.0,
        trades=1234,
        reconnects=1,
        tickers=("A", "B"),
    )
    text = "**reconnecting for 75 s** · 1,234 trades · 2 tickers · 1 reconnect · 00:01:05 left"
    assert progress_line(status) == text


# --- a capture that runs ---------------------------------------------------------------------


def status(**given: Any) -> CaptureStatus:
    usual: dict[str, Any] = {
        "elapsed_s": 30.0,
        "remaining_s": 90.0,
        "trades": 600,
        "backlog": 7,
        "tickers": ("A", "B"),
        "per_ticker": {"A": 600},
        "written_at": BEGIN,
        "latency": LagReport(80.0, 250.0, 900.0),
        "quarantined": 3,
        "quarantined_by_ticker": {"A": 3},
        "queued": {"A": 7},
        "rolled": 2,
        "published": 1,
    }
    return a_status(**{**usual, **given})


def test_the_live_page_shows_the_status() -> None:
    before = status(elapsed_s=20.0, trades=500, per_ticker={"A": 500})
    lines = status_page(status(), before).split("\n")
    session = SESSION.replace("_", r"\_")
    assert lines[0] == "# Connected"
    assert f"Session {session}, 00:00:30 elapsed, 00:01:30 left." in lines
    assert "| 600 | 10.0 | 80 ms / 250 ms | 0 (0.0 s) | 3 | 7 | 1 of 2 windows |" in lines
    assert "| A | 600 | 10.0 | 3 | 7 |" in lines
    assert "| B | 0 | 0.0 | 0 | 0 |" in lines
    assert "As of 2026-11-23 14:30:00 UTC." in lines


def test_the_first_live_page_has_rates_since_the_start() -> None:
    assert "| A | 600 | 20.0 | 3 | 7 |" in status_page(status(), None)
    assert "| A | 600 | 0.0 | 3 | 7 |" in status_page(status(elapsed_s=0.0), None)


def test_the_live_page_of_a_disconnect_shows_the_next_attempt() -> None:
    retry = ReconnectAttempt(3, BEGIN + timedelta(seconds=5), "<b>refused</b>")
    gap = GapReport(BEGIN, BEGIN + timedelta(seconds=75), "lost", 2)
    lost = status(
        connected=False, state="reconnecting", retry=retry, gaps=1, gap_s=2.4, open_gap=gap
    )
    lines = status_page(lost, None).split("\n")
    assert lines[0] == "# Not connected"
    assert "**Reconnecting for 75 s, attempt 3.**" in lines
    assert r"**Attempt 3 at 14:30:05 UTC:** \<b\>refused\</b\>" in lines
    assert status_line(lost) == (
        "reconnecting for 75 s, attempt 3: 600 trades, 2 gaps (77.4 s), 1 of them connecting"
    )


def test_the_live_page_of_many_tickers_shows_the_busiest() -> None:
    counts = {f"T{n:03}": n for n in range(100)}
    text = status_page(status(tickers=tuple(counts), per_ticker=counts), None)
    assert "| T099 | 99 |" in text
    assert "| T079 |" not in text
    assert "… and 80 more." in text


# --- a conversion ----------------------------------------------------------------------------


def test_a_problem_is_in_the_sentence_and_on_the_page() -> None:
    done = [RecoveredSession(SESSION, 1, 3, 0, balanced=False)]
    failed = ConversionResult(1, 2, ["a|b is torn."])
    assert "2 problems, the first: a|b is torn." in conversion_line(done, failed)
    assert "**do not balance**" in conversion_page(done, failed)
    assert r"a\|b is torn." in conversion_page(done, failed)
