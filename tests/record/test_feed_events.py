from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from pathlib import Path

import pytest

from stocktrace.clock import Clock
from stocktrace.intervals import CoverageInterval
from stocktrace.marks import (
    ConnectedMark,
    DisconnectedMark,
    EndedMark,
    GapMark,
    PausedMark,
    RefusedMark,
    SubscriptionMark,
)
from stocktrace.record.feed_events import FeedEventRecorder, Mailbox
from stocktrace.record.intake import Intake
from stocktrace.record.journal import SessionJournal
from stocktrace.settings import Settings
from stocktrace.store.layout import Layout
from stocktrace.store.tape import TapeFrames, TapeReader
from tests.conftest import NOON, SESSION, frame

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
