"""One client's connection, seen from the event loop: what it is sent, and how it breaks.

Frames go through the library's protocol object, many with one write, because a ``send`` a frame
is what limits a replay at full speed; control of the flow stays, in ``drained``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import struct
from collections.abc import Callable, Sequence

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from stocktrace.simulator.connection import SimulatedConnection
from stocktrace.simulator.fault_transforms import FaultTransforms
from stocktrace.simulator.faults import STATE_FAULTS, Fault, FaultPlan
from stocktrace.simulator.malformed_frames import malformed_frames
from stocktrace.simulator.protocol import Subscriptions
from stocktrace.simulator.subscription_filter import FramePiece, filter_piece
from stocktrace.simulator.waiting import wait_first

# A writer waits above this many unsent bytes: enough to keep a fast reader busy, and no more.
_WRITE_LIMIT = 1 << 18
# The header of a text frame of 100 bytes (RFC 6455, 5.2) and the 10 that ever arrive.
_HALF_FRAME = b"\x81\x64" + b'{"data":[{'
_NO_CLOSE_CODE = frozenset({1005, 1006, 1015})  # RFC 6455, 7.4.1: never on the wire
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s
_log = logging.getLogger("stocktrace.simulator")


class ClientLink:
    """A client's connection. ``silent`` once nothing more can be sent on it."""

    def __init__(
        self,
        peer: ServerConnection,
        record: SimulatedConnection,
        totals: SimulatedConnection,
        subscriptions: Subscriptions,
        faults: FaultPlan,
        *,
        keep: bool,
    ) -> None:
        self.record = record
        self.subscriptions = subscriptions
        self.muted = False
        self._totals = totals
        self._peer = peer
        self._faults = faults
        self._keep = keep
        self._distortion = FaultTransforms(subscriptions, asyncio.get_running_loop().time)
        self._counted: list[Fault] = []
        self._next_count = math.inf
        self._timers: list[asyncio.TimerHandle] = []
        self._closing: asyncio.Task[None] | None = None
        self._silence = asyncio.Event()
        self._acts: dict[str, Callable[[Fault], None]] = {
            "drop": lambda _: self.drop(),
            "reset": lambda _: self.reset(),
            "close": lambda fault: self.close(fault.code),
            "stall": lambda _: self.stall(),
            "half-frame": lambda _: self._half_frame(),
            "inject": lambda fault: self.send([fault.frame]),
            "odd": lambda _: self._send_malformed(),
            **dict.fromkeys(STATE_FAULTS, self._begin),
        }

    @property
    def silent(self) -> bool:
        """Whether it ended, stalls, or is about to be closed."""
        return self._silence.is_set() or self._peer.protocol.state is not State.OPEN

    @property
    def listening(self) -> bool:
        """Whether it takes what it subscribed to."""
        return bool(self.subscriptions.symbols) and not self.silent

    def set_faults(self, fault: Fault) -> None:
        """Let ``fault`` strike when its time comes, which may be now."""
        if fault.after_seconds:
            loop = asyncio.get_running_loop()
            self._timers.append(loop.call_later(fault.after_seconds, self._commit_fault, fault))
        elif fault.after_trades <= self.record.sent_trades:
            self._commit_fault(fault)
        else:
            self._counted.append(fault)
            self._next_count = min(self._next_count, fault.after_trades)

    def _commit_fault(self, fault: Fault) -> None:
        if not self.silent and self._faults.take(fault):
            _log.info("connection %d: %s", self.record.number, fault.kind)
            self._acts[fault.kind](fault)

    def _commit_counted_fault(self) -> None:
        due = [fault for fault in self._counted if fault.after_trades <= self.record.sent_trades]
        self._counted = [fault for fault in self._counted if fault not in due]
        self._next_count = min((fault.after_trades for fault in self._counted), default=math.inf)
        for fault in due:
            self._commit_fault(fault)

    def deliver(self, pieces: Sequence[FramePiece]) -> int:
        """Send what of ``pieces`` was subscribed to.

        Returns how many of them are done with: all, unless the connection ended before.
        """
        frames, trades = list[bytes](), 0
        for done, piece in enumerate(pieces, 1):
            part = None if self.muted else filter_piece(piece, self.subscriptions.symbols)
            if part is None:
                continue
            if self._distortion:
                for after in self._distortion(part):
                    frames.append(after.frame)
                    trades += after.trades
            else:
                frames.append(part.frame)
                trades += part.trades
            if self.record.sent_trades + trades >= self._next_count:
                self.send(frames, trades)
                frames, trades = [], 0
                self._commit_counted_fault()
                if self.silent:
                    return done
        self.send(frames, trades)
        return len(pieces)

    def send(self, frames: Sequence[bytes], trades: int = 0) -> None:
        """Send text frames, as they are, in one write."""
        if self.silent or not frames:
            return
        self._note(frames, trades)
        for frame in frames:
            self._peer.protocol.send_text(frame)
        self._write()

    def send_binary(self, frame: bytes) -> None:
        """Send a binary frame."""
        if not self.silent:
            self._note([frame], 0)
            self._peer.protocol.send_binary(frame)
            self._write()

    def _note(self, frames: Sequence[bytes], trades: int) -> None:
        """Count before sending: what a client has seen is counted, whoever asks."""
        self.record.note(frames, trades, keep=self._keep)
        self._totals.note(frames, trades, keep=False)

    def _write(self) -> None:
        self._peer.transport.write(b"".join(self._peer.protocol.data_to_send()))

    async def drained(self) -> None:
        """Wait until the client took enough for more to be sent, or the connection is silent."""
        if self.silent or self._peer.transport.get_write_buffer_size() < _WRITE_LIMIT:
            return
        await wait_first(self._peer.drain(), self._silence.wait())

    def _begin(self, fault: Fault) -> None:
        end = self._distortion.begin(fault)
        if fault.lasting:
            loop = asyncio.get_running_loop()
            self._timers.append(loop.call_later(fault.lasting, end))

    def _send_malformed(self) -> None:
        self.send(malformed_frames())
        self.send_binary(b"\x00\x01")

    def drop(self) -> None:
        """End TCP with no close frame, after what was sent."""
        self._silence.set()
        self._peer.transport.close()

    def reset(self) -> None:
        """Reset TCP."""
        self._silence.set()
        transport = self._peer.transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()

    def close(self, code: int) -> None:
        """Close with ``code``; the codes that say "no close frame" are a drop."""
        if code in _NO_CLOSE_CODE:
            self.drop()
            return
        self._silence.set()
        self._closing = asyncio.create_task(self._close(code))

    async def _close(self, code: int) -> None:
        with contextlib.suppress(ConnectionClosed):
            await self._peer.close(code)

    def stall(self) -> None:
        """Stop reading and writing."""
        self._silence.set()
        self._peer.transport.pause_reading()

    def _half_frame(self) -> None:
        self._peer.transport.write(_HALF_FRAME)
        self.stall()

    def end(self) -> None:
        """It is over: no timer outlives it."""
        self._silence.set()
        self.record.open = False
        for timer in self._timers:
            timer.cancel()

    def abort(self) -> None:
        """End it if an orderly close cannot."""
        if self._silence.is_set():
            self._peer.transport.abort()
