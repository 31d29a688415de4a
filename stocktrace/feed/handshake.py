"""A dial, from the name lookup to the handshake, under one deadline.

A failure is put into words without the key.
"""

from __future__ import annotations

import threading
from urllib.parse import quote, urlsplit

from websocket import (
    WebSocketBadStatusException,
    WebSocketTimeoutException,
)

from stocktrace.clock import Clock, Deadline
from stocktrace.errors import CannotConnect, KeyRefused
from stocktrace.feed.socket import BatchSocket, hide_secret

# How often it is looked whether the time of a handshake is up, or the feed is to stop.
_POLL_INTERVAL_S = 0.25


class _Connecting(threading.Thread):
    """Connects a socket. A thread of its own, because nothing can interrupt a name lookup.

    One that is hung up ends at once, or with the lookup, after which it opens no socket any more.
    """

    def __init__(self, socket: BatchSocket, url: str, key: str, within_s: float) -> None:
        super().__init__(name="stocktrace-dial", daemon=True)
        self._socket, self._within_s = socket, within_s
        self._url = f"{url}{'&' if urlsplit(url).query else '?'}token={quote(key)}"
        self.done = threading.Event()
        self.failure: Exception | None = None

    def run(self) -> None:
        """Connect."""
        try:
            self._socket.connect(
                self._url,
                timeout=self._within_s,
                redirect_limit=0,  # the key is for this host only
                suppress_origin=True,
            )
        except Exception as error:  # noqa: BLE001 - raised again by whoever waits
            self.failure = error
        finally:
            self.done.set()


class Disconnected(Exception):
    """A connection ended; ``str()`` is the reason. What an observer raises is another thing."""


class Dialer:
    """Dials ``url`` with ``key``; ``stopping`` ends a dial that is under way."""

    def __init__(
        self, url: str, key: str, handshake_s: float, stopping: threading.Event, clock: Clock
    ) -> None:
        hide_secret(key, quote(key))
        self._url, self._key = url, key
        self._handshake_s = handshake_s
        self._stopping = stopping
        self._clock = clock
        #: The newest one; whoever ends the feed hangs it up.
        self._socket = BatchSocket()

    def dial(self) -> BatchSocket:
        """A connection; what is raised, ``why`` explains."""
        socket = self._socket = BatchSocket()
        limit = Deadline.after(self._handshake_s, self._clock)
        connecting = _Connecting(socket, self._url, self._key, self._handshake_s)
        connecting.start()
        while not connecting.done.wait(_POLL_INTERVAL_S):
            if limit.passed() or self._stopping.is_set():
                socket.abort()
                if connecting.done.wait(_POLL_INTERVAL_S):
                    socket.shutdown()  # had it connected just before
                raise TimeoutError
        connecting.join()
        if connecting.failure is not None:
            raise connecting.failure
        return socket

    def describe_failure(self, error: Exception) -> tuple[str, bool]:
        """A dial's failure in words without the key; whether it was an HTTP 429.

        Raises:
            CannotConnect: another dial would end in the same way.
        """
        if isinstance(error, CannotConnect):
            raise error
        if isinstance(error, WebSocketBadStatusException):
            status = error.status_code
            if status in (401, 403):
                # Not chained: the library's text can quote the request, and the key in it.
                raise KeyRefused(status) from None
            return f"HTTP {status} at the handshake", status == 429
        if isinstance(error, (TimeoutError, WebSocketTimeoutException)):
            return f"no answer to {self._socket.step} in {self._handshake_s:g} s", False
        return f"cannot connect: {self.scrub(error)}", False

    def as_disconnect(self, error: Exception) -> Disconnected:
        """What the socket raised, in words without the key."""
        return Disconnected(f"connection lost: {self.scrub(error)}")

    def scrub(self, what: object) -> str:
        """What the other side or the library says, without the key."""
        text = str(what).replace(self._key, "***").replace(quote(self._key), "***")
        return text or type(what).__name__

    def abort(self) -> None:
        """End the newest connection, from any thread."""
        self._socket.abort()
