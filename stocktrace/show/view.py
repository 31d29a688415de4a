"""What a report of a session shows: its books, bars, gaps and quarantine, read from the disk.

Works for a session in any state. Of one that runs, the books are those of the windows that have
rolled, the bars those of all that is on disk by now.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self

from stocktrace.errors import StoreError, UsageError
from stocktrace.query.coverage import join_midnight_gaps, read_gaps
from stocktrace.query.session_bars import read_session_bars
from stocktrace.sessions.catalog import read_session
from stocktrace.sessions.report import SessionReport
from stocktrace.sessions.summary import SessionSummary
from stocktrace.store.layout import Layout
from stocktrace.store.names import is_session
from stocktrace.store.quarantine import parse_quarantine

#: Lengths of a bar (s) to choose from: the shortest with which a session has at most ``MOST_BARS``.
LENGTHS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)
#: A session of the US market in minutes, and a few.
MOST_BARS = 400
#: More charts than this nobody looks at, and each costs up to 16 kB of the page.
MOST_TICKERS = 50
#: What stands in a table for the ticker of rows that name none.
NAMELESS = "(no ticker)"


class ReportBar(NamedTuple):
    """What the trades of ``every_s`` seconds came to; ``start`` is epoch s, by receipt.

    The prices are ``None`` where only trades came that make none.
    """

    start: int
    open: float | None
    high: float | None
    low: float | None
    close: float | None
    volume: float
    trades: int


class GapStretch(NamedTuple):
    """A gap of ``tickers``; ``None``: of which is not known yet, for the session is running."""

    start: datetime
    end: datetime
    reason: str
    tickers: frozenset[str] | None

    def concerns(self, ticker: str) -> bool:
        """Whether ``ticker`` was not listened to."""
        return self.tickers is None or ticker in self.tickers


@dataclass(frozen=True, slots=True)
class ReportView:
    """A session from ``begin`` to ``end``.

    ``bars`` are of the busiest tickers, busiest first; ``quarantine`` counts rows by reason.
    """

    report: SessionReport
    summary: SessionSummary
    begin: datetime
    end: datetime
    every_s: int
    bars: dict[str, list[ReportBar]]
    gaps: list[GapStretch]
    quarantine: dict[str, int]

    @classmethod
    def of(cls, layout: Layout, session: str, most: int = MOST_TICKERS) -> Self:
        """The session as it stands on disk, with the bars of ``most`` tickers.

        Raises:
            UsageError: there is no such session.
            StoreError: its report, or a file of it, is damaged.
        """
        report = _report(layout, session)
        summary = SessionSummary.of(layout, report)
        begin, end = report.started, _end(report, summary)
        every_s = length_of_bars((end - begin).total_seconds())
        busiest = sorted(report.tickers, key=lambda name: (-_trades(report, name), name))
        gone = sorted(set(report.per_ticker) - set(report.tickers))
        bars = {
            name: _bars(layout, session, name, every_s, begin, end)
            for name in [*busiest, *gone][:most]
        }
        return cls(
            report,
            summary,
            begin,
            end,
            every_s,
            dict(sorted(bars.items(), key=lambda item: -sum(bar.trades for bar in item[1]))),
            _gaps(layout, report),
            _quarantine(layout, session),
        )

    @property
    def state(self) -> str:
        """As its summary tells."""
        return self.summary.state

    @property
    def is_closed(self) -> bool:
        """Whether its books are."""
        return self.state not in ("running", "crashed")

    @property
    def quarantined(self) -> int:
        """How many rows and frames were refused."""
        return sum(self.quarantine.values())

    @property
    def gap_seconds(self) -> list[str]:
        """Tickers without any trade."""
        heard = {name for name, bars in self.bars.items() if bars} | set(self.report.per_ticker)
        return [name for name in self.report.tickers if name not in heard]

    @property
    def seconds(self) -> float:
        """How long it took, or has taken."""
        return (self.end - self.begin).total_seconds()


def length_of_bars(seconds: float) -> int:
    """How many seconds a bar has when so many are shown."""
    fitting = (length for length in LENGTHS_S if seconds / length <= MOST_BARS)
    return next(fitting, LENGTHS_S[-1])


def _report(layout: Layout, session: str) -> SessionReport:
    path = layout.report(session)
    if not (is_session(session) and path.exists()):
        raise UsageError(f"There is no session {session}: see `stocktrace sessions`.")
    try:
        return read_session(layout, session)
    except ValueError as error:
        raise StoreError(f"{path} is no report: {error}.") from error


def _end(report: SessionReport, summary: SessionSummary) -> datetime:
    if report.ended is not None:
        return report.ended
    if summary.state == "running":
        return datetime.now(UTC)
    # It died, and nobody has recovered it yet: its last sign of life.
    heard = [one.last for one in report.per_ticker.values() if one.last is not None]
    gaps = [gap.end for gap in report.gaps]
    told = report.started + timedelta(seconds=max(1.0, summary.seconds))
    return max([told, *heard, *gaps])


def _trades(report: SessionReport, ticker: str) -> int:
    return report.per_ticker[ticker].trades if ticker in report.per_ticker else 0


def _bars(
    layout: Layout, session: str, ticker: str, every_s: int, begin: datetime, end: datetime
) -> list[ReportBar]:
    rows = read_session_bars(layout, session, ticker, every_s, begin, end).to_pylist()
    return [
        ReportBar(
            int(row["start"].timestamp()),
            *(row[name] for name in ("open", "high", "low", "close", "volume", "trade_count")),
        )
        for row in rows
    ]


def _gaps(layout: Layout, report: SessionReport) -> list[GapStretch]:
    """From the coverage, which is written at the end; till then the report has them."""
    found = read_gaps(session=report.session, data_dir=layout.root)
    if not len(found):
        every = len(report.tickers)
        return [
            GapStretch(
                gap.start, gap.end, gap.reason, None if gap.tickers >= every else frozenset()
            )
            for gap in report.gaps
        ]
    return [
        GapStretch(start, end, reason, frozenset(tickers))
        for (_, start, end, reason), tickers in sorted(join_midnight_gaps(found).items())
    ]


def _quarantine(layout: Layout, session: str) -> dict[str, int]:
    reasons: Counter[str] = Counter()
    for path in sorted(layout.root.glob(f"quarantine/{session}-*.jsonl*")):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:  # sealed just now
            text = path.with_suffix("").read_text(encoding="utf-8", errors="replace")
        # The last line of an open file may not be whole yet.
        whole = text[: text.rfind("\n") + 1].splitlines()
        reasons.update(refused.reason for refused in parse_quarantine(whole))
    return dict(reasons.most_common())
