"""A dial: TCP, TLS and handshake under one deadline; what fails is told without the key."""

from __future__ import annotations

import threading
from urllib.parse import quote, urlsplit

from websocket import (
    WebSocketBadStatusException,
    WebSocketTimeoutException,
)

from stocktrace.deadline import Clock, Deadline
from stocktrace.errors import KeyRefused
from stocktrace.feed.socket import BatchSocket, keep_secret

# How often it is looked whether the time of a handshake is up, or the feed is to stop.
_LOOK_S = 0.25


class Lost(Exception):
    """A connection ended; ``str()`` is the reason. What an observer raises is another thing."""


class Dialer:
    """Dials ``url`` with ``key``; ``stopping`` ends a dial that is under way."""

    def __init__(
        self, url: str, key: str, handshake_s: float, stopping: threading.Event, clock: Clock
    ) -> None:
        keep_secret(key, quote(key))
        self._url, self._key = url, key
        self._handshake_s = handshake_s
        self._stopping = stopping
        self._clock = clock
        #: The newest one; whoever ends the feed hangs it up.
        self.socket: BatchSocket | None = None

    def dial(self) -> BatchSocket:
        """A connection; what is raised, ``why`` explains."""
        socket = self.socket = BatchSocket()
        limit = Deadline.after(self._handshake_s, self._clock)
        done = threading.Event()
        guard = threading.Thread(
            target=self._guard, args=(socket, limit, done), name="stocktrace-dial", daemon=True
        )
        guard.start()
        try:
            socket.connect(
                f"{self._url}{'&' if urlsplit(self._url).query else '?'}token={quote(self._key)}",
                timeout=self._handshake_s,
                redirect_limit=0,  # the key is for this host only
                suppress_origin=True,
            )
        except WebSocketBadStatusException:
            raise
        except Exception as error:
            if limit.passed():
                raise TimeoutError from error
            raise
        finally:
            done.set()
            guard.join()
        return socket

    def _guard(self, socket: BatchSocket, limit: Deadline, done: threading.Event) -> None:
        """Bound a handshake as a whole; the library's time-out is one a read.

        Again and again: until TCP and TLS stand, there is nothing to hang up.
        """
        while not done.wait(min(_LOOK_S, limit.left() or _LOOK_S)):
            if limit.passed() or self._stopping.is_set():
                socket.hang_up()

    def why(self, error: Exception) -> tuple[str, bool]:
        """A dial's failure in words without the key; whether it was an HTTP 429.

        Raises:
            KeyRefused: another dial would not help.
        """
        if isinstance(error, WebSocketBadStatusException):
            status = error.status_code
            if status in (401, 403):
                # Not chained: the library's text can quote the request, and the key in it.
                raise KeyRefused(status) from None
            return f"HTTP {status} at the handshake", status == 429
        if isinstance(error, (TimeoutError, WebSocketTimeoutException)):
            return f"no answer to the handshake in {self._handshake_s:g} s", False
        return f"cannot connect: {self.told(error)}", False

    def lost(self, error: Exception) -> Lost:
        """What the socket raised, in words without the key."""
        return Lost(f"connection lost: {self.told(error)}")

    def told(self, what: object) -> str:
        """What the other side or the library says, without the key."""
        text = str(what).replace(self._key, "***").replace(quote(self._key), "***")
        return text or type(what).__name__

    def hang_up(self) -> None:
        """End the newest connection, from any thread."""
        if self.socket is not None:
            self.socket.hang_up()
