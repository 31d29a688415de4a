"""The chart of one ticker: its bars, read by a tail of its own, and the session's gaps."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from stocktrace.clock import Deadline
from stocktrace.dashboard.bars import GrowingBars
from stocktrace.dashboard.events import GapSpan
from stocktrace.dashboard.tail import SessionTail
from stocktrace.store.layout import Layout

#: Lengths of a bar (s) that a viewer may ask for.
LENGTHS_S = (1, 5, 15, 60)
_LOOK_S = 0.25


class ChartPosition(NamedTuple):
    """What a viewer has of a chart: of which making, until which bar (epoch s), how many gaps."""

    generation: int = -1
    until: int = 0
    gaps: int = 0
    lasting: bool = False


class TickerChart:
    """Bars of one ticker of a session; whoever opens it reads it first, before all else."""

    def __init__(self, layout: Layout, session: str, ticker: str) -> None:
        self.ticker = ticker
        self._tail = SessionTail(layout, session, [ticker])
        self._bars = GrowingBars()
        self._messages: dict[tuple[ChartPosition, int], tuple[bytes, ChartPosition]] = {}
        self._outages: list[GapSpan] = []

    def read(self, outages: list[GapSpan]) -> None:
        """Read what is new.

        Raises:
            StoreError: a file is damaged.
        """
        for rows in self._tail.read(Deadline.after(_LOOK_S)):
            self._bars.add(rows)
        self._outages = outages
        self._messages.clear()

    @property
    def is_behind(self) -> bool:
        """Whether there is more to read at once."""
        return self._tail.is_behind

    @property
    def trades(self) -> int:
        """The rows that were counted."""
        return self._bars.trades

    def message(self, seen: ChartPosition, every: int) -> tuple[bytes, ChartPosition]:
        """What a viewer that has ``seen`` lacks, and what it will have then."""
        found = self._messages.get((seen, every))
        if found is None:
            found = self._messages[seen, every] = self._encoded(seen, every)
        return found

    def _encoded(self, seen: ChartPosition, every: int) -> tuple[bytes, ChartPosition]:
        whole = seen.generation != self._bars.generation
        bars = self._bars.every(every, None if whole else seen.until).rows()
        lasting = any(outage.end is None for outage in self._outages)
        will = ChartPosition(
            self._bars.generation, bars[-1][0] if bars else seen.until, len(self._outages), lasting
        )
        told: dict[str, Any] = {
            "ticker": self.ticker,
            "every": every,
            "whole": whole,
            "behind": self.is_behind,
            "bars": bars,
        }
        if whole or will[2:] != seen[2:]:
            told["gaps"] = self._outages
        return msgspec.json.encode(told), will
