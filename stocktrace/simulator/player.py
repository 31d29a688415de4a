"""The play: one clock for the whole exchange takes a source's frames to all who listen.

- With a pace (speed above 0) time goes on whoever listens: who is away misses it.
- Without one (speed 0) play is as fast as it is taken. So it holds while nobody takes anything,
  and while subscriptions are still coming.
- Either way one slow reader holds the play for all: nothing is buffered without bound.
"""

from __future__ import annotations

import asyncio
import threading
import time

from stocktrace.clock import NS_PER_SECOND
from stocktrace.simulator.gateway import Gateway
from stocktrace.simulator.source import DISCONNECTED, FrameSource
from stocktrace.simulator.subscription_filter import FramePiece, split_frames
from stocktrace.store.tape import TapeMark

# Frames that are cut and written in one turn of the event loop: some tens of kilobytes, a
# millisecond or two.
_BATCH = 256
# What the loop's timer cannot tell from now, in seconds.
_TICK = 0.001


class Player:
    """Plays a source to the connections of a gateway."""

    def __init__(self, source: FrameSource, gateway: Gateway, finished: threading.Event) -> None:
        self._source = source
        self._gateway = gateway
        self._finished = finished
        self._frames: list[bytes] = []

    async def play(self) -> None:
        """Play to the end, and again if the source loops."""
        if self._gateway.settings.settle is not None:
            await self._gateway.wait_settled()
        await self._play_once()
        while self._source.loop:
            await self._play_once()
        self._finished.set()
        self._gateway.notify()

    async def _play_once(self) -> None:
        begin, speed = asyncio.get_running_loop().time(), self._source.speed
        first: int | None = None
        for entry in self._source.entries(time.time_ns(), lambda: self._gateway.tickers):
            first = entry.stamp if first is None else first
            if speed:
                await self._wait_until(begin + (entry.stamp - first) / NS_PER_SECOND / speed)
            if isinstance(entry, TapeMark):
                await self._flush()
                for link in list(self._gateway.links) if entry.name == DISCONNECTED else ():
                    link.drop()
                continue
            self._frames += entry.frames
            if len(self._frames) >= _BATCH:
                await self._flush()
        await self._flush()
        await asyncio.sleep(0)  # an empty source that loops must not keep the others out

    async def _wait_until(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        if due - loop.time() > _TICK:
            await self._flush()
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def _flush(self) -> None:
        """Send what was collected; without a pace, to somebody."""
        if self._gateway.ticks is not None:
            self._gateway.ticks.add(self._frames)
        rest = split_frames(self._frames) if self._frames else []
        self._frames = []
        while rest:
            if not self._source.speed:
                await self._gateway.wait_settled()
            rest = rest[self._deliver(rest) :]
            self._gateway.notify()
            for link in list(self._gateway.links):
                await link.drained()
            await asyncio.sleep(0)

    def _deliver(self, batch: list[FramePiece]) -> int:
        """How many of ``batch`` are done with."""
        done = [link.deliver(batch) for link in list(self._gateway.subscribers())]
        return len(batch) if self._source.speed else max(done, default=0)
