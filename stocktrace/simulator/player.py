"""Plays a source: one clock sends its frames to all clients that listen.

- With a pace (speed above 0) time does not wait for clients: who is disconnected misses frames.
- Without a pace (speed 0) frames are sent as fast as clients read. Play pauses while no client
  listens, and while subscriptions are still coming.
- Either way one slow reader slows the play for all: buffers are bounded.
"""

from __future__ import annotations

import asyncio
import threading
import time

from stocktrace.marks import DisconnectedMark, Mark
from stocktrace.simulator.frames import FramePiece, split_frames
from stocktrace.simulator.gateway import Gateway
from stocktrace.simulator.sources import FrameSource
from stocktrace.units import NS_PER_SECOND

# Frames that are filtered and written in one turn of the event loop: some tens of kilobytes, a
# millisecond or two.
_BATCH = 256
# The loop's timer is not finer, in seconds.
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
            if isinstance(entry, Mark):
                await self._flush()
                if isinstance(entry, DisconnectedMark):
                    for link in list(self._gateway.links):
                        link.drop()
                continue
            self._frames += entry.frames
            if len(self._frames) >= _BATCH:
                await self._flush()
        await self._flush()
        await asyncio.sleep(0)  # an empty source that loops must not block other tasks

    async def _wait_until(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        if due - loop.time() > _TICK:
            await self._flush()
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def _flush(self) -> None:
        """Send the collected frames; without a pace, wait for a client that takes them."""
        if self._gateway.rest is not None:
            self._gateway.rest.add(self._frames)
        pieces = split_frames(self._frames) if self._frames else []
        self._frames = []
        while pieces:
            if not self._source.speed:
                await self._gateway.wait_settled()
            pieces = pieces[self._deliver(pieces) :]
            self._gateway.notify()
            for link in list(self._gateway.links):
                await link.drain()
            await asyncio.sleep(0)

    def _deliver(self, pieces: list[FramePiece]) -> int:
        """Send ``pieces`` to all clients. Return how many of them were handled."""
        handled = [link.deliver(pieces) for link in list(self._gateway.listeners())]
        return len(pieces) if self._source.speed else max(handled, default=0)
