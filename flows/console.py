"""The console of a process that runs a capture: nobody need read it, and it may hang up."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

from stocktrace.cli import streams

_hang_ups: list[int] = []


def outlast() -> None:
    """Let a capture go on when nobody reads its output any more, as when its worker was killed.

    Prefect's handler prints with rich, which ends the process when a pipe has no reader.
    """
    streams.protect_streams()
    streams.write_in_background()
    for before, now in ((sys.__stdout__, sys.stdout), (sys.__stderr__, sys.stderr)):
        if streams.stream_of(now) is None:
            continue
        for name in (None, *logging.root.manager.loggerDict):
            for handler in logging.getLogger(name).handlers:
                if isinstance(handler, logging.StreamHandler) and handler.stream is before:
                    handler.setStream(now)
                    if hasattr(handler, "console"):
                        handler.console.file = now


def heed_hang_up() -> None:
    """A terminal that hangs up ends the process as SIGTERM does, unless that is ignored.

    The terminal and the shell both send the signal: the second one asks for nothing new.
    """
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    ):
        signal.signal(signal.SIGHUP, _hung_up)


def _hung_up(number: int, frame: FrameType | None) -> None:
    del frame
    _hang_ups.append(number)
    if len(_hang_ups) == 1:
        signal.raise_signal(signal.SIGTERM)


def leave(number: int, frame: FrameType | None) -> NoReturn:
    """End as after Ctrl-C, and a server of one's own with it; a running flow does so itself."""
    del frame
    sys.exit(128 + (_hang_ups[0] if _hang_ups else number))
