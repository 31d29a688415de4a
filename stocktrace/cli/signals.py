"""Signals that end a command early: Ctrl-C, once and twice, SIGTERM, a hang-up.

This module imports little: until ``interrupting_imports`` is entered, Ctrl-C prints a traceback.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType


class CaughtSignal:
    """The exit status for a caught signal: 128 + its number, as in shells; 0 without one."""

    def __init__(self) -> None:
        self.status = 0


@contextlib.contextmanager
def handle_signals(stop: Callable[[], None]) -> Iterator[CaughtSignal]:
    """Let SIGINT, SIGTERM and SIGHUP call ``stop``; a second SIGINT or SIGTERM ends the process.

    The terminal and the shell both send a hang-up, so a second one means nothing new. If it was
    ignored before, as under ``nohup``, it is still ignored.

    ``stop`` runs in another thread: the main thread may hold a lock that ``stop`` needs when a
    signal interrupts it, and ``threading.Event`` has such a lock.
    """
    import queue
    import threading

    caught = CaughtSignal()
    signals: queue.SimpleQueue[bool] = queue.SimpleQueue()  # its ``put`` is reentrant

    def call_stop() -> None:
        while signals.get():
            stop()

    caller = threading.Thread(target=call_stop, name="stocktrace-signals", daemon=True)
    caller.start()
    asked_before = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal asked_before
        del frame
        if number != signal.SIGHUP:
            if asked_before:
                os._exit(128 + number)
            asked_before = True
        caught.status = caught.status or 128 + number
        signals.put(True)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = [signal.signal(number, on_signal) for number in numbers]
    try:
        yield caught
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        signals.put(False)
        caller.join()


@contextlib.contextmanager
def interrupting_imports() -> Iterator[None]:
    """Let Ctrl-C end the process at once, with one sentence, while modules are imported.

    A ``KeyboardInterrupt`` that is raised there may be ignored, or printed with a traceback.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # ignored, or handled by somebody else
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def ignore_interrupts() -> None:
    """Ignore Ctrl-C at the end of the process: it would only print a traceback of Python's exit."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupt(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            with contextlib.suppress(OSError):
                os.write(2, b"stocktrace: interrupted\n")
            os._exit(128 + number)
        frame = frame.f_back
    raise KeyboardInterrupt
