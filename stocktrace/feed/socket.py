"""websocket-client, read in large chunks: all complete frames of one read come together.

The library does handshake, sending, masking, pong, close and fragments. ``BatchSocket`` connects
through a ``Transport``, takes plain frames (final, text, unmasked) out of a buffer by itself, and
lets the library read any other frame from the same buffer. By itself, the library spends 2-3
``recv`` calls, two locks and an object per frame, 6-8 µs; this takes 0.25-0.9 µs
(docs/performance.md). UTF-8 is not checked here: invalid text makes one frame unreadable, and is
not a reason to disconnect.

``ReadPacer`` delays the reads of a busy connection, so that more trades share the cost of a read.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import socket
import ssl
import struct
from dataclasses import dataclass, field
from typing import Any

import websocket
from websocket import (
    ABNF,
    WebSocketBadStatusException,
    WebSocketConnectionClosedException,
    WebSocketException,
    WebSocketProtocolException,
    WebSocketTimeoutException,
)

from stocktrace.errors import WrongScheme
from stocktrace.feed.transport import Transport, shutdown_socket

# The most that one read takes; a burst of 2,000 trades is about a quarter of it.
READ_BYTES = 1 << 19
# Frames of 10 MB were seen (docs/faults.md, 39); a greater length is an error.
FRAME_BYTES = 1 << 26

_PLAIN = 0x81  # FIN and opcode 1 (RFC 6455, 5.2)
_EXTENDED = 126  # two bytes of length follow; eight after 127
_CONTROL_BYTES = 125  # the most in a control frame, which has no fragments (RFC 6455, 5.5)
_TOKEN = re.compile(r"(token=)[^&\s'\"]+")


_secrets: set[str] = set()


def _remove_secrets(record: logging.LogRecord) -> bool:
    text = _TOKEN.sub(r"\1***", record.getMessage())
    for secret in _secrets:
        text = text.replace(secret, "***")
    record.msg, record.args = text, ()
    return True


# The library's trace has the request, with the key in it, and the answer.
logging.getLogger("websocket").addFilter(_remove_secrets)


def hide_secret(*spellings: str) -> None:
    """Remove these texts from websocket-client's log from now on."""
    _secrets.update(filter(None, spellings))


@dataclass(slots=True)
class SocketRead:
    """The contents of one read: text or binary messages, pongs, perhaps a close (code, reason).

    ``size`` counts its bytes. ``frame_completed``: a frame of any kind was completed. ``drained``:
    not more had arrived than one read takes.
    """

    frames: list[bytes] = field(default_factory=list)
    frame_completed: bool = False
    pongs: int = 0
    closed: str | None = None
    size: int = field(default=0, compare=False)
    drained: bool = field(default=True, compare=False)


