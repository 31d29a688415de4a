"""Looks at the parts of a running capture from outside: no lock, no queue, nothing they wait for.

Twice a second on the thread that called ``capture``. Other threads go on counting meanwhile, so
every mapping is copied in one step, and figures of one look may be a batch apart.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from stocktrace.clock import Clock, Deadline
from stocktrace.latency import LatencyHistogram
from stocktrace.record.intake import Intake
from stocktrace.record.journal import SessionJournal
from stocktrace.record.recorder import Recorder
from stocktrace.sessions.report import Books, GapReport, LagReport, SessionReport
from stocktrace.sessions.status import CaptureStatus, ConnectionState
from stocktrace.units import utc_datetime

# Looks that are kept to tell how long a trade waits; at two a second, ten minutes.
_RATE_SAMPLES = 1200


@dataclass(slots=True)
class StatusSnapshot:
    """Gives the status of one capture; one thread."""

    journal: SessionJournal
    intake: Intake
    recorder: Recorder
    deadline: Deadline
    clock: Clock
    #: Whether it has stopped listening.
    is_stopping: bool = False
    _began: float = field(init=False)
    _counted: list[GapReport] = field(default_factory=list)
    _gap_s: float = 0.0
    _outages: list[GapReport] = field(default_factory=list)
    _recorded: int = 0
    #: Of which only the frames are read.
    _frames: Books = field(default_factory=Books)
    _refused: Counter[str] = field(default_factory=Counter)
    _spilled: int = 0
    _writes: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_RATE_SAMPLES))

    def __post_init__(self) -> None:
        self._began = self.clock.monotonic()

    def __call__(self) -> CaptureStatus:
        """How it stands now."""
        journal, intake, report = self.journal, self.intake, self.journal.report
        now = self.clock.monotonic()
        received = dict(intake.received)
        backlog = intake.pending_rows
        trades = sum(received.values())
        self._count()
        self._count_gaps()
        waiting = len(report.unpublished)
        rolled = len(report.windows.keys() | set(report.unpublished))
        return CaptureStatus(
            session=report.session,
            connected=journal.connected,
            elapsed_s=now - self._began,
            remaining_s=self.deadline.remaining(),
            trades=trades,
            backlog=backlog,
            reconnects=report.reconnects,
            lag_ms=self.recorder.latest_lag_ms,
            tickers=tuple(report.tickers),
            per_ticker=received,
            state=self._state(report),
            written_at=utc_datetime(self.clock.wall()),
            retry=journal.retry,
            recorded=self._recorded,
            quarantined=self._refused.total(),
            quarantined_by_ticker=dict(self._refused),
            queued={name: queue.rows for name, queue in intake.queues.copy().items() if queue.rows},
            gaps=len(self._counted),
            gap_s=self._gap_s,
            outages=len(self._outages),
            last_outage=self._outages[-1] if self._outages else None,
            latency=LagReport.of(self._lags()),
            trade_frames=self._frames.trade_frames,
            control=self._frames.control,
            undecodable=self._frames.undecodable,
            last=intake.last_trade_at.copy(),
            behind_s=self._behind(now, intake.taken, intake.taken + backlog),
            rolled=rolled,
            published=rolled - waiting,
            files=sum(one.files for one in report.per_ticker.values()),
            parquet=sum(one.parquet for one in report.per_ticker.values()),
            spilled=self._spilled,
            notices=len(report.notices),
            last_error=journal.last_error,
            final_state=report.state,
            reason=report.reason,
        )

    def _state(self, report: SessionReport) -> ConnectionState:
        if report.state != "running":
            return "ended"
        if self.is_stopping:
            return "ending"
        if self.journal.connected:
            return "connected"
        return "reconnecting" if report.reconnects else "connecting"

    def _count_gaps(self) -> None:
        """Count those that are over; only when one was added."""
        report = self.journal.report
        if report.gaps is not self._counted:  # each gap makes a new list
            self._counted = report.gaps
            self._gap_s, self._outages = report.gap_s, report.outages

    def _count(self) -> None:
        """Bring the counts up to date: of windows in the books, and of the open ones.

        Between a window's end and its entry in the books it is in neither. No count ever falls,
        so the last one stands meanwhile.
        """
        report = self.journal.report
        recorded = report.books.recorded
        books = Books()
        recordings = list(self.intake.windows)
        for each in (report.books, *(one.counts.books for one in recordings)):
            books.add(each)
        self._frames = max(self._frames, books, key=lambda one: one.frames)
        refused = Counter({t: one.quarantined for t, one in report.per_ticker.items()})
        for recording in recordings:
            refused.update(dict(recording.counts.undecoded))
        if writer := self.recorder.writer:
            for ticker, tally in writer.counts.copy().items():
                recorded += tally.recorded
                if tally.quarantined:
                    refused[ticker] += tally.quarantined
        self._recorded = max(self._recorded, recorded)
        if refused.total() >= self._refused.total():
            self._refused = +refused
        # For a moment a window is both: sealed in the report, and still a recording.
        open_ones = {one.part.window: one.spilled for one in recordings}
        self._spilled = max(self._spilled, sum(map(len, (report.spilled | open_ones).values())))

    def _lags(self) -> LatencyHistogram:
        """The delays of the session so far."""
        lags = LatencyHistogram()
        lags.merge(self.recorder.lags)
        if writer := self.recorder.writer:
            lags.merge(writer.lags)
        return lags

    def _behind(self, now: float, taken: int, put: int) -> float:
        """For how long the oldest trade in a queue has waited, to half a second."""
        self._writes.append((now, put))
        while len(self._writes) > 1 and self._writes[0][1] <= taken:
            self._writes.popleft()
        since, count = self._writes[0]
        return now - since if count > taken else 0.0
