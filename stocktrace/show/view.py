"""The data of a session's page: books, bars, gaps and quarantine, read from the disk.

The session can be in any state. For a running one, the books cover the windows that have ended, and
the bars cover everything that is on disk so far.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self

from stocktrace.errors import StoreError, UsageError
from stocktrace.query.bars import read_session_bars
from stocktrace.query.coverage import join_midnight_gaps, read_gaps
from stocktrace.sessions.catalog import read_session
from stocktrace.sessions.report import SessionReport
from stocktrace.sessions.summary import SessionSummary
from stocktrace.store.layout import Layout
from stocktrace.store.names import is_session
from stocktrace.store.quarantine import parse_quarantine

#: Possible lengths of a bar (s). The shortest is used that needs at most ``MOST_BARS``.
LENGTHS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)
#: The minutes of one US market session, and a few more.
MOST_BARS = 400
#: Each chart adds up to 16 kB to the page.
MOST_TICKERS = 50
#: Shown instead of the ticker of rows that do not name one.
NAMELESS = "(no ticker)"


class ReportBar(NamedTuple):
    """A bar of ``every_s`` seconds by time of receipt; ``start`` is epoch seconds.

    Prices are ``None`` if no trade of the bar sets a price.
    """

    start: int
    open: float | None
    high: float | None
    low: float | None
    close: float | None
    volume: float
    trades: int


class GapStretch(NamedTuple):
    """A gap of ``tickers``; ``None`` means all of them."""

    start: datetime
    end: datetime
    reason: str
    tickers: frozenset[str] | None

    def concerns(self, ticker: str) -> bool:
        """Return whether the gap is one of ``ticker``."""
        return self.tickers is None or ticker in self.tickers


@dataclass(frozen=True, slots=True)
class ReportView:
    """A session from ``begin`` to ``end``.

    ``bars`` has the busiest tickers, busiest first; ``quarantine`` counts rows by reason.
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
    def read(cls, layout: Layout, session: str, most: int = MOST_TICKERS) -> Self:
        """Read a session from the disk, with the bars of the ``most`` busiest tickers.

        Raises:
            UsageError: the session does not exist.
            StoreError: its report, or one of its files, is damaged.
        """
        path = layout.report(session)
        if not (is_session(session) and path.exists()):
            raise UsageError(f"No session {session} in {layout.root}. See `stocktrace sessions`.")
        try:
            report = read_session(layout, session)
        except ValueError as error:
            raise StoreError(f"{path} is not a session report: {error}.") from error
        summary = SessionSummary.of(layout, report)
        begin, end = report.started, _end(report, summary)
        every_s = length_of_bars((end - begin).total_seconds())
        trades = {name: books.trades for name, books in report.per_ticker.items()}
        busiest = sorted(report.tickers, key=lambda name: (-trades.get(name, 0), name))
        removed = sorted(set(report.per_ticker) - set(report.tickers))
        bars = {
            name: _read_bars(layout, session, name, every_s, begin, end)
            for name in [*busiest, *removed][:most]
        }
        return cls(
            report,
            summary,
            begin,
            end,
            every_s,
            dict(sorted(bars.items(), key=lambda item: -sum(bar.trades for bar in item[1]))),
            _read_gaps(layout, report),
            _count_quarantine(layout, session),
        )

    @property
    def without_trades(self) -> list[str]:
        """Tickers without any trade."""
        traded = {name for name, bars in self.bars.items() if bars} | set(self.report.per_ticker)
        return [name for name in self.report.tickers if name not in traded]

    @property
    def seconds(self) -> float:
        """The duration of the session so far."""
        return (self.end - self.begin).total_seconds()


def length_of_bars(seconds: float) -> int:
    """Return the length of a bar, in seconds, for a session of ``seconds``."""
    fitting = (length for length in LENGTHS_S if seconds / length <= MOST_BARS)
    return next(fitting, LENGTHS_S[-1])


def _end(report: SessionReport, summary: SessionSummary) -> datetime:
    if report.ended is not None:
        return report.ended
    if summary.state == "running":
        return datetime.now(UTC)
    # It crashed, and nobody has recovered it yet: the last that is known of it.
    trades = [books.last for books in report.per_ticker.values() if books.last is not None]
    gaps = [gap.end for gap in report.gaps]
    status = report.started + timedelta(seconds=max(1.0, summary.seconds))
    return max([status, *trades, *gaps])


def _read_bars(
    layout: Layout, session: str, ticker: str, every_s: int, begin: datetime, end: datetime
) -> list[ReportBar]:
    columns = ("open", "high", "low", "close", "volume", "trade_count")
    return [
        ReportBar(int(row["start"].timestamp()), *(row[name] for name in columns))
        for row in read_session_bars(layout, session, ticker, every_s, begin, end).to_pylist()
    ]


def _read_gaps(layout: Layout, report: SessionReport) -> list[GapStretch]:
    """Read the gaps from the coverage, or from the report until the coverage is written."""
    table = read_gaps(session=report.session, data_dir=layout.root)
    if len(table):
        return [
            GapStretch(start, end, reason, frozenset(tickers))
            for (_, start, end, reason), tickers in sorted(join_midnight_gaps(table).items())
        ]
    # The report counts the tickers of a gap, but does not name them.
    count, some = len(report.tickers), frozenset[str]()
    return [
        GapStretch(gap.start, gap.end, gap.reason, None if gap.tickers >= count else some)
        for gap in report.gaps
    ]


def _count_quarantine(layout: Layout, session: str) -> dict[str, int]:
    reasons: Counter[str] = Counter()
    for path in sorted(layout.root.glob(f"quarantine/{session}-*.jsonl*")):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:  # sealed just now
            text = path.with_suffix("").read_text(encoding="utf-8", errors="replace")
        # The last line of an open file may be incomplete.
        lines = text[: text.rfind("\n") + 1].splitlines()
        reasons.update(row.reason for row in parse_quarantine(lines))
    return dict(reasons.most_common())
