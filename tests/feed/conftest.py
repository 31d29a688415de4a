"""The server's end of a connection, played by the test itself, and clocks moved by hand."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import websocket

from stocktrace.clock import Clock
from stocktrace.feed.transport import Transport
from stocktrace.units import NS_PER_SECOND
from tests.tls import Authority

# Upper bound of every wait of these tests, in seconds; a wait that is met takes milliseconds.
PATIENCE = 30.0

TEXT, BINARY, CONTINUED, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


def frame(
    payload: bytes = b"",
    opcode: int = TEXT,
    *,
    fin: bool = True,
    reserved: int = 0,
    masked: bool = False,
) -> bytes:
    """A frame as a server writes it (RFC 6455, 5.2), or as it must not."""
    size, mask = len(payload), 0x80 if masked else 0
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    if size < 126:
        header = struct.pack("!BB", first, mask | size)
    elif size < 65536:
        header = struct.pack("!BBH", first, mask | 126, size)
    else:
        header = struct.pack("!BBQ", first, mask | 127, size)
    return header + (bytes(4) if masked else b"") + payload


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(struct.pack("!H", code) + reason, CLOSE)


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE)
        if sock.family == socket.AF_INET:  # what is sent is there, and does not wait for an ACK
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self._rest = b""

    def request(self) -> str:
        """What was asked for: the head of the handshake."""
        while b"\r\n\r\n" not in self._rest:
            self._rest += self._more()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        return head.decode()

    def upgrade(self, *, headers: str = "", more: bytes = b"") -> str:
        """Answer the handshake by 101; ``more`` comes in the same segment."""
        request = self.request()
        key = re.search(r"Sec-WebSocket-Key: (\S+)", request)
        assert key is not None
        digest = hashlib.sha1(f"{key[1]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
        self.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %s\r\n%s\r\n"
            % (base64.b64encode(digest), headers.encode())
            + more
        )
        return request

    def refuse(self, status: int, body: bytes = b"", headers: str = "") -> str:
        """Answer the handshake by another status, and end."""
        request = self.request()
        self.send(
            b"HTTP/1.1 %d No\r\n%sContent-Length: %d\r\n\r\n%s"
            % (status, headers.encode(), len(body), body)
        )
        self.sock.close()
        return request

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def take(self) -> tuple[int, bytes]:
        """The client's next frame: opcode and payload. A client masks (RFC 6455, 5.1)."""
        first, second = self._exactly(2)
        assert first & 0x80, "in fragments"
        assert second & 0x80, "not masked"
        size = second & 0x7F
        assert size < 126, "a client's messages are short"
        mask = self._exactly(4)
        payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(self._exactly(size)))
        return first & 0x0F, payload

    def commands(self, count: int) -> list[tuple[str, str]]:
        """The next commands, as ``(type, symbol)``; pings between them are answered."""
        found: list[tuple[str, str]] = []
        while len(found) < count:
            opcode, payload = self.take()
            if opcode == PING:
                self.send(frame(payload, PONG))
                continue
            assert opcode == TEXT
            command = json.loads(payload)
            found.append((command["type"], command["symbol"]))
        return found

    def rest(self) -> list[tuple[int, bytes]]:
        """All further frames of a client that has ended TCP, or reset it."""
        with contextlib.suppress(ConnectionResetError):
            while data := self.sock.recv(1 << 16):
                self._rest += data
        frames = []
        while self._rest:
            frames.append(self.take())
        return frames

    def end(self) -> None:
        """End TCP after what was sent, without a word; what the client sends can still be read."""
        socket.socket.shutdown(self.sock, socket.SHUT_WR)

    def ended(self) -> bool:
        """Whether the client has ended TCP, or reset it, by now or in time."""
        try:
            while self.sock.recv(1 << 16):
                pass
        except ConnectionError:
            return True
        return True

    def reset(self) -> None:
        """Reset TCP: what is under way is lost."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def _exactly(self, size: int) -> bytes:
        while len(self._rest) < size:
            self._rest += self._more()
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def _more(self) -> bytes:
        data = self.sock.recv(1 << 16)
        assert data, "the client hung up"
        return data


def paired(
    sockets: ExitStack, ours: websocket.WebSocket, authority: Authority | None = None
) -> Peer:
    """Makes ``ours`` what it is after a handshake, over TLS if there is an authority.

    Returns the server's end of it.
    """
    near, far = socket.socketpair()
    if authority is not None:
        client, server = authority.client(), authority.server()
        with ThreadPoolExecutor(1) as pool:
            accepted = pool.submit(server.wrap_socket, far, server_side=True)
            near = client.wrap_socket(near, server_hostname="127.0.0.1", suppress_ragged_eofs=False)
            far = accepted.result(PATIENCE)
    for end in (near, far):
        sockets.enter_context(end)
    ours.sock, ours.connected = near, True
    ours.settimeout(PATIENCE)
    return Peer(far)


class Listener:
    """A port that the test answers; it accepts nothing by itself."""

    def __init__(self, sockets: ExitStack, tls: ssl.SSLContext | None = None) -> None:
        self._sockets = sockets
        self._tls = tls
        self._listener = sockets.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._listener.settimeout(PATIENCE)
        scheme = "ws" if tls is None else "wss"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"

    def accept(self) -> Peer:
        sock, _ = self._listener.accept()
        if self._tls is not None:
            sock.settimeout(PATIENCE)
            sock = self._tls.wrap_socket(sock, server_side=True)
        return Peer(self._sockets.enter_context(sock))

    def upgrade(self) -> Peer:
        """The next connection, with its handshake done."""
        peer = self.accept()
        peer.upgrade()
        return peer

    def dialled(self) -> bool:
        """Whether somebody waits to be accepted now."""
        self._listener.setblocking(False)
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return False
        finally:
            self._listener.settimeout(PATIENCE)
        sock.close()
        return True


def deaf(sockets: ExitStack) -> int:
    """A port that has as many connections waiting as it takes: the system answers no other."""
    listener = sockets.enter_context(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    for _ in range(3):
        waiting = sockets.enter_context(socket.socket())
        waiting.setblocking(False)
        waiting.connect_ex(listener.getsockname())
    return int(listener.getsockname()[1])


@pytest.fixture
def listener(sockets: ExitStack) -> Listener:
    return Listener(sockets)


class Hands:
    """Both clocks, moved by hand alone; monotonic in seconds, the wall in whole seconds."""

    def __init__(self) -> None:
        self.monotonic = 1_000.0
        self.wall = 1_700_000_000

    def clock(self) -> Clock:
        return Clock(lambda: self.wall * NS_PER_SECOND, lambda: self.monotonic)


@pytest.fixture
def hands() -> Hands:
    return Hands()


Reach = Callable[..., tuple[Transport, "Future[socket.socket]"]]


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def reach(sockets: ExitStack, no_proxy: None) -> Iterator[Reach]:
    """Reaches for a server on another thread."""
    with ThreadPoolExecutor(1) as pool:

        def reach(url: str, within_s: float = PATIENCE) -> tuple[Transport, Future[socket.socket]]:
            line = Transport()
            sockets.callback(line.abort)
            return line, pool.submit(line.connect, url, within_s)

        yield reach
