from __future__ import annotations

import json
import logging
import queue
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stocktrace import __version__
from stocktrace.clock import Clock
from stocktrace.intervals import CoverageInterval
from stocktrace.latency import LatencyHistogram
from stocktrace.marks import (
    ConnectedMark,
    DisconnectedMark,
    EndedMark,
    GapMark,
    LagMark,
    OpeningMark,
    PausedMark,
    RefusedMark,
    SubscriptionMark,
)
from stocktrace.record.feed_events import FeedEventRecorder
from stocktrace.record.intake import Intake
from stocktrace.record.journal import Mailbox, SessionJournal, report_gaps
from stocktrace.record.publish import PublishedWindow
from stocktrace.record.recorder import SealedWindow
from stocktrace.sessions.report import Books, SessionReport, TickerBooks
from stocktrace.settings import Settings
from stocktrace.store.conversion import PublishedFile
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.tape import TapeFrames, TapeReader
from stocktrace.units import utc_datetime
from tests.conftest import NOON, SESSION, WINDOW, frame

SECOND = 10**9
PART = WindowId(SESSION, WINDOW)
FILE = PublishedFile(Path("window"), {"A": 2, "B": 1}, 900)


def audited(journal: SessionJournal) -> list[dict[str, Any]]:
    """The events, without what each line has."""
    lines = map(json.loads, journal.layout.audit.read_text().splitlines())
    return [
        {k: v for k, v in line.items() if k not in {"at", "session", "previous", "hash"}}
        for line in lines
    ]


def sealed(spilled: frozenset[str] = frozenset()) -> SealedWindow:
    return SealedWindow(
        PART,
        Books(3, 2, 1, trades=4, recorded=3, quarantined=1),
        {
            "A": TickerBooks(3, 2, 1, last=utc_datetime(NOON)),
            "B": TickerBooks(1, 1, last=utc_datetime(NOON + 1000)),
        },
        {"no": 2},
        LatencyHistogram(),
        spilled,
    )


def test_a_new_report_says_what_made_it(journal: SessionJournal) -> None:
    report = journal.report
    assert (report.session, report.tickers, report.started) == (
        SESSION,
        ["A", "B"],
        utc_datetime(NOON),
    )
    assert (report.state, report.settings) == ("running", {"url": "ws://x"})
    assert report.versions["stocktrace"] == __version__
    assert {"python", "pyarrow", "pandas", "pandera", "websocket-client"} < set(report.versions)


def test_a_sealed_window_is_counted_and_waits_to_be_published(journal: SessionJournal) -> None:
    journal.window_sealed(sealed())
    report = SessionReport.read(journal.layout.report(SESSION))
    assert report == journal.report
    assert report.unpublished == [WINDOW]
    assert report.books == report.windows[WINDOW] == sealed().books
    assert report.per_ticker == sealed().tickers
    assert report.errors == {"no": 2}
    assert report.balanced
    assert audited(journal) == [{"event": "roll", "window": WINDOW, "trades": 4}]


def test_a_published_window_is_not_waiting_any_more_and_has_its_rows(
    journal: SessionJournal,
) -> None:
    journal.window_sealed(sealed())
    journal.window_published(PublishedWindow(PART, FILE, {"A": 1}))
    report = SessionReport.read(journal.layout.report(SESSION))
    assert (report.unpublished, report.balanced) == ([], True)
    assert (report.files, report.size, report.duplicates) == (1, 900, {"A": 1})
    assert report.per_ticker["A"] == TickerBooks(3, 2, 1, 2, utc_datetime(NOON))
    assert audited(journal)[1] == {"event": "convert", "window": WINDOW, "rows": 3}


def test_a_window_that_spilled_is_counted_when_it_was_rebuilt(
    journal: SessionJournal, caplog: pytest.LogCaptureFixture
) -> None:
    journal.window_sealed(sealed(frozenset({"B", "A"})))
    assert journal.report.books == Books()
    assert journal.report.spilled == {WINDOW: ["A", "B"]}
    assert "validation fell behind for 2 tickers" in caplog.text
    journal.window_published(PublishedWindow(PART, FILE, {}, rebuilt_window=sealed()))
    assert journal.report.books == sealed().books


def test_windows_add_up(journal: SessionJournal) -> None:
    journal.window_sealed(sealed())
    other = WindowId(SESSION, "20261123T144000Z_00002")
    second = sealed()
    journal.window_published(PublishedWindow(PART, FILE, {"A": 1}))
    journal.window_sealed(
        SealedWindow(other, second.books, second.tickers, second.errors, LatencyHistogram())
    )
    journal.window_published(PublishedWindow(other, FILE, {"A": 2, "B": 3}))
    report = journal.report
    assert (report.files, report.size) == (2, 1800)
    assert report.duplicates == {"A": 3, "B": 3}
    assert list(report.windows) == [WINDOW, other.window]
    assert report.books == Books(6, 4, 2, trades=8, recorded=6, quarantined=2)
    assert report.per_ticker["B"] == TickerBooks(2, 2, 0, 2, utc_datetime(NOON + 1000))
    assert report.errors == {"no": 4}


