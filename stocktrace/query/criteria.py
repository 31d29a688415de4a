"""The query behind every reader: which tickers, and which span of time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal, Self

import pyarrow as pa
import pyarrow.compute as pc

from stocktrace.errors import UsageError
from stocktrace.store.arrow_schema import TRADE_SCHEMA
from stocktrace.trade import parse_tickers

Moment = str | datetime
Day = str | date
#: The exchange's time, or that of receipt.
TimeColumn = Literal["ts_event", "ts_recv"]


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

    def days(self, dates: Iterable[str]) -> list[tuple[str, str]]:
        """Return each ticker with each of ``dates`` on which the trades can have been received."""
        # ``validation`` lets an event be a day ahead of its receipt. Late trades arrive in a day.
        slack = timedelta(days=1 if self.by == "ts_event" else 0)
        first = self.date or (self.begin and (self.begin - slack).date()) or date.min
        last = self.date or (self.end and (self.end + slack).date()) or date.max
        days = [day for day in dates if first.isoformat() <= day <= last.isoformat()]
        return [(ticker, day) for ticker in self.tickers for day in days]

    @property
    def rows(self) -> pc.Expression | None:
        """The condition on a row; ``None`` if the query is for all rows of its days."""
        time, unit = pc.field(self.by), TRADE_SCHEMA.field(self.by).type
        bounds = []
        if self.begin is not None:
            bounds.append(time >= _round_up(self.begin, unit))
        if self.end is not None:
            bounds.append(time < _round_up(self.end, unit))
        if not bounds:
            return None
        return bounds[0] if len(bounds) == 1 else bounds[0] & bounds[1]


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


def _round_up(moment: datetime, unit: pa.TimestampType) -> pa.Scalar:
    """Return the first time of ``unit`` that is not before ``moment``."""
    scalar = pa.scalar(moment, pa.timestamp("us", "UTC"))
    return pc.ceil_temporal(scalar, unit="millisecond").cast(unit) if unit.unit == "ms" else scalar
