"""The standard streams of a process: they may be closed, without a reader, or not read.

None of this may end a capture, hold it up or change its exit status. ``protect`` replaces
``sys.stdout`` and ``sys.stderr``; ``never_wait`` has a thread of its own write for them.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import io
import logging
import os
import select
import stat
import sys
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any, TextIO

from stocktrace.text import count_of

log = logging.getLogger(__name__)

# More than this is not kept for a terminal that does not read: log lines are then dropped.
MAX_WAITING_BYTES = 65_536
# The end of the process waits this long for a terminal that takes nothing at all.
STALLED_S = 2.0
# A write is no longer than this, so that a slow reader can be told from one that does not read.
_PIECE = 4096

_NO_READER = (errno.EPIPE, errno.ECONNRESET)
_NO_TERMINAL = (errno.EIO, errno.ENXIO)


class ProtectedStream(io.FileIO):
    """Standard output or error; what nobody can read any more is dropped."""

    def __init__(self, number: int, *, is_error: bool) -> None:
        super().__init__(number, "wb", closefd=False)
        self._is_device = stat.S_ISCHR(os.fstat(number).st_mode)
        # A failure of standard error cannot be reported anywhere.
        self._is_error = is_error
        self._outbox: OutputQueue | None = None
        #: Whether the reader is gone.
        self.gone = False

    def write(self, data: Any, /) -> int:
        """Write all of ``data``, or drop it; never fails because nobody reads."""
        view = memoryview(data).cast("B")
        if self._outbox is not None:
            self._outbox.put(bytes(view))
        else:
            self.pass_on(view)
        return len(view)

    def pass_on(self, data: memoryview) -> None:
        """Write ``data`` on the calling thread, which waits for the reader."""
        try:
            while data and not self.gone:
                # A terminal that another program made non-blocking takes nothing for a while.
                written = super().write(data[:_PIECE])
                if written is None:
                    select.select([], [self], [])
                else:
                    data = data[written:]
        except OSError as error:
            self.gone = True  # what is buffered must not fail once more when the process ends
            if not self._nobody_reads(error):
                raise

    def _nobody_reads(self, error: OSError) -> bool:
        if self._is_error or self._outbox is not None:
            return True
        return error.errno in _NO_READER or (self._is_device and error.errno in _NO_TERMINAL)

    def never_wait(self) -> None:
        """From now on nobody who writes waits for the reader."""
        # A file always takes what is written, and the reader of another program's output waits
        # for all of it: standard output is only printed to when the capture has ended.
        if self._outbox is None and (self._is_error or self._is_device):
            self._outbox = OutputQueue(self, MAX_WAITING_BYTES if self._is_error else None)

    @property
    def is_behind(self) -> bool:
        """Whether the reader has not taken everything yet."""
        return self._outbox is not None and self._outbox.is_behind

    def finish(self) -> None:
        """Wait for a reader who reads; drop the rest if nobody does."""
        if self._outbox is not None:
            self.gone = not self._outbox.emptied(STALLED_S) or self.gone
            self._outbox = None


class OutputQueue:
    """What waits for the reader of a stream; ``most`` bytes, unless it is ``None``."""

    def __init__(self, stream: ProtectedStream, most: int | None) -> None:
        self._stream, self._most = stream, most
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        # A daemon: the process does not wait for it when a terminal takes nothing.
        threading.Thread(target=self._run, name="stocktrace-output", daemon=True).start()

    @property
    def is_behind(self) -> bool:
        """Whether something waits."""
        return self._size > 0

    def put(self, data: bytes) -> None:
        """Keep ``data`` for the reader, or count it as dropped; never waits."""
        with self._changed:
            if self._most is not None and self._size and self._size + len(data) > self._most:
                self._dropped += data.count(b"\n")
                return
            self._waiting.append(data)
            self._size += len(data)
            self._changed.notify_all()

    def emptied(self, within: float) -> bool:
        """Wait until the reader has everything; ``False`` if it took nothing for ``within`` s."""
        with self._changed:
            while left := self._size:
                if not self._changed.wait_for(lambda: self._size != left, within):
                    return False
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                data = self._waiting.popleft()
            for start in range(0, len(data), _PIECE):
                piece = data[start : start + _PIECE]
                self._stream.pass_on(memoryview(piece))
                with self._changed:
                    self._size -= len(piece)
                    self._changed.notify_all()
            if self._dropped and not self._size:
                count, self._dropped = self._dropped, 0
                lines = count_of(count, "line")
                log.warning("%s of output were dropped: nobody read standard error", lines)


def protect_streams() -> None:
    """Open what is closed, and have no reader fail this process; call it before all else.

    What is opened next would get the number of a closed stream: a log line would then be written
    to a tape.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            os.set_inheritable(number, True)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    # Whoever has put another object in their place wants to have what is written.
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(1, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(2, sys.stderr)


def _text(number: int, before: TextIO | None) -> TextIO:
    if before is not None:
        before.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(ProtectedStream(number, is_error=number == 2)),
        encoding="utf-8" if before is None else before.encoding,
        errors="backslashreplace" if before is None else before.errors,
        newline="\n",
        line_buffering=before is None or bool(before.line_buffering),
        write_through=getattr(before, "write_through", False),
    )


def write_in_background() -> None:
    """From now on a reader that does not read holds up nobody; for what must keep the time."""
    for text, stream in _ours():
        # A summary that cannot be spelled must not fail, either.
        text.reconfigure(errors="backslashreplace")
        stream.never_wait()
    atexit.unregister(_finish)
    atexit.register(_finish)


def _finish() -> None:
    # Ctrl-C ends the waiting for a terminal, too.
    with contextlib.suppress(KeyboardInterrupt):
        for text, stream in _ours():
            text.flush()
            stream.finish()


def _ours() -> Iterator[tuple[io.TextIOWrapper, ProtectedStream]]:
    for text in (sys.stdout, sys.stderr):
        stream = stream_of(text)
        if stream is not None and isinstance(text, io.TextIOWrapper):
            yield text, stream


def stream_of(text: TextIO) -> ProtectedStream | None:
    """The stream below ``text``, if it is one of ours."""
    raw = getattr(getattr(text, "buffer", None), "raw", None)
    return raw if isinstance(raw, ProtectedStream) else None
