"""The standard streams of a process, which may be closed, lack a reader, or have a slow one.

None of this may end a capture, delay it or change its exit status. ``protect_streams`` replaces
``sys.stdout`` and ``sys.stderr``; after ``write_in_background``, a thread writes to each.
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

# Most log lines that are kept for a terminal that does not read; more are dropped.
MAX_WAITING_BYTES = 65_536
# At its end, the process waits this long for a terminal that reads nothing at all.
STALLED_S = 2.0
# A write is not longer than this, to distinguish a slow reader from one that does not read.
_PIECE = 4096

_NO_READER = (errno.EPIPE, errno.ECONNRESET)
_NO_TERMINAL = (errno.EIO, errno.ENXIO)


class ProtectedStream(io.FileIO):
    """Standard output or standard error. Output that nobody can read any more is dropped."""

    def __init__(self, number: int, *, is_error: bool) -> None:
        super().__init__(number, "wb", closefd=False)
        self._is_device = stat.S_ISCHR(os.fstat(number).st_mode)
        # A failure of standard error cannot be reported anywhere.
        self._is_error = is_error
        #: The reader has closed its end.
        self.gone = False
        # Output that waits for the reader, and the thread that waits with it.
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._size = self._dropped = 0
        self._in_background = False

    def write(self, data: Any, /) -> int:
        """Write all of ``data``, or drop it. A missing reader is not an error."""
        view = memoryview(data).cast("B")
        if self._in_background:
            self._keep(bytes(view))
        else:
            self._pass_on(view)
        return len(view)

    def _pass_on(self, data: memoryview) -> None:
        """Write ``data`` on the calling thread, which waits for the reader."""
        try:
            while data and not self.gone:
                # None: another program made the terminal non-blocking, and it is full.
                written = super().write(data[:_PIECE])
                if written is None:
                    select.select([], [self], [])
                else:
                    data = data[written:]
        except OSError as error:
            self.gone = True  # the rest of the buffer must not fail again when the process ends
            if not self._nobody_reads(error):
                raise

    def _nobody_reads(self, error: OSError) -> bool:
        if self._is_error or self._in_background:
            return True
        return error.errno in _NO_READER or (self._is_device and error.errno in _NO_TERMINAL)

    # --- in the background -------------------------------------------------------------------

    def write_in_background(self) -> None:
        """From now on, let a thread wait for the reader."""
        # Standard output is not a problem if it is a file, which never blocks, or a pipe, whose
        # reader waits for all of it: a capture prints there only when it has ended.
        self._in_background = self._is_error or self._is_device
        if self._in_background and self._thread is None:
            # A daemon: the process does not wait for it if a terminal reads nothing.
            self._thread = threading.Thread(target=self._run, name="stocktrace-output", daemon=True)
            self._thread.start()

    @property
    def is_behind(self) -> bool:
        """The reader has not read everything yet."""
        return self._in_background and self._size > 0

    def _keep(self, data: bytes) -> None:
        """Keep ``data`` for the reader, or count it as dropped, without waiting."""
        with self._changed:
            if self._is_error and self._size and self._size + len(data) > MAX_WAITING_BYTES:
                self._dropped += data.count(b"\n")
                return
            self._waiting.append(data)
            self._size += len(data)
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                data = self._waiting.popleft()
            for start in range(0, len(data), _PIECE):
                piece = data[start : start + _PIECE]
                self._pass_on(memoryview(piece))
                with self._changed:
                    self._size -= len(piece)
                    self._changed.notify_all()
            if self._dropped and not self._size:
                count, self._dropped = self._dropped, 0
                lines = count_of(count, "line")
                log.warning("%s of output were dropped because nobody read standard error.", lines)

    def finish(self) -> None:
        """Wait while the reader reads; drop the rest if it reads nothing for ``STALLED_S``."""
        with self._changed:
            while self._in_background and (left := self._size):
                if not self._changed.wait_for(lambda: self._size != left, STALLED_S):
                    self.gone, self._in_background = True, False
        self._in_background = False


def protect_streams() -> None:
    """Open closed streams, and make a missing reader harmless; call this first.

    Otherwise the next file to be opened, such as a tape, would get the number of a closed stream
    and receive log lines.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one
            os.set_inheritable(number, True)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    # Another object in their place was put there to receive the output.
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
    """From now on, let slow readers delay nobody; for a capture."""
    for text, stream in _ours():
        # A summary that the encoding cannot express must not fail, either.
        text.reconfigure(errors="backslashreplace")
        stream.write_in_background()
    atexit.unregister(_finish)
    atexit.register(_finish)


def _finish() -> None:
    # Ctrl-C also ends the wait for a terminal.
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
    """Return the stream below ``text`` if it is one of ours."""
    raw = getattr(getattr(text, "buffer", None), "raw", None)
    return raw if isinstance(raw, ProtectedStream) else None