class BatchSocket(websocket.WebSocket):
    """A ``WebSocket`` whose ``recv_batch`` returns all messages that have arrived."""

    def __init__(self) -> None:
        super().__init__(enable_multithread=True, skip_utf8_validation=True)
        self._space = bytearray(READ_BYTES)
        self._view = memoryview(self._space)
        self._chunks: list[bytes] = []  # bytes that are not part of a complete frame yet
        self._size = 0
        self._need = 2  # bytes that the next frame needs
        self._buffer = b""
        self._at = 0
        self._pending_error: Exception | None = None
        #: Why nothing more can be sent. What has arrived can still be read.
        self.write_error: Exception | None = None
        #: Its ``step`` is the answer that ``connect`` waits for.
        self.transport = Transport()

    def connect(self, url: str, **options: Any) -> None:
        """Connect within ``timeout`` seconds; ``abort`` ends it at any step.

        Raises:
            WrongScheme: the server speaks TLS, and the address asks for none.
            WebSocketException: the answer does not follow RFC 6455.
            CannotConnect, TimeoutError, OSError: see ``Transport.connect``.
        """
        transport = self.transport
        sock = transport.connect(url, options["timeout"])
        try:
            # No redirects: the key is for this host only.
            super().connect(url, socket=sock, redirect_limit=0, suppress_origin=True, **options)
        except WebSocketBadStatusException as error:
            wants_tls = error.status_code == 400 and b"https" in (error.resp_body or b"").lower()
            if wants_tls and not transport.secure:
                raise WrongScheme(transport.server, "wss") from None  # it may quote the request
            raise
        except (ConnectionResetError, ssl.SSLEOFError, WebSocketConnectionClosedException) as error:
            hint = "" if transport.secure else "; if it speaks TLS, its address begins with wss://"
            raise ConnectionResetError(
                f"{transport.server} closed the connection without an answer{hint}"
            ) from error

    @property
    def in_frame(self) -> bool:
        """True if a frame has begun to arrive and is not complete."""
        return self._size > 0

    def recv_batch(self) -> SocketRead:
        """Wait for data, at most the socket's timeout; return the complete messages.

        Raises:
            TimeoutError: no data came in time.
            WebSocketConnectionClosedException: TCP ended.
            WebSocketProtocolException: the data does not follow RFC 6455.
            OSError: the connection is lost.
        """
        if self._pending_error is not None:
            raise self._pending_error
        sock = self.sock
        if sock is None:
            raise WebSocketConnectionClosedException("the socket is closed")
        count = self._receive(sock, self._view)
        drained = count < READ_BYTES
        if isinstance(sock, ssl.SSLSocket):
            count, drained = self._read_records(sock, count)
        self._chunks.append(bytes(self._view[:count]))
        self._size += count
        batch = SocketRead(size=count, drained=drained)
        if self._size >= self._need:
            try:
                self._split_frames(batch)
            except (OSError, WebSocketException) as error:
                if not batch.frames:
                    raise
                self._pending_error = error  # raised by the next read, after these messages
        return batch

    def _read_records(self, sock: ssl.SSLSocket, count: int) -> tuple[int, bool]:
        """TLS returns one record at a time: read more; return the bytes, and if it is drained."""
        timeout = sock.gettimeout()
        sock.settimeout(0)
        try:
            while count < READ_BYTES:
                count += self._receive(sock, self._view[count:])
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return count, True
        except (OSError, WebSocketException) as error:
            self._pending_error = error  # raised by the next read, after these bytes
        finally:
            sock.settimeout(timeout)
        return count, False

    def _receive(self, sock: socket.socket, space: memoryview) -> int:
        """Read once and return the number of bytes; raise the cause if the connection has ended."""
        try:
            if count := sock.recv_into(space):
                return count
            ended = "TLS" if isinstance(sock, ssl.SSLSocket) else "TCP"
        except ssl.SSLEOFError as error:
            ended = "TCP"
            # Python raises this for a reset, too. OpenSSL 3 has a reason for the end of TCP, but
            # writes an alert then, which can cause a reset. With 1.1, a socket has a peer until a
            # reset.
            if not (error.reason or _has_peer(sock)):
                code = errno.ECONNRESET
                raise ConnectionResetError(code, os.strerror(code)) from error
        if isinstance(self.write_error, ConnectionResetError):  # the system reports it once
            raise self.write_error
        raise WebSocketConnectionClosedException(f"{ended} ended without a close frame")

    def _split_frames(self, batch: SocketRead) -> None:
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        size, at = len(data), 0
        take = batch.frames.append
        is_whole = not self.cont_frame.recving_frames
        while size - at >= 2:
            length, begin = data[at + 1], at + 2
            if length >= _EXTENDED:
                masked, length = length & 0x80, length & 0x7F
                if length == _EXTENDED:
                    begin = at + 4
                    length = data[at + 2] << 8 | data[at + 3] if begin <= size else 0
                elif length > _EXTENDED:
                    begin = at + 10
                    length = struct.unpack_from("!Q", data, at + 2)[0] if begin <= size else 0
                    if length > FRAME_BYTES:
                        raise WebSocketProtocolException(f"a frame of {length} bytes")
                if masked and begin + length <= size:  # RFC 6455, 5.1
                    raise WebSocketProtocolException("a masked frame from the server")
            end = begin + length
            if end > size:
                need = end - at
                break
            if is_whole and data[at] == _PLAIN:
                take(data[begin:end])
            else:
                self._buffer, self._at = data, at
                self._read_control_frame(batch)
                is_whole = not self.cont_frame.recving_frames
                if batch.closed is not None:
                    end = size  # data after a close is ignored (RFC 6455, 1.4)
            at = end
        else:
            need = 2
        batch.frame_completed = at > 0
        self._chunks = [data[at:]] if at < size else []
        self._size = size - at
        self._need = need

    def _read_control_frame(self, batch: SocketRead) -> None:
        """Read one frame that is not plain."""
        frame = self.recv_frame()
        if frame.opcode >= ABNF.OPCODE_CLOSE and (
            not frame.fin or len(frame.data) > _CONTROL_BYTES
        ):
            raise WebSocketProtocolException("a control frame in fragments, or too long")
        if frame.opcode == ABNF.OPCODE_PING:
            self._answer(frame.data)
        elif frame.opcode == ABNF.OPCODE_PONG:
            batch.pongs += 1
        elif frame.opcode == ABNF.OPCODE_CLOSE:
            code = struct.unpack("!H", frame.data[:2])[0] if len(frame.data) >= 2 else 1005
            reason = frame.data[2:].decode(errors="replace")
            batch.closed = f"closed by the server ({code}{' ' + reason if reason else ''})"
            with contextlib.suppress(OSError, WebSocketException):  # the server may have left
                self.send_close()
        else:
            self.cont_frame.validate(frame)
            if not frame.fin:  # fragments are appended, which would copy bytes each time
                frame.data = bytearray(frame.data)
            self.cont_frame.add(frame)
            _, so_far = self.cont_frame.cont_data or (0, b"")
            if len(so_far) > FRAME_BYTES:
                raise WebSocketProtocolException("a message of too many fragments")
            if self.cont_frame.is_fire(frame):
                _, message = self.cont_frame.extract(frame)
                batch.frames.append(bytes(message.data))

    def _answer(self, ping: bytes) -> None:
        if self.write_error is not None:
            return
        try:
            self.pong(ping)
        except (TimeoutError, WebSocketTimeoutException):
            self.write_error = WebSocketConnectionClosedException("a ping could not be answered")
        except (OSError, WebSocketException) as error:
            self.write_error = error

    def _recv(self, bufsize: int) -> bytes:
        """Let ``recv_frame`` read the complete frame in the buffer."""
        piece = self._buffer[self._at : self._at + bufsize]
        if not piece:  # recv() or close(), which would loop forever
            raise WebSocketConnectionClosedException("only recv_batch can read this socket")
        self._at += len(piece)
        return piece

    def abort(self) -> None:
        """End the connection, from any thread: a waiting call raises."""
        self.transport.abort()
        if (sock := self.sock) is not None:
            shutdown_socket(sock)


