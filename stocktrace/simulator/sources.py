"""Sources of frames, with the times at which they are due: scripts and tapes. And their player.

``SyntheticMarket`` is another source, see ``stocktrace.simulator.market``.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from stocktrace.errors import SettingsError, TapeError
from stocktrace.marks import DisconnectedMark, Mark
from stocktrace.simulator.frames import FramePiece, shift_times, split_frames
from stocktrace.simulator.gateway import Gateway
from stocktrace.simulator.protocol import is_error
from stocktrace.store.tape import TapeFrames, TapeReader
from stocktrace.units import NS_PER_MS, NS_PER_SECOND

_SUFFIXES = (".tape", ".tape.gz", ".tape.zst")
# Frames that are filtered and written in one turn of the event loop: some tens of kilobytes, a
# millisecond or two.
_BATCH = 256
# The loop's timer is not finer, in seconds.
_TICK = 0.001
_log = logging.getLogger("stocktrace.simulator")


class FrameSource(Protocol):
    """Something to play.

    ``speed`` 1: at the pace of the stamps; N: N times as fast; 0: as fast as clients read.
    ``loop``: start again at the end.
    """

    @property
    def speed(self) -> float:
        """The pace; 0: none."""

    @property
    def loop(self) -> bool:
        """True if the source starts again at its end."""

    def check(self) -> None:
        """Raise an error for the user if the source cannot be played."""

    def entries(
        self, start: int, tickers: Callable[[], Sequence[str]]
    ) -> Iterator[TapeFrames | Mark]:
        """Yield the frames in their order, stamped in UTC epoch ns; the first is due at once.

        ``start`` is the wall clock when play begins (UTC epoch ns). ``tickers`` returns what
        clients are subscribed to at that moment, in the order of subscription.
        """


@dataclass(frozen=True, slots=True)
class ScriptedSource:
    """Frames from memory: ``(stamp, frame)`` with stamps in UTC epoch ns, and marks of a tape."""

    steps: Sequence[tuple[int, bytes] | Mark]
    speed: float = 0.0  # a script is for tests and needs no pace by default
    loop: bool = False

    def check(self) -> None:
        """Accept: a script can always be played."""

    def entries(
        self,
        start: int,  # noqa: ARG002 - the stamps of a script are not moved
        tickers: Callable[[], Sequence[str]],  # noqa: ARG002
    ) -> Iterator[TapeFrames | Mark]:
        """Yield the steps."""
        for step in self.steps:
            yield step if isinstance(step, Mark) else TapeFrames(step[0], (step[1],))


@dataclass(frozen=True, slots=True)
class TapeSource:
    """A tape (``.tape``, ``.tape.gz``, ``.tape.zst``), several, or a folder in order of name.

    ``speed`` 1 is the recorded pace by receive times, N is N times as fast, 0 as fast as clients
    read. ``times`` "recorded" keeps each trade's ``t``; "now" moves them so that the recording
    seems to begin when play does, and runs with ``speed``. ``replay_disconnects`` drops all
    connections where the recording lost its own. Control and malformed frames are played, too.
    Error frames are not if ``errors`` is false: they answer what another client requested.
    """

    path: Path | str | Sequence[Path]
    speed: float = 1.0
    times: Literal["recorded", "now"] = "recorded"
    loop: bool = False
    replay_disconnects: bool = False
    errors: bool = True

    def check(self) -> None:
        """Check the speed and that there is a tape.

        Raises:
            SettingsError: a speed below 0.
            TapeError: ``path`` has no tape.
        """
        if self.speed < 0:
            raise SettingsError("The speed of a tape must not be below 0.")
        if not self.paths():
            raise TapeError(
                f"No tape at {self.path}. Name a file ({', '.join(_SUFFIXES)}) or a folder of them."
            )

    def paths(self) -> list[Path]:
        """Return the tapes in the order in which they are played."""
        if not isinstance(self.path, (Path, str)):
            return list(self.path)
        path = Path(self.path)
        if path.is_dir():
            return sorted(tape for tape in path.iterdir() if tape.name.endswith(_SUFFIXES))
        return [path] if path.is_file() else []

    def entries(
        self,
        start: int,
        tickers: Callable[[], Sequence[str]],  # noqa: ARG002 - a recording does not change
    ) -> Iterator[TapeFrames | Mark]:
        """Yield the recording, with its marks only if disconnects are replayed."""
        first: int | None = None
        for entry in self._read_tapes():
            if isinstance(entry, Mark):
                if self.replay_disconnects:
                    yield entry
                continue
            first = entry.stamp if first is None else first
            frames = entry.frames
            if not self.errors:
                frames = [frame for frame in frames if not is_error(frame)]
            if self.times == "now":
                shift = self._shift_to_now(start, first, entry.stamp)
                frames = [shift_times(frame, shift) for frame in frames]
            yield TapeFrames(entry.stamp, frames)

    def _shift_to_now(self, start: int, first: int, stamp: int) -> Callable[[int], int]:
        # Without a pace the times cannot be mapped: what is played now happened now.
        origin, now = (first, start) if self.speed else (stamp, time.time_ns())
        speed = self.speed or 1.0
        return lambda t: (now + round((t * NS_PER_MS - origin) / speed)) // NS_PER_MS

    def _read_tapes(self) -> Iterator[TapeFrames | Mark]:
        for path in self.paths():
            reader = TapeReader(path)
            yield from reader
            if reader.torn_bytes or reader.invalid_lines or reader.damage:
                _log.warning(
                    "%s is damaged: %d truncated bytes and %d invalid lines were not played%s",
                    path.name,
                    reader.torn_bytes,
                    reader.invalid_lines,
                    f" ({reader.damage})" if reader.damage else "",
                )


class Player:
    """Plays a source to the connections of a gateway: one clock for all clients that listen.

    - With a pace (speed above 0) time does not wait for clients: who is disconnected misses frames.
    - Without a pace (speed 0) frames are sent as fast as clients read. Play pauses while no client
      listens, and while subscriptions are still coming.
    - Either way one slow reader slows the play for all: buffers are bounded.
    """

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
        loop, speed = asyncio.get_running_loop(), self._source.speed
        begin, first = loop.time(), None
        for entry in self._source.entries(time.time_ns(), lambda: self._gateway.tickers):
            first = entry.stamp if first is None else first
            if speed:
                due = begin + (entry.stamp - first) / NS_PER_SECOND / speed
                if due - loop.time() > _TICK:
                    await self._flush()
                    await asyncio.sleep(max(0.0, due - loop.time()))
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

    async def _flush(self) -> None:
        """Send the collected frames; without a pace, wait for a client that takes them."""
        if self._gateway.rest is not None:
            self._gateway.rest.add(self._frames)
        pieces, self._frames = split_frames(self._frames), []
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
        if self._gateway.muted:
            return len(pieces)
        handled = [link.deliver(pieces) for link in list(self._gateway.listeners())]
        return len(pieces) if self._source.speed else max(handled, default=0)
