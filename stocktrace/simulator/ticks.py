"""Ticks as Finnhub's REST has them: what was played, by ticker and New York date.

They are those of the WebSocket, whoever listened; ``RestSettings`` says in what they differ.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Any

import msgspec

from stocktrace.calendar import NEW_YORK
from stocktrace.simulator.settings import RestSettings


class _TickRow(msgspec.Struct, gc=False):
    s: str
    p: float
    t: int
    v: float
    c: tuple[str, ...] | None = None


class _TradeFrame(msgspec.Struct):
    type: str
    data: tuple[_TickRow, ...] = ()


_decode = msgspec.json.Decoder(_TradeFrame).decode
_ODD = (msgspec.DecodeError, UnicodeError, RecursionError)
# A tick that the live feed never sent: another venue's, a cent away.
_EXTRA = 0.01
_NOWHERE = _TickRow("", 0.0, 0, 0.0, ())


class TickHistory:
    """The ledger; frames are read when somebody asks, for most of them nobody does."""

    def __init__(self, settings: RestSettings, history: Iterable[bytes] = ()) -> None:
        self._settings = settings
        self._unread = list(history)
        self._days: dict[tuple[str, date], list[_TickRow]] = defaultdict(list)

    def add(self, frames: Iterable[bytes]) -> None:
        """What is played now."""
        self._unread += frames

    def page(self, symbol: str, day: date, limit: int, skip: int) -> dict[str, Any] | None:
        """The answer of ``/stock/tick``; ``None`` if there is no such day."""
        settings = self._settings
        rows = self._day(symbol, day)
        if rows is None:
            return None
        limit = min(limit, settings.page_limit)
        some = rows[skip : skip + limit]
        if not some and settings.endless:
            some = rows[-limit:]
        if settings.padding:
            some = [*some, *[_NOWHERE] * (limit - len(some))]
        return {
            "s": symbol,
            "skip": skip,
            "count": len(some),
            "total": len(rows),
            "p": [row.p for row in some],
            "v": [row.v for row in some],
            "t": [row.t for row in some],
            "x": ["D"] * len(some),
            "c": [list(row.c or ()) for row in some],
        }

    def _day(self, symbol: str, day: date) -> Sequence[_TickRow] | None:
        self._read()
        rows = self._days.get((symbol, day))
        if rows is None or day.isoformat() in self._settings.not_loaded:
            return None
        found = sorted(rows, key=lambda row: row.t)
        if every := self._settings.missing:
            found = [row for number, row in enumerate(found, 1) if number % every]
        if every := self._settings.extra:
            extra = [
                msgspec.structs.replace(row, p=round(row.p + _EXTRA, 4)) for row in found[::every]
            ]
            found = sorted(found + extra, key=lambda row: row.t)
        return found

    def _read(self) -> None:
        unread, self._unread = self._unread, []
        for frame in unread:
            try:
                rows = _decode(frame).data
            except _ODD:
                continue  # whatever it is, it is no trade
            for row in rows:
                when = datetime.fromtimestamp(row.t / 1000, NEW_YORK)
                self._days[row.s, when.date()].append(row)
