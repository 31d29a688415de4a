"""Looks at the parts of a running capture from outside: no lock, no queue, nothing they wait for.

Twice a second on the thread that called ``capture``. Other threads go on counting meanwhile, so
every mapping is copied in one step, and figures of one look may be a batch apart.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from stocktrace.deadline import Clock, Deadline, utc
from stocktrace.lags import Lags
from stocktrace.record.intake import Intake
from stocktrace.record.journal import Journal
from stocktrace.record.recorder import Recorder
from stocktrace.report import Books, GapReport, LagReport, Report
from stocktrace.status import State, Status

# Looks that are kept to tell how long a trade waits; at two a second, ten minutes.
_LOOKS = 1200


@dataclass(slots=True)
class Gauge:
    """Gives the status of one capture; one thread."""

    journal: Journal
    intake: Intake
    recorder: Recorder
    deadline: Deadline
    clock: Clock
    #: Whether it has stopped listening.
    ending: bool = False
    _began: float = field(init=False)
    _counted: list[GapReport] = field(default_factory=list)
    _gap_s: float = 0.0
    _outages: list[GapReport] = field(default_factory=list)
    _recorded: int = 0
    #: Of which only the frames are read.
    _frames: Books = field(default_factory=Books)
    _refused: Counter[str] = field(default_factory=Counter)
    _spilled: int = 0
    _puts: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_LOOKS))

    def __post_init__(self) -> None:
        self._began = self.clock.monotonic()

    def __call__(self) -> Status:
        """How it stands now."""
        journal, intake, report = self.journal, self.intake, self.journal.report
        now = self.clock.monotonic()
        received = dict(intake.received)
        backlog = intake.backlog
        trades = sum(received.values())
        self._count()
        self._look_at_gaps()
        waiting = len(report.unpublished)
        rolled = len(report.windows.keys() | set(report.unpublished))
        return Status(
            session=report.session,
            connected=journal.connected,
            elapsed_s=now - self._began,
            left_s=self.deadline.left(),
            trades=trades,
            backlog=backlog,
            reconnects=report.reconnects,
            lag_ms=self.recorder.latest_lag_ms,
            tickers=tuple(report.tickers),
            per_ticker=received,
            state=self._state(report),
            at=utc(self.clock.wall()),
            retry=journal.retry,
            recorded=self._recorded,
            quarantined=self._refused.total(),
            quarantined_of=dict(self._refused),
            queued={name: queue.rows for name, queue in intake.queues.copy().items() if queue.rows},
            gaps=len(self._counted),
            gap_s=self._gap_s,
            outages=len(self._outages),
            last_outage=self._outages[-1] if self._outages else None,
            lag=LagReport.of(self._lags()),
            trade_frames=self._frames.trade_frames,
            control=self._frames.control,
            undecodable=self._frames.undecodable,
            last=intake.last.copy(),
            behind_s=self._behind(now, intake.taken, intake.taken + backlog),
            rolled=rolled,
            published=rolled - waiting,
            files=sum(one.files for one in report.per_ticker.values()),
            parquet=sum(one.parquet for one in report.per_ticker.values()),
            spilled=self._spilled,
            notices=len(report.notices),
            last_error=journal.last_error,
            outcome=report.state,
            reason=report.reason,
        )

    def _state(self, report: Report) -> State:
        if report.state != "running":
            return "ended"
        if self.ending:
            return "ending"
        if self.journal.connected:
            return "connected"
        return "reconnecting" if report.reconnects else "connecting"

    def _look_at_gaps(self) -> None:
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
        recordings = list(self.intake.recordings)
        for each in (report.books, *(one.receipts.books for one in recordings)):
            books.add(each)
        self._frames = max(self._frames, books, key=lambda one: one.frames)
        refused = Counter({t: one.quarantined for t, one in report.per_ticker.items()})
        for recording in recordings:
            refused.update(dict(recording.receipts.undecoded))
        if writer := self.recorder.writer:
            for ticker, tally in writer.tallies.copy().items():
                recorded += tally.recorded
                if tally.quarantined:
                    refused[ticker] += tally.quarantined
        self._recorded = max(self._recorded, recorded)
        if refused.total() >= self._refused.total():
            self._refused = +refused
        # For a moment a window is both: sealed in the report, and still a recording.
        open_ones = {one.part.window: one.spilled for one in recordings}
        self._spilled = max(self._spilled, sum(map(len, (report.spilled | open_ones).values())))

    def _lags(self) -> Lags:
        """The delays of the session so far."""
        lags = Lags()
        lags.merge(self.recorder.lags)
        if writer := self.recorder.writer:
            lags.merge(writer.lags)
        return lags

    def _behind(self, now: float, taken: int, put: int) -> float:
        """For how long the oldest trade in a queue has waited, to half a second."""
        self._puts.append((now, put))
        while len(self._puts) > 1 and self._puts[0][1] <= taken:
            self._puts.popleft()
        since, count = self._puts[0]
        return now - since if count > taken else 0.0
