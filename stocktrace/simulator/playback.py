"""Tapes as a source: a recording is played again, at its pace or any other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from stocktrace.clock import NS_PER_SECOND
from stocktrace.errors import SettingsError, TapeError
from stocktrace.simulator.protocol import is_error
from stocktrace.simulator.subscription_filter import shift_times
from stocktrace.store.tape import TapeFrames, TapeMark, TapeReader

_NS_PER_MS = NS_PER_SECOND // 1000
_SUFFIXES = (".tape", ".tape.gz", ".tape.zst")
_log = logging.getLogger("stocktrace.simulator")


@dataclass(frozen=True, slots=True)
class TapeSource:
    """A tape (``.tape``, ``.tape.gz``, ``.tape.zst``), several, or a folder in order of name.

    ``speed`` 1 is the recorded pace by receive times, N is N times as fast, 0 as fast as it is
    taken. ``times`` "recorded" leaves each trade's ``t`` as it stands; "now" moves them so that
    the recording seems to begin when play does, and runs with ``speed``. ``replay_disconnects``
    drops all connections where the recording lost its own. Everything recorded is played, its
    control and odd frames too; without ``errors`` no error frames, for these answer what another
    client had asked.
    """

    path: Path | str | Sequence[Path]
    speed: float = 1.0
    times: Literal["recorded", "now"] = "recorded"
    loop: bool = False
    replay_disconnects: bool = False
    errors: bool = True

    def check(self) -> None:
        """See that there is a tape.

        Raises:
            SettingsError: a speed below 0.
            TapeError: there is no tape at ``path``.
        """
        if self.speed < 0:
            raise SettingsError("The speed of a tape must not be below 0.")
        if not self.paths():
            raise TapeError(f"There is no tape ({', '.join(_SUFFIXES)}) at {self.path}.")

    def paths(self) -> list[Path]:
        """The tapes that make up the session, in their order."""
        if not isinstance(self.path, (Path, str)):
            return list(self.path)
        path = Path(self.path)
        if path.is_dir():
            return sorted(tape for tape in path.iterdir() if tape.name.endswith(_SUFFIXES))
        return [path] if path.is_file() else []

    def entries(
        self,
        start: int,
        tickers: Callable[[], Sequence[str]],  # noqa: ARG002 - a tape holds what it holds
    ) -> Iterator[TapeFrames | TapeMark]:
        """The recording; its marks only if disconnects are to be replayed."""
        first: int | None = None
        for entry in self._recorded():
            if isinstance(entry, TapeMark):
                if self.replay_disconnects:
                    yield entry
                continue
            first = entry.stamp if first is None else first
            frames = entry.frames
            if not self.errors:
                frames = [frame for frame in frames if not is_error(frame)]
            if self.times == "now":
                move = self._move(start, first, entry.stamp)
                frames = [shift_times(frame, move) for frame in frames]
            yield TapeFrames(entry.stamp, frames)

    def _move(self, start: int, first: int, stamp: int) -> Callable[[int], int]:
        if self.speed:
            return partial(_moved, origin=first, to=start, speed=self.speed)
        # With no pace there is no mapping of times: what is played now happened now.
        return partial(_moved, origin=stamp, to=time.time_ns(), speed=1.0)

    def _recorded(self) -> Iterator[TapeFrames | TapeMark]:
        for path in self.paths():
            reader = TapeReader(path)
            yield from reader
            if reader.torn_bytes or reader.invalid_lines or reader.damage:
                _log.warning(
                    "%s is damaged: %d torn bytes and %d bad lines were not played%s",
                    path.name,
                    reader.torn_bytes,
                    reader.invalid_lines,
                    f" ({reader.damage})" if reader.damage else "",
                )


def _moved(t: int, *, origin: int, to: int, speed: float) -> int:
    return (to + round((t * _NS_PER_MS - origin) / speed)) // _NS_PER_MS
