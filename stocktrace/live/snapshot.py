"""Reads the status of a running capture from outside: without locks or queues that others wait for.

It runs twice a second on the thread that called ``capture``. Other threads count on in the
meantime, so every mapping is copied in one step, and figures of one status may be a batch apart.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from stocktrace.clock import Clock, Deadline
from stocktrace.intervals import CONNECTING
from stocktrace.latency import LatencyHistogram
from stocktrace.record.intake import Intake
from stocktrace.record.journal import SessionJournal
from stocktrace.record.recorder import Recorder
from stocktrace.sessions.report import Books, GapReport, LagReport, SessionReport
from stocktrace.sessions.status import CaptureStatus, ConnectionState, StepProgress
from stocktrace.units import NS_PER_SECOND, utc_datetime

# Samples that are kept to measure how long something waits: ten minutes at two a second.
_MAX_SAMPLES = 1200
_UNCONNECTED = ("connecting", "reconnecting")


class _WaitMeter:
    """Measures how long the oldest of some things has waited, to half a second."""

    def __init__(self) -> None:
        self._arrived: deque[tuple[float, int]] = deque(maxlen=_MAX_SAMPLES)

    def oldest(self, now: float, done: int, arrived: int) -> float:
        """Return the seconds; ``arrived`` and ``done`` are numbers since the beginning."""
        samples = self._arrived
        samples.append((now, arrived))
        while len(samples) > 1 and samples[0][1] <= done:
            samples.popleft()
        since, count = samples[0]
        return now - since if count > done else 0.0


@dataclass(slots=True)
class StatusSnapshot:
    """Returns the status of one capture; one thread."""

    journal: SessionJournal
    intake: Intake
    recorder: Recorder
    deadline: Deadline
    clock: Clock
    #: Whether the feed has ended or is ending.
    is_stopping: bool = False
    #: What takes time then; other threads set it.
    progress: StepProgress | None = None
    _began: float = field(init=False)
    _recorded: int = 0
    #: Only its frames are read.
    _frames: Books = field(default_factory=Books)
    _refused: Counter[str] = field(default_factory=Counter)
    _spilled: int = 0
    _queued: _WaitMeter = field(default_factory=_WaitMeter)
    _publishing: _WaitMeter = field(default_factory=_WaitMeter)

    def __post_init__(self) -> None:
        self._began = self.clock.monotonic()

    def __call__(self) -> CaptureStatus:
        """Return the present status."""
        journal, intake, report = self.journal, self.intake, self.journal.report
        now = self.clock.monotonic()
        received = dict(intake.received)
        backlog = intake.pending_rows
        self._count()
        latency = LatencyHistogram()
        latency.merge(self.recorder.lags)
        if writer := self.recorder.writer:
            latency.merge(writer.lags)
        rolled = len(report.windows) + sum(
            window not in report.windows for window in report.unpublished
        )
        published = rolled - len(report.unpublished)
        wall = self.clock.wall()
        state = self._state(report)
        return CaptureStatus(
            session=report.session,
            connected=journal.connected,
            elapsed_s=now - self._began,
            remaining_s=self.deadline.remaining(),
            trades=sum(received.values()),
            backlog=backlog,
            reconnects=report.reconnects,
            lag_ms=self.recorder.latest_lag_ms,
            tickers=tuple(report.tickers),
            per_ticker=received,
            state=state,
            written_at=utc_datetime(wall),
            retry=journal.retry,
            recorded=self._recorded,
            quarantined=self._refused.total(),
            quarantined_by_ticker=dict(self._refused),
            queued={name: queue.rows for name, queue in intake.queues.copy().items() if queue.rows},
            gaps=len(report.gaps),
            gap_s=journal.gap_s,
            outages=journal.outages,
            last_outage=journal.last_outage,
            open_gap=self._open_gap(report, wall) if state in _UNCONNECTED else None,
            latency=LagReport.of(latency),
            trade_frames=self._frames.trade_frames,
            control=self._frames.control,
            undecodable=self._frames.undecodable,
            unrequested=self._frames.unrequested,
            last=intake.last_trade_at.copy(),
            feed_lag_s=(
                max(0.0, (wall - journal.heard_until) / NS_PER_SECOND) if journal.heard_until else 0
            ),
            behind_s=self._queued.oldest(now, intake.taken, intake.taken + backlog),
            rolled=rolled,
            published=published,
            publishing_s=self._publishing.oldest(now, published, rolled),
            files=report.files,
            parquet=sum(books.parquet for books in report.per_ticker.values()),
            spilled=self._spilled,
            notices=len(report.notices),
            last_error=journal.last_error,
            final_state=report.state,
            reason=report.reason,
            progress=self.progress if self.is_stopping and report.state == "running" else None,
        )

    def _state(self, report: SessionReport) -> ConnectionState:
        if report.state != "running":
            return "ended"
        if self.is_stopping:
            return "ending"
        if self.journal.connected:
            return "connected"
        return "reconnecting" if self.journal.lost_at else "connecting"

    def _open_gap(self, report: SessionReport, wall: int) -> GapReport:
        journal, now = self.journal, utc_datetime(wall)
        since = utc_datetime(journal.lost_at) if journal.lost_at else report.started
        reason = journal.loss_reason or (journal.retry.reason if journal.retry else CONNECTING)
        return GapReport(min(since, now), now, reason, len(report.tickers))

    def _count(self) -> None:
        # Between its end and its entry in the books, a window is in neither. Counts never decrease,
        # so the last one is kept until then.
        report = self.journal.report
        recorded = report.books.recorded
        windows = list(self.intake.windows)
        books = Books()
        for part in (report.books, *(window.counts.books for window in windows)):
            books.add(part)
        self._frames = max(self._frames, books, key=lambda each: each.frames)
        refused = Counter({name: row.quarantined for name, row in report.per_ticker.items()})
        for window in windows:
            refused.update(dict(window.counts.undecoded))
        if writer := self.recorder.writer:
            for ticker, tally in writer.counts.copy().items():
                recorded += tally.recorded
                if tally.quarantined:
                    refused[ticker] += tally.quarantined
        self._recorded = max(self._recorded, recorded)
        if refused.total() >= self._refused.total():
            self._refused = +refused
        # For a moment a window is both sealed in the report and still open.
        spilled = self.journal.spilled + sum(
            len(window.spilled) for window in windows if window.id.window not in report.spilled
        )
        self._spilled = max(self._spilled, spilled)
