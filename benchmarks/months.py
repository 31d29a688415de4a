"""Thirty days of windows: what is on disk, and what a window costs, at the end and at the start.

    python -m benchmarks.months [--days 30] [--windows 24] [--tickers 50] [--daily]

The trades of each window go through the intake, the recorder and the publisher of a capture, with
its report, audit log and status, only without a socket; the clock is the trades'. Each window has
a gap of three seconds. Every date is compacted when it has ended. By default one session runs for
the whole time; with ``--daily`` each day has its own.
"""

from __future__ import annotations

import argparse
import os
import queue
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import bench, market
from benchmarks.archive_data import FIRST_DATE
from stocktrace import marks
from stocktrace.clock import Clock, Deadline
from stocktrace.live.api import tune_memory
from stocktrace.live.snapshot import StatusSnapshot
from stocktrace.maintenance.compact import compact_days
from stocktrace.record.feed_events import FeedEventRecorder
from stocktrace.record.file_hashes import hash_files
from stocktrace.record.intake import Intake
from stocktrace.record.journal import (
    Mailbox,
    SessionJournal,
    new_report,
    report_gaps,
)
from stocktrace.record.publish import publish_window
from stocktrace.record.recorder import Recorder, SealedWindow
from stocktrace.sessions.report import LagReport
from stocktrace.sessions.status import StatusFile
from stocktrace.settings import Settings
from stocktrace.store.audit import AuditLog
from stocktrace.store.coverage import write_coverage
from stocktrace.store.layout import Layout
from stocktrace.store.names import new_session
from stocktrace.units import NS_PER_DAY, NS_PER_MS, NS_PER_SECOND, utc_datetime

_TRADES_A_TICKER = 10
_FRAME_TRADES = 5
# A pause of more than five seconds would be a gap.
_TICK_NS = 4 * NS_PER_SECOND


@dataclass(slots=True)
class SetClock:
    """A clock that is set by whoever reads the tape."""

    stamp: int

    def clock(self) -> Clock:
        """Return it as both clocks."""
        return Clock(lambda: self.stamp, lambda: self.stamp / NS_PER_SECOND)


class Recording:
    """A session that is recorded without a socket."""

    def __init__(
        self, layout: Layout, settings: Settings, tickers: Sequence[str], now: SetClock
    ) -> None:
        """Begin a session at the time of the clock."""
        self._layout, self._tickers, self._now = layout, tuple(tickers), now
        session, clock = new_session(now.stamp), now.clock()
        self.report = new_report(session, tickers, now.stamp, settings.public())
        self._journal = SessionJournal(layout, self.report, AuditLog(layout.audit, session, clock))
        self._journal.audit("start", tickers=tickers, settings=self.report.settings)
        self._journal.save()
        intake = Intake(layout, session, settings, now.stamp, tickers)
        self._journal.coverage.add(
            marks.OpeningMark(now.stamp, connected=False, tickers=self._tickers)
        )
        self._mailbox: Mailbox = queue.SimpleQueue()
        self._sealed: queue.SimpleQueue[SealedWindow] = queue.SimpleQueue()
        self._events = FeedEventRecorder(intake, self._journal, self._mailbox, clock)
        self._recorder = Recorder(layout, intake, settings, self._sealed.put)
        self._thread = threading.Thread(target=self._recorder.run)
        self._thread.start()
        self._status_file = StatusFile(layout.status(session))
        deadline = Deadline.after(NS_PER_DAY, clock)
        self._snapshot = StatusSnapshot(self._journal, intake, self._recorder, deadline, clock)
        self._is_first = True
        self._events.on_mark(marks.ConnectedMark(now.stamp, self._tickers))

    def record(self, begin: int, end: int, frames: Sequence[bytes]) -> None:
        """Record a window with a gap in its middle; publish the window before it."""
        step = (end - begin) // (len(frames) + 2)
        for at, frame in enumerate(frames, 1):
            self._wait_until(begin + at * step)
            self._events.on_frames(self._now.stamp, [frame])
            if at == len(frames) // 2:
                lost, again = self._now.stamp, self._now.stamp + 3 * NS_PER_SECOND
                self._now.stamp = again
                self._events.on_mark(marks.DisconnectedMark(lost, "closed by the server"))
                self._events.on_mark(marks.GapMark(again, lost, "closed by the server"))
                self._events.on_mark(marks.ConnectedMark(again, self._tickers))
            if at == 1 and not self._is_first:
                self._publish()
        self._is_first = False
        self._read_mailbox()
        self._status_file.write(self._snapshot())

    def end(self) -> None:
        """Publish the last window, and close the books as a capture does."""
        self._events.on_ended(self._now.stamp)
        self._recorder.finish()
        self._publish()
        self._thread.join()
        self._read_mailbox()
        journal, report = self._journal, self.report
        report.state, report.ended = "complete", utc_datetime(self._now.stamp)
        journal.coverage.close(self._now.stamp)
        report.gaps = report_gaps(journal.coverage)
        written = write_coverage(self._layout, report.session, journal.coverage.intervals)
        hash_files(self._layout, report, written)
        report.latency = LagReport.of(self._recorder.lags)
        journal.audit("end", state=report.state, books=report.books)
        journal.save()
        self._status_file.write(self._snapshot())
        assert report.balanced, report.differences()

    def _wait_until(self, stamp: int) -> None:
        """Let time pass as on a quiet connection: the feed ticks, so that it sees no pause."""
        while self._now.stamp < stamp:
            self._now.stamp = min(self._now.stamp + _TICK_NS, stamp)
            self._events.on_tick(self._now.stamp)

    def _publish(self) -> None:
        sealed = self._sealed.get(timeout=60)
        self._journal.window_sealed(sealed)
        self._journal.window_published(
            publish_window(self._layout, sealed.window, whole=not sealed.spilled)
        )

    def _read_mailbox(self) -> None:
        while not self._mailbox.empty():
            self._mailbox.get()()


