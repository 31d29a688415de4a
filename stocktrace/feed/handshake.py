"""One connection attempt, from the name lookup to the handshake, under one deadline.

Its error messages never contain the key.
"""

from __future__ import annotations

import threading
from urllib.parse import quote, urlsplit

from websocket import WebSocketBadStatusException, WebSocketTimeoutException

from stocktrace.clock import Clock, Deadline
from stocktrace.errors import CannotConnect, KeyRefused
from stocktrace.feed.socket import BatchSocket, hide_secret

# How often an attempt checks its deadline, and whether the feed shall stop.
_POLL_INTERVAL_S = 0.25


class ConnectionLost(Exception):
    """A connection ended; ``str()`` is the reason. The listener's exceptions are never wrapped."""


class Dialer:
    """Connects to ``url`` with ``key``; ``stopping`` ends an attempt that is under way."""

    def __init__(
        self, url: str, key: str, timeout_s: float, stopping: threading.Event, clock: Clock
    ) -> None:
        hide_secret(key, quote(key))
        self._key = key
        self._url = f"{url}{'&' if urlsplit(url).query else '?'}token={quote(key)}"
        self._timeout_s = timeout_s
        self._stopping = stopping
        self._clock = clock
        #: The newest one; ``abort`` ends it.
        self._socket = BatchSocket()

    def dial(self) -> BatchSocket:
        """Connect; ``describe_failure`` explains the exceptions."""
        socket = self._socket = BatchSocket()
        limit = Deadline.after(self._timeout_s, self._clock)
        done = threading.Event()
        failures: list[Exception] = []

        def connect() -> None:
            try:
                socket.connect(self._url, timeout=self._timeout_s)
            except Exception as error:  # noqa: BLE001 - raised below
                failures.append(error)
            finally:
                done.set()

        # Nothing can interrupt a name lookup, hence the thread. After an abort it ends at once, or
        # when the lookup returns; it then opens no socket.
        thread = threading.Thread(target=connect, name="stocktrace-dial", daemon=True)
        thread.start()
        while not done.wait(_POLL_INTERVAL_S):
            if limit.passed() or self._stopping.is_set():
                socket.abort()
                if done.wait(_POLL_INTERVAL_S):
                    socket.shutdown()  # it may have connected just before
                raise TimeoutError
        thread.join()
        if failures:
            raise failures[0]
        return socket

    @property
    def step(self) -> str:
        """The answer that the newest attempt waits for, or waited for at its end."""
        return self._socket.transport.step

    def describe_failure(self, error: Exception) -> tuple[str, bool]:
        """Return the reason, without the key, and ``True`` if it was an HTTP 429.

        Raises:
            CannotConnect: another attempt would end in the same way.
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
            return f"no answer to {self.step} in {self._timeout_s:g} s", False
        return f"cannot connect: {self.scrub(error)}", False

    def as_connection_lost(self, error: Exception) -> ConnectionLost:
        """Wrap an exception of the socket, without the key."""
        return ConnectionLost(f"connection lost: {self.scrub(error)}")

    def scrub(self, message: object) -> str:
        """Return a message of the server or the library, without the key."""
        text = str(message).replace(self._key, "***").replace(quote(self._key), "***")
        return text or type(message).__name__

    def abort(self) -> None:
        """End the newest connection; any thread may call this."""
        self._socket.abort()
