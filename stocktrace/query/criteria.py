"""The query behind every reader: which tickers, and which span of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal, Self

import pyarrow as pa
import pyarrow.compute as pc

from stocktrace.errors import UsageError
from stocktrace.store.arrow_schema import TRADE_SCHEMA
from stocktrace.store.source import DataSource
from stocktrace.store.trade_file import Bounds
from stocktrace.trade import parse_tickers

Moment = str | datetime
Day = str | date
#: The exchange's time, or that of receipt.
TimeColumn = Literal["ts_event", "ts_recv"]


# So many dates are looked for by name: that is cheaper than to list all.
_FEW_DAYS = 8


@dataclass(frozen=True, slots=True)
class TradeQuery:
    """Trades of ``tickers`` with ``begin`` <= ``by`` < ``end``, or received on the UTC ``date``."""

    tickers: tuple[str, ...]
    begin: datetime | None = None
    end: datetime | None = None
    date: date | None = None
    by: TimeColumn = "ts_event"

    @classmethod
    def of(
        cls,
        tickers: str | Sequence[str],
        start: Moment | None = None,
        end: Moment | None = None,
        day: Day | None = None,
        by: TimeColumn = "ts_event",
    ) -> Self:
        """Parse the arguments of a reader; ``UsageError`` if one is wrong."""
        names = parse_tickers((tickers,) if isinstance(tickers, str) else tuple(tickers))
        if day is not None and (start is not None or end is not None):
            raise UsageError("Set date, or start and end, not both.")
        if by not in ("ts_event", "ts_recv"):
            raise UsageError(f"by must be 'ts_event' or 'ts_recv', not {by!r}.")
        return cls(names, parse_moment(start), parse_moment(end), parse_day(day), by)

    def dates(self, source: DataSource) -> list[str]:
        """Return the dates on which the trades can have been received; some may have no file."""
        if self.date is not None:
            return [self.date.isoformat()]
        # ``validation`` lets an event be a day ahead of its receipt. Late trades arrive in a day.
        slack = timedelta(days=1 if self.by == "ts_event" else 0)
        first = (self.begin and (self.begin - slack).date()) or date.min
        # The end is exclusive.
        last = (self.end and (self.end + slack - timedelta.resolution).date()) or date.max
        if self.begin and self.end and (last - first).days < _FEW_DAYS:
            return [(first + timedelta(n)).isoformat() for n in range((last - first).days + 1)]
        return [day for day in source.dates() if first.isoformat() <= day <= last.isoformat()]

    @property
    def bounds(self) -> Bounds:
        """The condition on the time of a row, in the unit of its column."""
        if self.begin is None and self.end is None:
            return {}
        begin, end = (
            None if moment is None else int(self._time(moment).value)
            for moment in (self.begin, self.end)
        )
        return {self.by: (begin, end)}

    @property
    def rows(self) -> pc.Expression:
        """The condition on a row, for other readers."""
        rows = pc.field("symbol").isin(pa.array(self.tickers, pa.string()))
        if self.begin is not None:
            rows &= pc.field(self.by) >= self._time(self.begin)
        if self.end is not None:
            rows &= pc.field(self.by) < self._time(self.end)
        return rows

    def _time(self, moment: datetime) -> pa.Scalar:
        """Return the first time of the column ``by`` that is not before ``moment``."""
        unit = TRADE_SCHEMA.field(self.by).type
        scalar = pa.scalar(moment, pa.timestamp("us", "UTC"))
        if unit.unit == "ms":
            return pc.ceil_temporal(scalar, unit="millisecond").cast(unit)
        return scalar


def parse_day(day: Day | None) -> date | None:
    """Parse a date from ISO text; ``UsageError`` if it is not one."""
    if day is None or isinstance(day, date):
        return day
    try:
        return date.fromisoformat(day)
    except ValueError:
        raise UsageError(f"{day!r} is not a valid date. Example: 2026-11-23.") from None


def parse_moment(when: Moment | None) -> datetime | None:
    """Return ISO text or a ``datetime`` (naive means UTC) in UTC; ``UsageError`` for other text."""
    if when is None:
        return None
    try:
        moment = datetime.fromisoformat(when) if isinstance(when, str) else when
    except ValueError:
        raise UsageError(f"{when!r} is not a valid time. Example: 2026-11-23T14:30Z.") from None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