def _has_peer(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


# The delay between reads of a busy connection. A read has a fixed cost of about 0.3 ms: a wake-up
# with cold caches, a write to the tape (docs/performance.md). Receive times are late by as much.
GATHER_INTERVAL_S = 0.01
# A connection is busy from 0.8 MB/s on, about 12,000 trades a second. A free key has tens.
_MEASURE_INTERVAL_S = 0.05
_BUSY_BYTES = 40_000


class ReadPacer:
    """Says how long to wait after a read, from the bytes of the last twentieth of a second."""

    def __init__(self, now: float) -> None:
        self._until = now + _MEASURE_INTERVAL_S
        self._bytes = 0
        self._busy = False

    def delay_after(self, size: int, now: float, *, drained: bool = True) -> float:
        """Return the seconds to wait after a read of ``size`` bytes at ``now`` (monotonic).

        A socket that is not ``drained`` has more data already.
        """
        if now >= self._until:
            # If a measurement lasted longer than its interval, the connection was idle.
            self._busy = self._bytes >= _BUSY_BYTES and now < self._until + _MEASURE_INTERVAL_S
            self._until, self._bytes = now + _MEASURE_INTERVAL_S, 0
        self._bytes += size
        return GATHER_INTERVAL_S if self._busy and drained else 0.0
