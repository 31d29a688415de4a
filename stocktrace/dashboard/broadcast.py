"""Broadcasts a session to its viewers: it is read twice a second, once for all of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import msgspec

from stocktrace.dashboard.chart import ChartPosition, TickerChart
from stocktrace.dashboard.session_view import SessionView
from stocktrace.errors import StocktraceError
from stocktrace.store.layout import Layout

log = logging.getLogger(__name__)

READ_INTERVAL_S = 0.5
# The interval while there is more to read.
_CATCH_UP_S = 0.05
# Charts without a viewer are kept for one that comes back; each is a few megabytes at most.
_MAX_CHARTS = 16
# How long a session without viewers is kept.
_IDLE_S = 60.0
# A proxy, or a browser, takes a silent connection for a broken one.
_KEEP_ALIVE_S = 10.0


@dataclass(slots=True)
class Broadcast:
    """One session and its viewers. Belongs to the event loop; files are read in a thread."""

    session_view: SessionView
    layout: Layout
    session: str
    viewers: int = 0
    closed: bool = False
    #: Why the session cannot be read any more.
    failure: str = ""
    _charts: OrderedDict[str, TickerChart] = field(default_factory=OrderedDict)
    _watched: Counter[str] = field(default_factory=Counter)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    _read_now: asyncio.Event = field(default_factory=asyncio.Event)
    _version: int = 0

    async def run(self) -> None:
        """Read the session until it has had no viewer for a while."""
        idle = 0.0
        while idle < _IDLE_S and not self.closed:
            idle = 0.0 if self.viewers else idle + READ_INTERVAL_S
            if self.viewers and (not self.session_view.final or self._is_behind()):
                await self.read()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CATCH_UP_S if self._is_behind() else READ_INTERVAL_S):
                    await self._read_now.wait()
            self._read_now.clear()

    async def read(self) -> None:
        """Read what is new and notify the viewers."""
        async with self._reading:
            try:
                await asyncio.to_thread(self._read)
            except (StocktraceError, OSError, ValueError) as error:
                log.warning("session %s cannot be read: %s", self.session, error)
                self.failure = str(error)
                self.closed = True
        await self._notify()

    def _read(self) -> None:
        for chart in self._watched_charts():  # first: a viewer waits for it
            chart.read(self.session_view.gaps)
        if not self.session_view.final:
            self.session_view.read()

    async def _notify(self) -> None:
        async with self._changed:
            self._version += 1
            self._changed.notify_all()

    def _watched_charts(self) -> list[TickerChart]:
        return [chart for ticker, chart in self._charts.items() if self._watched[ticker]]

    def _is_behind(self) -> bool:
        charts = any(chart.is_behind for chart in self._watched_charts())
        return self.viewers > 0 and (charts or self.session_view.is_behind)

    async def close(self) -> None:
        """Send every viewer the final state and end the streams."""
        await self.read()
        self.closed = True
        self._read_now.set()
        await self._notify()

    async def stream(self, ticker: str, every: int) -> AsyncGenerator[bytes, None]:
        """Yield events for one viewer: the newest state each time it takes one."""
        self.viewers += 1
        self._watched[ticker] += 1
        chart = self._open_chart(ticker)
        self._read_now.set()
        try:
            version, sent, position = 0, 0, ChartPosition()
            while True:
                if not await self._wait_for_change(version):
                    yield b": keep-alive\n\n"
                    continue
                async with self._reading:  # a message must not mix two reads
                    version = self._version
                    bars, position = chart.message(position, every)
                    state, sent = self.session_view.message(sent), self.session_view.version
                yield _event("chart", bars) + _event("session", state)
                if self.closed:
                    if self.failure:
                        yield _event("failure", msgspec.json.encode(self.failure))
                    return
        finally:
            self.viewers -= 1
            self._watched[ticker] -= 1

    def _open_chart(self, ticker: str) -> TickerChart:
        if ticker not in self._charts:
            self._charts[ticker] = TickerChart(self.layout, self.session, ticker)
        self._charts.move_to_end(ticker)
        for old in list(self._charts)[:-_MAX_CHARTS]:
            if not self._watched[old]:
                del self._charts[old]
        return self._charts[ticker]

    async def _wait_for_change(self, version: int) -> bool:
        """Wait for a change after ``version``. Return False after a while without one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_KEEP_ALIVE_S), self._changed:
                await self._changed.wait_for(lambda: self._version != version or self.closed)
                return True
        return False


def _event(name: str, data: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)
