"""Ctrl-C, once and twice: what runs for a while can be stopped."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType


@dataclass(slots=True)
class Caught:
    """The exit status that a signal asks for: 128 + its number, as shells have it."""

    status: int = 0


@contextlib.contextmanager
def on_signals(stop: Callable[[], None]) -> Iterator[Caught]:
    """SIGINT and SIGTERM call ``stop`` the first time; the second time the process leaves."""
    caught = Caught()

    def on_signal(number: int, frame: FrameType | None) -> None:
        del frame
        if caught.status:
            os._exit(128 + number)
        caught.status = 128 + number
        stop()

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, on_signal) for number in numbers]
    try:
        yield caught
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
