from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from stocktrace.sessions.report import Books, GapReport, SessionReport, TickerBooks
from stocktrace.sessions.running_report import RunningReport
from tests.conftest import SESSION, tree
from tests.dying import Killed, Killer, calls_of
from tests.sessions.test_report import NOW, report


class Running:
    """A session whose report grows by a window and a gap, and is written after each."""

    def __init__(self, root: Path) -> None:
        self.path = root / f"{SESSION}.json"
        self.report, self.file = report(), RunningReport(self.path)
        self.report.write(self.path)

    def grow(self, windows: int = 1) -> None:
        for _ in range(windows):
            number = len(self.report.windows) + 1
            start = NOW + timedelta(minutes=number)
            gap = GapReport(start, start + timedelta(seconds=3), "lost", 2)
            name = f"20261123T143000Z_{number:05}"
            self.report.windows[name] = Books(frames=1, control=1)
            self.report.spilled[name] = ["A"]
            self.report.notices.append(f"window {number}")
            self.report.gaps.append(gap)
            self.report.books.add(self.report.windows[name])
            self.file.write(self.report, [gap])

    def sizes(self) -> tuple[int, int]:
        """Bytes of the report, and of the lines beside it."""
        return self.path.stat().st_size, self.path.with_suffix(".jsonl").stat().st_size


@pytest.fixture
def running(tmp_path: Path) -> Running:
    return Running(tmp_path)


def test_a_running_report_is_read_whole_after_each_window(running: Running) -> None:
    for _ in range(3):
        running.grow()
        assert SessionReport.read(running.path) == running.report


def test_a_window_costs_as_many_bytes_at_the_end_of_a_month_as_at_its_beginning(
    running: Running,
) -> None:
    running.grow(100)
    report_before, lines_before = running.sizes()
    running.grow(100)
    report_after, lines_after = running.sizes()
    assert report_after == pytest.approx(report_before, abs=20)
    assert lines_after - lines_before == pytest.approx(lines_before, abs=200)
    assert SessionReport.read(running.path) == running.report


def test_a_gap_of_more_tickers_replaces_the_one_that_was_written(running: Running) -> None:
    running.grow()
    (gap,) = running.report.gaps
    running.report.gaps[0] = GapReport(gap.start, gap.end, gap.reason, 50)
    running.file.write(running.report, running.report.gaps)
    assert SessionReport.read(running.path) == running.report


def test_the_report_of_a_session_that_ended_is_one_file(running: Running) -> None:
    running.grow(2)
    running.report.write(running.path)
    assert tree(running.path.parent) == [running.path.name]
    assert SessionReport.read(running.path) == running.report


def killings(root: Path, work: Callable[[Running], object]) -> list[tuple[SessionReport, Running]]:
    """What is read after ``work`` was killed at each of its system calls."""
    first = Running(root / "whole")
    first.grow(2)
    outcomes = []
    for left in calls_of(lambda: work(first)):
        session = Running(root / str(left))
        session.grow(2)
        with pytest.MonkeyPatch.context() as patch:
            Killer(patch, left)
            with pytest.raises(Killed):
                work(session)
        outcomes.append((SessionReport.read(session.path), session))
    assert len(outcomes) > 5
    return outcomes


def test_a_writer_that_is_killed_leaves_the_report_before_or_after(tmp_path: Path) -> None:
    for read, session in killings(tmp_path, Running.grow):
        before = {*session.report.windows} - {f"20261123T143000Z_{3:05}"}
        assert {*read.windows} in (before, {*session.report.windows})
        assert read.books.frames == 5 + len(read.windows) == 5 + len(read.gaps)
        assert len(read.notices) == len(read.spilled) == len(read.windows)


def test_an_end_that_is_killed_leaves_the_same_report(tmp_path: Path) -> None:
    for read, session in killings(tmp_path, lambda session: session.report.write(session.path)):
        assert read == session.report


def test_a_line_that_was_written_in_part_is_written_again(running: Running) -> None:
    running.grow()
    with running.path.with_suffix(".jsonl").open("ab") as file:
        file.write(b'{"windows":{"20261123T1' * 100)
    assert SessionReport.read(running.path) == running.report
    running.grow()
    assert SessionReport.read(running.path) == running.report


@pytest.mark.parametrize("left", [0, None])
def test_a_report_without_its_lines_is_damaged(running: Running, left: int | None) -> None:
    running.grow()
    lines = running.path.with_suffix(".jsonl")
    lines.unlink() if left is None else lines.write_bytes(b"")
    with pytest.raises(ValueError, match="is missing or too short"):
        SessionReport.read(running.path)


def test_a_session_that_ends_while_its_report_is_read_is_read_as_ended(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.grow()
    read_lines = SessionReport.add_lines

    def end(report: SessionReport, path: Path) -> bool:
        running.report.state = "complete"
        running.report.write(path)
        return read_lines(report, path)

    monkeypatch.setattr(SessionReport, "add_lines", end)
    assert SessionReport.read(running.path) == running.report


def test_what_the_head_says_of_a_running_session_does_not_need_the_lines(running: Running) -> None:
    running.grow(3)
    head = SessionReport.decode(running.path.read_bytes())
    assert (head.tickers, head.books.frames) == (["A", "B"], 8)
    assert head.per_ticker["A"] == TickerBooks(4, 4, 0, 4, NOW)
    assert head.windows == {}
