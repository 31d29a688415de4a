from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from pathlib import Path

import pytest

from stocktrace.intervals import Gap
from stocktrace.record.feed_events import FeedEventRecorder, Mailbox
from stocktrace.record.intake import Intake, QueueLimits
from stocktrace.record.journal import SessionJournal
from stocktrace.store.layout import Layout
from stocktrace.store.tape import TapeFrames, TapeMark, TapeReader
from stocktrace.store.window import RollPolicy
from tests.conftest import NOON, SESSION, frame

TRADES = [("A", n + 1) for n in range(50)]
BURST = frame(*TRADES)


@pytest.fixture
def intake(tmp_path: Path) -> Iterator[Intake]:
    intake = Intake(
        Layout(tmp_path),
        SESSION,
        RollPolicy(600.0, 1 << 30),
        QueueLimits(100, 100, 100),
        NOON,
        ["A"],
    )
    yield intake
    for recording in intake.recordings:
        recording.tape.close()


def deliver(mailbox: Mailbox) -> None:
    while True:
        try:
            mailbox.get_nowait()()
        except queue.Empty:
            return


def test_the_observer_puts_everything_on_the_tape_and_mails_the_rest(
    journal: SessionJournal, intake: Intake
) -> None:
    mailbox: Mailbox = queue.SimpleQueue()
    observer = FeedEventRecorder(intake, journal, mailbox)
    observer.on_connected(NOON, ("A",))
    observer.on_frames(NOON + 1, [frame(("A", 1)), b'{"type":"error","msg":"no"}'])
    observer.on_subscription(NOON + 2, ("B",), ("A",))
    observer.on_disconnected(NOON + 3, "TCP ended")
    observer.on_retry(NOON + 3, "TCP ended", 1.0)
    observer.on_gap(Gap(NOON + 1, NOON + 4, ("B",), "TCP ended"))
    observer.on_notice(NOON + 4, "a word")
    assert journal.report.notices == [], "nothing but the tape on the feed's thread"
    deliver(mailbox)
    marks = [entry for entry in TapeReader(intake.current.tape.path) if isinstance(entry, TapeMark)]
    assert marks[1:] == [
        TapeMark(NOON, "connected", {"tickers": ["A"]}),
        TapeMark(NOON + 2, "subscription", {"added": ["B"], "removed": ["A"]}),
        TapeMark(NOON + 3, "disconnected", {"reason": "TCP ended"}),
        TapeMark(NOON + 4, "gap", {"start": NOON + 1, "reason": "TCP ended"}),
    ]
    assert intake.state == {"connected": False, "tickers": ["B"]}
    lines = journal.layout.audit.read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == [
        "connect", "error", "subscribe", "disconnect", "retry", "gap", "notice",
    ]  # fmt: skip


def test_a_tick_rolls_and_a_retry_does_too(journal: SessionJournal, intake: Intake) -> None:
    observer = FeedEventRecorder(intake, journal, queue.SimpleQueue())
    observer.on_tick(NOON + 600 * 10**9)
    observer.on_retry(NOON + 1200 * 10**9, "no", 1.0)
    assert len(intake.recordings) == 3


NO = b'{"type":"error","msg":"no"}'


def test_an_error_is_told_at_once(journal: SessionJournal, intake: Intake) -> None:
    observer = FeedEventRecorder(intake, journal, queue.SimpleQueue())
    assert observer.on_frames(NOON + 1, [BURST]) == []
    assert observer.on_frames(NOON + 2, [NO]) == ["no"]
    assert observer.on_tick(NOON + 3) == []


def test_whether_a_ticker_has_traded_is_known_of_all_that_was_read(
    journal: SessionJournal, intake: Intake
) -> None:
    observer = FeedEventRecorder(intake, journal, queue.SimpleQueue())
    observer.on_frames(NOON + 1, [frame(("A", 1))])
    assert (observer.has_traded("A"), observer.has_traded("B")) == (True, False)


def test_what_a_feed_that_died_had_read_is_recorded(
    journal: SessionJournal, intake: Intake
) -> None:
    mailbox: Mailbox = queue.SimpleQueue()
    observer = FeedEventRecorder(intake, journal, mailbox)
    observer.on_frames(NOON + 1, [BURST, NO])
    observer.on_ended(0)
    deliver(mailbox)
    assert (intake.received["A"], journal.last_error) == (len(TRADES), "the server says: no")
    entries = list(TapeReader(intake.current.tape.path))
    assert TapeMark(NOON, "ended") not in entries
    assert TapeFrames(NOON + 1, [BURST, NO]) in entries
