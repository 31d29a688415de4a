"""A server on loopback that needs little CPU: it sends frames that were made before.

It is a process of its own and serves one client: handshake, greeting (each dialect has its own),
then ``--trades`` trades, as fast as the client reads or at most ``--rate`` a second in steps of a
millisecond; TCP's backpressure slows it down. Then it waits for the client to disconnect. Standard
output: one JSON line with the port, one with the result.

``--certificate FILE`` switches to TLS: a key and its certificate, PEM. ``--record BYTES`` is the
maximum size of a TLS record; 0: one frame in each. TLS itself allows 16 KiB.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import itertools
import json
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import market

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
# How long to wait for a client to connect or disconnect.
_PATIENCE_S = 60.0
_STEP_S = 0.001
# At most this much in one ``sendall``, so that pings are answered in between.
_CHUNK_BYTES = 1 << 18


class Tls:
    """TLS whose records are made first and sent together: a system call each would be too slow."""

    def __init__(self, sock: socket.socket, certificate: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._sock = sock
        self._read, self._written = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._read, self._written, server_side=True)
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(self._written.read())
                self._read.write(sock.recv(1 << 16))

    def fileno(self) -> int:
        """For ``select``."""
        return self._sock.fileno()

    @property
    def pending(self) -> bool:
        """True if more can be received without reading the socket."""
        return self._read.pending > 0

    def sendall(self, *records: bytes | memoryview) -> None:
        """Send each of these as a record."""
        for record in records:
            self._tls.write(record)
        self._sock.sendall(self._written.read())

    def recv(self, size: int) -> bytes:
        """Return the content of a record; empty at the end."""
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                data = self._sock.recv(size)
                if not data:
                    return b""
                self._read.write(data)

    def shutdown(self, how: int) -> None:
        """End TCP."""
        self._sock.shutdown(how)


@dataclass
class Client:
    """The one client. A thread reads what it sends and answers its pings."""

    sock: socket.socket | Tls
    messages: list[bytes] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)
    _received: threading.Condition = field(default_factory=threading.Condition)
    _sending: threading.Lock = field(default_factory=threading.Lock)

    def shake_hands(self) -> None:
        """Answer the upgrade."""
        request = b""
        while b"\r\n\r\n" not in request:
            chunk = self.sock.recv(4096)
            if not chunk:
                raise SystemExit("the client disconnected before its handshake")
            request += chunk
        keys = [
            line.split(b":", 1)[1].strip()
            for line in request.split(b"\r\n")
            if line.lower().startswith(b"sec-websocket-key:")
        ]
        accept = base64.b64encode(hashlib.sha1(keys[0] + _GUID, usedforsecurity=False).digest())
        self.sock.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, *parts: bytes | memoryview) -> None:
        """Send whole frames; over TLS each part is a record."""
        with self._sending:
            if isinstance(self.sock, Tls):
                self.sock.sendall(*parts)
            else:
                for part in parts:
                    self.sock.sendall(part)

    def await_messages(self, count: int) -> None:
        """Wait until the client has sent ``count`` messages."""
        with self._received:
            if not self._received.wait_for(lambda: len(self.messages) >= count, _PATIENCE_S):
                raise SystemExit(f"the client sent {len(self.messages)} of {count} messages")

    def _listen(self) -> None:
        buffer = b""
        with contextlib.suppress(OSError):
            while chunk := self._receive():
                buffer = self._parse(buffer + chunk)
        self.closed.set()

    def _receive(self) -> bytes:
        if not (isinstance(self.sock, Tls) and self.sock.pending):
            select.select([self.sock], [], [])
        with self._sending:  # two threads must not use one TLS connection at once
            return self.sock.recv(1 << 16)

    def _parse(self, buffer: bytes) -> bytes:
        while len(buffer) >= 6:
            length, begin = buffer[1] & 0x7F, 2
            if length == 126:
                length, begin = struct.unpack_from("!H", buffer, 2)[0], 4
            end = begin + 4 + length
            if len(buffer) < end:
                break
            mask, masked = buffer[begin : begin + 4], buffer[begin + 4 : end]
            text = bytes(byte ^ mask[at % 4] for at, byte in enumerate(masked))
            opcode = buffer[0] & 0x0F
            if opcode == 9:
                self.send(market.frame(text, 10))
            elif opcode == 8:
                self.send(market.frame(text, 8))
                self.sock.shutdown(socket.SHUT_RDWR)
            elif opcode != 10:
                with self._received:
                    self.messages.append(text)
                    self._received.notify()
            buffer = buffer[end:]
        return buffer


def _greet_finnhub(client: Client, tickers: int) -> None:
    client.await_messages(tickers)  # one subscription each


def _greet_massive(client: Client, tickers: int) -> None:
    del tickers
    for count, status in enumerate(("connected", "auth_success", "success")):
        client.await_messages(count)
        client.send(
            market.frame(
                json.dumps([{"ev": "status", "status": status, "message": status}]).encode()
            )
        )
    client.await_messages(2)


def _greet_alpaca(client: Client, tickers: int) -> None:
    del tickers
    for count, message in enumerate((b"connected", b"authenticated")):
        client.await_messages(count)
        # msgpack of [{"T": "success", "msg": message}]
        status = b"\xa1T\xa7success\xa3msg" + bytes([0xA0 + len(message)]) + message
        client.send(market.frame(b"\x91\x82" + status, 2))
    client.await_messages(2)


def _greet_okx(client: Client, tickers: int) -> None:
    del tickers
    client.await_messages(1)


_GREETINGS: dict[str, Callable[[Client, int], None]] = {
    "finnhub": _greet_finnhub,
    market.TAPE: _greet_finnhub,
    "massive": _greet_massive,
    "alpaca": _greet_alpaca,
    "okx": _greet_okx,
}


@dataclass
class Pace:
    """Send ``trades`` in all, at most ``rate`` a second (0: no limit)."""

    trades: int
    rate: float
    behind_s: float = 0.0
    record: int | None = None  # bytes a TLS record; 0: a frame


def _records(pool: market.Pool, at: int, stop: int, size: int | None) -> list[memoryview]:
    """Split the frames from ``at`` to ``stop`` into one part per TLS record."""
    data, ends = pool.data, pool.ends
    begin, end = ends[at], ends[stop]
    cuts = [*range(begin, end, size or end - begin), end] if size != 0 else ends[at : stop + 1]
    return [data[start:stop] for start, stop in itertools.pairwise(cuts)]


def play(client: Client, pool: market.Pool, pace: Pace) -> float:
    """Send the trades. Return the seconds it took."""
    frames = pace.trades // pool.per_frame
    per_s = pace.rate / pool.per_frame
    sent, at = 0, 0  # frames in all; frames in this pass over the pool
    began = time.monotonic()
    while sent < frames and not client.closed.is_set():
        due = frames
        if per_s:
            due = min(frames, int((time.monotonic() - began) * per_s))
            if due <= sent:
                time.sleep(_STEP_S)
                continue
            pace.behind_s = max(pace.behind_s, time.monotonic() - began - sent / per_s)
        stop = min(at + due - sent, pool.frames)
        while pool.ends[stop] - pool.ends[at] > _CHUNK_BYTES and stop - at > 1:
            stop = at + (stop - at) // 2
        client.send(*_records(pool, at, stop, pace.record))
        sent += stop - at
        at = 0 if stop == pool.frames else stop
        if per_s:
            time.sleep(_STEP_S)
    return time.monotonic() - began


def main() -> None:
    """Serve one client."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dialect", default="finnhub", choices=_GREETINGS)
    parser.add_argument("--tickers", type=int, default=50)
    parser.add_argument("--per-frame", type=int, default=5)
    parser.add_argument("--trades", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--certificate", type=Path)
    parser.add_argument("--record", type=int)
    given = parser.parse_args()
    pool = market.load(given.dialect, given.tickers, given.per_frame)
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(_PATIENCE_S)
    print(json.dumps({"port": server.getsockname()[1]}), flush=True)
    sock, _ = server.accept()
    server.close()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.settimeout(_PATIENCE_S * 10)
    client = Client(Tls(sock, given.certificate) if given.certificate else sock)
    client.shake_hands()
    _GREETINGS[given.dialect](client, given.tickers)
    trades = pool.frames if given.dialect == market.TAPE else given.trades
    pace = Pace(trades, given.rate, record=given.record)
    seconds, error = 0.0, ""
    try:
        seconds = play(client, pool, pace)
    except OSError as caught:
        error = str(caught)
    client.closed.wait(_PATIENCE_S * 2)
    report = {"seconds": seconds, "behind_s": pace.behind_s, "error": error}
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
