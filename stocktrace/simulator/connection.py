"""What was said on one connection: the truth that a test compares with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class SimulatedConnection:
    """One connection of the exchange; written by its thread, read by any.

    ``sent_frames`` counts all frames, ``sent_trades`` the trades in them; ``frames`` are the
    frames themselves if they are kept. ``subscriptions`` are the symbols in the order in which
    they were asked for; ``open`` tells whether it still lives.
    """

    number: int
    sent_frames: int = 0
    sent_trades: int = 0
    frames: list[bytes] = field(default_factory=list)
    subscriptions: tuple[str, ...] = ()
    open: bool = True

    def note(self, frames: Sequence[bytes], trades: int, *, keep: bool) -> None:
        """Count what was just sent."""
        self.sent_frames += len(frames)
        self.sent_trades += trades
        if keep:
            self.frames.extend(frames)
