"""What an exchange can play: a source gives frames with the times at which they are due."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from stocktrace.store.tape import TapeFrames, TapeMark

#: A mark of this name is played as the loss of every connection.
DISCONNECTED = "disconnected"


class FrameSource(Protocol):
    """Something to play.

    ``speed`` 1: at the pace of the stamps; N: N times as fast; 0: as fast as it is taken.
    ``loop``: begin again when it ends.
    """

    @property
    def speed(self) -> float:
        """The pace; 0 is none."""

    @property
    def loop(self) -> bool:
        """Whether the end is a new beginning."""

    def check(self) -> None:
        """Raise a sentence for the user if there is nothing to play."""

    def entries(
        self, start: int, tickers: Callable[[], Sequence[str]]
    ) -> Iterator[TapeFrames | TapeMark]:
        """The frames in their order, stamped in UTC epoch ns; the first stamp is due at once.

        ``start`` is the wall clock when play begins (UTC epoch ns); ``tickers`` tells at any time
        what clients are subscribed to, the first subscribed first.
        """


@dataclass(frozen=True, slots=True)
class ScriptedSource:
    """Frames from memory: ``(stamp, frame)`` with stamps in UTC epoch ns, and marks of a tape."""

    steps: Sequence[tuple[int, bytes] | TapeMark]
    speed: float = 0.0  # a script is for tests and needs no pace, unless asked for
    loop: bool = False

    def check(self) -> None:
        """A script can always be played."""

    def entries(
        self,
        start: int,  # noqa: ARG002 - a script stands as it is
        tickers: Callable[[], Sequence[str]],  # noqa: ARG002
    ) -> Iterator[TapeFrames | TapeMark]:
        """The script."""
        for step in self.steps:
            yield step if isinstance(step, TapeMark) else TapeFrames(step[0], (step[1],))