def measure_folder(root: Path) -> dict[str, int]:
    """Return the number of files and inodes, and the bytes of what grows."""
    found = {"files": 0, "inodes": 0, "report": 0, "status": 0, "audit": 0, "coverage": 0}
    for folder, folders, names in os.walk(root):
        found["files"] += len(names)
        found["inodes"] += len(names) + len(folders)
        for name in names:
            path = Path(folder) / name
            kind = path.relative_to(root).parts[0]
            if kind == "sessions" and path.suffix in {".json", ".jsonl", ".status"}:
                found["status" if path.suffix == ".status" else "report"] += path.stat().st_size
            elif kind in {"log", "coverage"}:
                found["audit" if kind == "log" else kind] += path.stat().st_size
    return found


def written_bytes() -> int:
    """Return how many bytes this process has written so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["wchar"])


def memory_mb() -> float:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def simulate(root: Path, given: argparse.Namespace) -> list[dict[str, float]]:
    """Record all days; return what was measured after each."""
    layout, tickers = Layout(root), market.tickers(given.tickers)
    width = NS_PER_DAY // given.windows
    settings = Settings.load(data_dir=root, roll_interval=width / NS_PER_SECOND)
    first = int(time.mktime(FIRST_DATE.timetuple())) // 86_400 * NS_PER_DAY
    now = SetClock(first + NS_PER_SECOND)
    recording, days = None, []
    for day in range(given.days):
        cpu, written, compaction = time.process_time(), written_bytes(), 0.0
        if recording is None:
            recording = Recording(layout, settings, tickers, now)
        for number in range(given.windows):
            begin = first + day * NS_PER_DAY + number * width
            recording.record(begin, begin + width, _frames(tickers, begin))
        if given.daily:
            recording.end()
            recording = None
        began = time.process_time()
        compact_days(layout, clock=now.clock())
        compaction = time.process_time() - began
        windows_s = time.process_time() - cpu - compaction
        days.append(
            {
                **measure_folder(root),
                "window_ms": windows_s / given.windows * 1e3,
                "compact_ms": compaction * 1e3,
                "written": (written_bytes() - written) / given.windows,
                "memory": memory_mb(),
            }
        )
        bench.log(f"day {day + 1}: {days[-1]}")
    if recording is not None:
        recording.end()
        days.append({**days[-1], **measure_folder(root)})
    return days


def _frames(tickers: Sequence[str], begin: int) -> list[bytes]:
    """Return the frames of a window whose trades happened at its start."""
    trades = market.synthetic_trades(tickers, len(tickers) * _TRADES_A_TICKER)
    ms = begin // NS_PER_MS
    moved = [
        market.SyntheticTrade(each.symbol, each.price, each.size, ms, each.codes) for each in trades
    ]
    return [
        market.finnhub_payload(moved[at : at + _FRAME_TRADES])
        for at in range(0, len(moved), _FRAME_TRADES)
    ]


def table(days: Sequence[dict[str, Any]]) -> str:
    """Format some of the days."""
    chosen = [at for at in (1, 2, 5, 10, 15, 20, 25, 30, 60, 90) if at <= len(days)]
    rows = []
    for at in chosen:
        day = days[at - 1]
        sizes = [f"{day[name] / 1e3:,.0f} kB" for name in ("report", "status", "audit", "coverage")]
        rows.append(
            [
                *(str(at), f"{day['files']:,}", f"{day['inodes']:,}", *sizes),
                f"{day['window_ms']:.0f} ms",
                f"{day['written'] / 1e3:,.0f} kB",
                f"{day['compact_ms']:.0f} ms",
                f"{day['memory']:.0f} MB",
            ]
        )
    head = ["day", "files", "inodes", "reports", "status", "audit log", "coverage"]
    more = ["CPU a window", "written a window", "compacting", "memory"]
    return bench.table([*head, *more], rows)


def main() -> None:
    """Simulate, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--tickers", type=int, default=50)
    parser.add_argument("--daily", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stocktrace-bench-") as folder, tune_memory():
        days = simulate(Path(folder), given)
    print(table(days))
    bench.log(f"saved to {bench.save('months-daily' if given.daily else 'months', {'days': days})}")


if __name__ == "__main__":
    main()
