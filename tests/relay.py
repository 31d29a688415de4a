"""A slow link with a deep buffer between a client and a server."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

# How often bytes are passed on.
_STEP_S = 0.02


@dataclass(slots=True)
class Relay:
    """Passes on ``rate`` bytes a second of what the server sends, and keeps the rest in memory.

    ``sever`` ends the connection of the client and loses the rest; the next ones are not slow.
    """

    server: int
    rate: int
    stopped: threading.Event = field(default_factory=threading.Event)
    severed: threading.Event = field(default_factory=threading.Event)
    #: When the connection was severed (epoch ns).
    severed_at: int = 0
    _listener: socket.socket = field(init=False)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.05)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._listener.getsockname()[1]}"

    def sever(self) -> None:
        self.severed_at = time.time_ns()
        self.severed.set()

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self.stopped.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = self._listener.accept()
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self.server))
        waiting, is_slow = bytearray(), not self.severed.is_set()
        ended = threading.Event()
        self._start(self._read, server, waiting, ended)
        self._start(self._write, client, server)
        with contextlib.suppress(OSError), client, server:
            due = 0.0
            while not self.stopped.wait(_STEP_S) and not (ended.is_set() and not waiting):
                if is_slow and self.severed.is_set():
                    break
                due = due + self.rate * _STEP_S if is_slow else len(waiting)
                part = bytes(waiting[: int(due)])
                due -= int(due)
                client.sendall(part)
                del waiting[: len(part)]
            for each in (client, server):
                each.shutdown(socket.SHUT_RDWR)

    def _read(self, server: socket.socket, waiting: bytearray, ended: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 20):
                waiting.extend(data)
        ended.set()

    def _write(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                server.sendall(data)


@contextlib.contextmanager
def relaying(server: int, rate: int) -> Iterator[Relay]:
    """A relay to a port of this machine."""
    relay = Relay(server, rate)
    relay._start(relay._accept)
    try:
        yield relay
    finally:
        relay.stopped.set()
        for thread in relay._threads:
            thread.join(10)
        relay._listener.close()
