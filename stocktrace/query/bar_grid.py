"""Where bars begin and end: aligned to the UTC day, or to the sessions of the US market.

Times are epoch ms. The last bar of a day or session is cut at its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from stocktrace.calendar import NEW_YORK, us_extended_session, us_regular_session
from stocktrace.errors import UsageError
from stocktrace.query.criteria import TradeQuery
from stocktrace.store.source import DataSource
from stocktrace.units import MS_PER_DAY, MS_PER_SECOND, epoch_ms, parse_duration

# Rounding error of seconds as a float.
_TOLERANCE_MS = 1e-6
#: The hours of US stocks; ``None``: the whole UTC day.
BarHours = Literal["regular", "extended"] | None
EpochMs = npt.NDArray[np.int64]

_SESSIONS = {"regular": us_regular_session, "extended": us_extended_session}


@dataclass(frozen=True, slots=True)
class BarGrid:
    """Bars of ``every_ms`` within spans (``opens`` <= t < ``closes``) that do not overlap."""

    every_ms: int
    opens: EpochMs
    closes: EpochMs

    @classmethod
    def of(cls, every_ms: int, days: Sequence[date], hours: BarHours = None) -> Self:
        """Return the grid of consecutive UTC days, or of the US sessions of New York days."""
        if not hours:
            midnights = np.array(days, "datetime64[ms]").view(np.int64)
            return cls(every_ms, midnights, midnights + MS_PER_DAY)
        if hours not in _SESSIONS:
            raise UsageError(f"Unknown session {hours!r}. Use 'regular', 'extended' or None.")
        sessions = [each for each in map(_SESSIONS[hours], days) if each is not None]
        return cls(
            every_ms,
            np.array([epoch_ms(each.opens) for each in sessions], np.int64),
            np.array([epoch_ms(each.closes) for each in sessions], np.int64),
        )

    def bounds(self, query: TradeQuery) -> tuple[datetime, datetime] | None:
        """Return where both the grid and the query begin and end; ``None`` for an empty grid."""
        if not len(self.opens):
            return None
        opens, closes = (
            datetime.fromtimestamp(int(ms) / MS_PER_SECOND, UTC)
            for ms in (self.opens[0], self.closes[-1])
        )
        return max(opens, query.begin or opens), min(closes, query.end or closes)

    def starts(self, times: EpochMs) -> tuple[EpochMs, npt.NDArray[np.bool_]]:
        """Return for each time the start of its bar, and whether it has a bar."""
        if not len(self.opens):
            return times, np.zeros(len(times), np.bool_)
        at = np.searchsorted(self.opens, times, "right") - 1
        opens = self.opens[at]
        return times - (times - opens) % self.every_ms, (at >= 0) & (times < self.closes[at])

    def ends(self, starts: EpochMs) -> EpochMs:
        """Return the ends of the bars that begin at ``starts``."""
        at = np.searchsorted(self.opens, starts, "right") - 1
        return np.minimum(starts + self.every_ms, self.closes[at])

    def between(self, begin: int, end: int) -> EpochMs:
        """Return the starts of all bars that overlap ``begin`` <= t < ``end``."""
        inside = (self.closes > begin) & (self.opens < end)
        spans = zip(self.opens[inside].tolist(), self.closes[inside].tolist(), strict=True)
        every = self.every_ms
        bars = [
            np.arange(max(o, o + (begin - o) // every * every), min(c, end), every, dtype=np.int64)
            for o, c in spans
        ]
        return np.concatenate(bars) if bars else np.empty(0, np.int64)


def make_grid(
    source: DataSource, query: TradeQuery, every: str | float | timedelta, hours: BarHours = None
) -> BarGrid:
    """Return the grid of the days or sessions that can have trades of a query.

    Raises:
        UsageError: The length of a bar is not valid, or ``hours`` is unknown.
    """
    every_ms = _bar_length(every)
    first, last = query.date, query.date
    if query.date is None:
        dates = source.dates()
        one_day = timedelta(days=1)  # a trade can happen on the day before or after its receipt
        first = date.fromisoformat(min(dates)) - one_day if dates else None
        last = date.fromisoformat(max(dates)) + one_day if dates else None
        zone = NEW_YORK if hours else UTC
        if first and query.begin:
            first = max(first, query.begin.astimezone(zone).date())
        if last and query.end:
            last = min(last, query.end.astimezone(zone).date())
    span = (last - first).days + 1 if first and last else 0
    days = [first + timedelta(days=n) for n in range(span)] if first else []
    return BarGrid.of(every_ms, days, hours)


def _bar_length(every: str | float | timedelta) -> int:
    seconds = parse_duration(every)
    milliseconds = round(seconds * MS_PER_SECOND)
    if (
        not 1 <= milliseconds <= MS_PER_DAY
        or abs(milliseconds - seconds * MS_PER_SECOND) > _TOLERANCE_MS
    ):
        raise UsageError(f"A bar must have whole milliseconds and at most a day, not {every}.")
    return milliseconds