def test_101_a_lag_is_reported_once_and_logged_when_it_has_doubled_or_ended(
    journal: SessionJournal, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "stocktrace")
    for second, lag in enumerate((3, 4.9, 5, 6, 9.9, 10, 12, 0, 3, 0, 7)):
        journal.on_mark(LagMark(NOON + second * SECOND, int(lag * SECOND)))
    assert journal.heard_until == NOON + 3 * SECOND
    warnings = [f"the feed is {lag:.1f} s behind: trades arrive that late" for lag in (5, 7)]
    assert journal.report.notices == warnings
    assert [record.message for record in caplog.records] == [
        warnings[0],
        "the feed is 10.0 s behind",
        "the feed is not behind any more",
        warnings[1],
    ]


def test_what_happens_to_the_connection_is_in_the_report_the_log_and_the_audit_trail(
    journal: SessionJournal, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "stocktrace")
    journal.on_mark(ConnectedMark(NOON, ("A", "B")))
    assert journal.connected
    journal.on_mark(DisconnectedMark(NOON, "TCP ended"))
    assert not journal.connected
    journal.on_retry(NOON, "TCP ended", 1.23456)
    journal.on_mark(SubscriptionMark(NOON, ("C", "D"), ("A",)))
    journal.on_mark(RefusedMark(NOON, ("D",), "Invalid symbol D"))
    journal.on_notice("a word")
    journal.on_error("Invalid symbol B")
    report = journal.report
    assert (report.reconnects, report.tickers, report.notices) == (
        0,
        ["B", "C", "D"],
        ["a word"],
    )
    assert report.refused == {"D": "Invalid symbol D"}
    assert [record.message for record in caplog.records] == [
        "connected, 2 tickers subscribed",
        "disconnected: TCP ended",
        "TCP ended; next try in 1.2 s",
        "tickers: +C +D -A",
        "D is refused: Invalid symbol D",
        "a word",
        "the server says: Invalid symbol B",
    ]
    assert audited(journal) == [
        {"event": "connect", "tickers": ["A", "B"]},
        {"event": "disconnect", "reason": "TCP ended"},
        {"event": "retry", "reason": "TCP ended", "wait_s": 1.235},
        {"event": "subscribe", "added": ["C", "D"], "removed": ["A"]},
        {"event": "refused", "tickers": ["D"], "text": "Invalid symbol D"},
        {"event": "notice", "text": "a word"},
        {"event": "error", "text": "Invalid symbol B", "times": 1},
    ]


def reconnect(journal: SessionJournal, at: int, tickers: tuple[str, ...]) -> None:
    """A connection that lasts a second, and a gap of a second after it."""
    journal.on_mark(ConnectedMark(at, tickers))
    journal.on_mark(DisconnectedMark(at + SECOND, "lost"))
    journal.on_mark(GapMark(at + 2 * SECOND, at + SECOND, "lost"))


def test_a_reconnect_costs_the_same_at_the_thousandth_gap_as_at_the_first(
    journal: SessionJournal,
) -> None:
    tickers = tuple(f"T{number}" for number in range(500))
    journal.coverage.add(OpeningMark(NOON, connected=False, tickers=tickers))
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    work = []
    for number in range(1000):
        if number in (1, 999):
            calls = 0
            sys.setprofile(count)
        reconnect(journal, NOON + number * 2 * SECOND, tickers)
        sys.setprofile(None)
        if number in (1, 999):
            work.append((calls, len(journal.coverage.spans)))
    (first, spans), (last, all_spans) = work
    assert last <= 1.05 * first
    assert (spans, all_spans) == (3, 1999)
    assert len(journal.report.gaps) == 999


def test_gaps_that_are_added_one_by_one_are_those_of_the_coverage(journal: SessionJournal) -> None:
    journal.coverage.add(OpeningMark(NOON, connected=False, tickers=("A", "B")))
    at = NOON
    for mark in (
        ConnectedMark(at + 10, ("A", "B")),
        RefusedMark(at + 20, ("B",), "Invalid symbol B"),
        DisconnectedMark(at + 30, "lost"),
        SubscriptionMark(at + 35, ("C",), ("A",)),
        GapMark(at + 40, at + 25, "lost"),
        ConnectedMark(at + 40, ("B", "C")),
        PausedMark(at + 50, at + 45, "suspended"),
        DisconnectedMark(at + 100, "reset"),
        GapMark(at + 5, at + 4, "reset"),  # the clock was set back
        ConnectedMark(at + 5, ("B", "C")),
    ):
        journal.on_mark(mark)
    journal.report_new_gaps()
    report = journal.report
    assert report.gaps == report_gaps(journal.coverage)
    assert journal.gap_s == pytest.approx(report.gap_s)
    assert journal.outages == len(report.outages)
    assert journal.last_outage == report.outages[-1]


