"""What the page of a run says, as text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flows.markdown import progress_line, report_page
from stocktrace.sessions.report import Books, GapReport, SessionReport, TickerBooks
from stocktrace.store.layout import Layout
from tests.statuses import a_status


def a_report(**given: Any) -> SessionReport:
    began = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)
    fields = {"tickers": ["A"], "started": began, "ended": began + timedelta(minutes=30)}
    return SessionReport("20261123T143000Z_3f9a1c", **{**fields, "state": "complete", **given})


def test_values_on_the_page_are_no_markup(tmp_path: Path) -> None:
    nasty = "a|b\n# <b>c</b> [d](e) `f`"
    text = report_page(a_report(reason=nasty, notices=[nasty]), Layout(tmp_path))
    escaped = r"a\|b \# \<b\>c\</b\> \[d\](e) \`f\`"
    assert text.splitlines()[0] == f"# Complete: {escaped}"
    assert f"- {escaped}" in text.splitlines()


def test_a_page_of_many_tickers_and_gaps_is_cut(tmp_path: Path) -> None:
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


def test_windows_that_wait_are_named_with_what_to_do(tmp_path: Path) -> None:
    text = report_page(a_report(unpublished=["20261123T143000Z_00002"]), Layout(tmp_path))
    assert "**1 window not in Parquet yet:** run stocktrace convert --data-dir" in text


def test_progress_says_when_nobody_listens() -> None:
    status = a_status(
        connected=False, remaining_s=65.0, trades=1234, reconnects=1, tickers=("A", "B")
    )
    text = "**not connected** · 1,234 trades · 2 tickers · 1 reconnect · 00:01:05 left"
    assert progress_line(status) == text
