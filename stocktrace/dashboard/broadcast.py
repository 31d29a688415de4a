"""Who looks at a session: it is read twice a second while anybody does, once for all of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import msgspec

from stocktrace.dashboard.chart import ChartPosition, TickerChart
from stocktrace.dashboard.session_state import SessionView
from stocktrace.errors import StocktraceError
from stocktrace.store.layout import Layout

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
# Between two looks while there is more to read.
_CATCH_UP_S = 0.05
# Charts nobody looks at are kept for whoever comes back; each is a few megabytes at most.
_CHARTS = 16
# How long a session that nobody looks at is kept.
_LINGER_S = 60.0
# A proxy, or a browser, takes a silent connection for a dead one.
_KEEP_ALIVE_S = 10.0


@dataclass(slots=True)
class Broadcast:
    """One session; belongs to the event loop, reading happens on a thread."""

    board: SessionView
    layout: Layout
    session: str
    viewers: int = 0
    closed: bool = False
    #: Why it cannot be read any more.
    failure: str = ""
    _charts: OrderedDict[str, TickerChart] = field(default_factory=OrderedDict)
    _watched: Counter[str] = field(default_factory=Counter)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    _asked: asyncio.Event = field(default_factory=asyncio.Event)
    _version: int = 0

    async def keep(self) -> None:
        """Look until nobody has been there for a while."""
        idle = 0.0
        while idle < _LINGER_S and not self.closed:
            idle = 0.0 if self.viewers else idle + LOOK_EVERY_S
            if self.viewers and (not self.board.final or self._is_behind()):
                await self.read()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CATCH_UP_S if self._is_behind() else LOOK_EVERY_S):
                    await self._asked.wait()
            self._asked.clear()

    async def read(self) -> None:
        """Read what is new and wake those who wait for it."""
        async with self._reading:
            try:
                await asyncio.to_thread(self._read)
            except (StocktraceError, OSError, ValueError) as error:
                log.warning("session %s cannot be read: %s", self.session, error)
                self.failure = str(error)
                self.closed = True
        await self._send()

    def _read(self) -> None:
        for chart in self._watched_charts():  # first: somebody waits for it
            chart.read(self.board.gaps)
        if not self.board.final:
            self.board.read()

    async def _send(self) -> None:
        async with self._news:
            self._version += 1
            self._news.notify_all()

    def _watched_charts(self) -> list[TickerChart]:
        return [chart for ticker, chart in self._charts.items() if self._watched[ticker]]

    def _is_behind(self) -> bool:
        charts = any(chart.is_behind for chart in self._watched_charts())
        return self.viewers > 0 and (charts or self.board.is_behind)

    async def close(self) -> None:
        """Give everybody the last word."""
        await self.read()
        self.closed = True
        self._asked.set()
        await self._send()

    async def view(self, ticker: str, every: int) -> AsyncGenerator[bytes, None]:
        """What one viewer is sent: the newest state each time it takes one."""
        self.viewers += 1
        self._watched[ticker] += 1
        chart = self._chart(ticker)
        self._asked.set()
        try:
            version, told, seen = 0, 0, ChartPosition()
            while True:
                if not await self._wait(version):
                    yield b": still here\n\n"
                    continue
                async with self._reading:  # what is being read must not be told by halves
                    version = self._version
                    bars, seen = chart.message(seen, every)
                    board, told = self.board.message(told), self.board.version
                yield _event("chart", bars) + _event("board", board)
                if self.closed:
                    if self.failure:
                        yield _event("failure", msgspec.json.encode(self.failure))
                    return
        finally:
            self.viewers -= 1
            self._watched[ticker] -= 1

    def _chart(self, ticker: str) -> TickerChart:
        if ticker not in self._charts:
            self._charts[ticker] = TickerChart(self.layout, self.session, ticker)
        self._charts.move_to_end(ticker)
        for old in list(self._charts)[:-_CHARTS]:
            if not self._watched[old]:
                del self._charts[old]
        return self._charts[ticker]

    async def _wait(self, version: int) -> bool:
        """For news after ``version``; whether they came."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_KEEP_ALIVE_S), self._news:
                await self._news.wait_for(lambda: self._version != version or self.closed)
                return True
        return False


def _event(name: str, data: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)