# --- on the feed's thread -----------------------------------------------------------------------

TRADES = [("A", n + 1) for n in range(50)]
BURST = frame(*TRADES)


@pytest.fixture
def intake(tmp_path: Path) -> Iterator[Intake]:
    settings = Settings.model_construct(max_pending_rows=100, batch_rows=100)
    intake = Intake(Layout(tmp_path), SESSION, settings, NOON, ["A"])
    yield intake
    for recording in intake.windows:
        recording.tape.close()


def deliver(mailbox: Mailbox) -> None:
    while True:
        try:
            mailbox.get_nowait()()
        except queue.Empty:
            return


def test_marks_and_frames_go_to_the_tape_and_the_rest_to_the_mailbox(
    journal: SessionJournal, intake: Intake
) -> None:
    mailbox: Mailbox = queue.SimpleQueue()
    recorder = FeedEventRecorder(intake, journal, mailbox)
    marks = [
        ConnectedMark(NOON, ("A",)),
        SubscriptionMark(NOON + 2, ("B",), ("A",)),
        RefusedMark(NOON + 2, ("B",), "no"),
        DisconnectedMark(NOON + 3, "TCP ended"),
        GapMark(NOON + 4, NOON + 1, "TCP ended"),
    ]
    recorder.on_mark(marks[0])
    recorder.on_frames(NOON + 1, [BURST])
    recorder.on_error("no")
    for mark in marks[1:-1]:
        recorder.on_mark(mark)
    recorder.on_retry(NOON + 3, "TCP ended", 1.0)
    recorder.on_mark(marks[-1])
    recorder.on_notice("a word")
    assert journal.report.notices == [], "the feed's thread writes nothing but the tape"
    deliver(mailbox)
    _, *entries = TapeReader(intake.current.tape.path)
    assert entries == [marks[0], TapeFrames(NOON + 1, [BURST]), *marks[1:]]
    lines = journal.layout.audit.read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == [
        "connect", "error", "subscribe", "refused", "disconnect", "retry", "gap", "notice",
    ]  # fmt: skip


def test_a_tick_and_a_retry_begin_the_next_window(journal: SessionJournal, intake: Intake) -> None:
    recorder = FeedEventRecorder(intake, journal, queue.SimpleQueue())
    recorder.on_tick(NOON + 600 * 10**9)
    recorder.on_retry(NOON + 1200 * 10**9, "no", 1.0)
    assert len(intake.windows) == 3


def test_frames_that_were_read_before_the_feed_crashed_are_recorded(
    journal: SessionJournal, intake: Intake
) -> None:
    mailbox: Mailbox = queue.SimpleQueue()
    recorder = FeedEventRecorder(intake, journal, mailbox)
    recorder.on_frames(NOON + 1, [BURST])
    recorder.on_ended(0)
    deliver(mailbox)
    assert intake.received["A"] == len(TRADES)
    _, *entries = TapeReader(intake.current.tape.path)
    assert entries == [TapeFrames(NOON + 1, [BURST])]


def test_the_end_is_on_the_tape_and_in_the_coverage(
    journal: SessionJournal, intake: Intake
) -> None:
    mailbox: Mailbox = queue.SimpleQueue()
    recorder = FeedEventRecorder(intake, journal, mailbox)
    recorder.on_mark(ConnectedMark(NOON, ("A",)))
    recorder.on_ended(NOON + 1)
    deliver(mailbox)
    assert list(TapeReader(intake.current.tape.path))[-1] == EndedMark(NOON + 1)
    assert journal.coverage.intervals == [CoverageInterval("A", NOON, NOON + 1, "")]


def test_a_pause_is_a_mark_and_a_gap(journal: SessionJournal, intake: Intake) -> None:
    monotonic = 100.0
    clock = Clock(lambda: NOON, lambda: monotonic)
    mailbox: Mailbox = queue.SimpleQueue()
    recorder = FeedEventRecorder(intake, journal, mailbox, clock)
    recorder.on_mark(ConnectedMark(NOON, ("A",)))
    monotonic += 9
    recorder.on_tick(NOON + 9 * 10**9)
    deliver(mailbox)
    paused = PausedMark(NOON + 9 * 10**9, NOON, "suspended or stalled for 9.0 s")
    assert list(TapeReader(intake.current.tape.path))[-1] == paused
    assert [gap.reason for gap in journal.report.gaps] == [paused.reason]
