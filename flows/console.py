"""The console of a process: its arguments and exit status, a hang-up, output that nobody reads."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

import cyclopts

from stocktrace.cli import output, streams
from stocktrace.errors import StocktraceError, UsageError

_hang_ups: list[int] = []


def make_app(name: str, command: Callable[..., int | None], summary: str = "") -> cyclopts.App:
    """Return the parser of ``python -m NAME``, which raises errors."""
    return cyclopts.App(
        name=f"python -m {name}",
        help=summary or None,
        default_command=command,
        help_format="plaintext",
        version_flags=[],
        exit_on_error=False,
        print_error=False,
        result_action="return_value",
    )


def run_script(name: str, command: Callable[..., int | None]) -> NoReturn:
    """Run ``command`` as module ``name``. Errors exit with status 1, wrong usage with 2."""
    streams.protect_streams()
    try:
        sys.exit(make_app(name, command)())
    except (cyclopts.CycloptsError, StocktraceError) as error:
        output.print_error(" ".join(str(error).split()))
        sys.exit(2 if isinstance(error, (cyclopts.CycloptsError, UsageError)) else 1)


def survive_closed_output() -> None:
    """Let a capture continue when nobody reads its output any more, as after its worker's end.

    Prefect's handler prints with rich, which exits the process when a pipe has no reader.
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


def handle_hang_up() -> None:
    """Make SIGHUP end the process as SIGTERM does, unless it is ignored.

    The terminal and the shell both send it. The second signal changes nothing.
    """
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    ):
        signal.signal(signal.SIGHUP, _on_hang_up)


def _on_hang_up(number: int, frame: FrameType | None) -> None:
    del frame
    _hang_ups.append(number)
    if len(_hang_ups) == 1:
        signal.raise_signal(signal.SIGTERM)


def exit_on_signal(number: int, frame: FrameType | None) -> NoReturn:
    """Exit as after Ctrl-C, with the process's own server; a running flow does so itself."""
    del frame
    sys.exit(128 + (_hang_ups[0] if _hang_ups else number))
