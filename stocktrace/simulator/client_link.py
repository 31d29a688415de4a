"""One client's connection, as the event loop sees it: what it is sent, and how it breaks.

Frames are written through the library's protocol object, many with one write, because one
``send`` per frame would limit a replay at full speed. ``drain`` keeps the flow control.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from stocktrace.simulator.faults import STATE_FAULTS, Fault, FaultPlan
from stocktrace.simulator.frames import (
    FaultTransforms,
    FramePiece,
    filter_piece,
    malformed_frames,
)
from stocktrace.simulator.protocol import Subscriptions
from stocktrace.simulator.tls import HALF_RECORD, tcp_below

# A writer waits above this many unsent bytes: enough to keep a fast reader busy.
_WRITE_LIMIT = 1 << 18
# The header of a text frame of 100 bytes (RFC 6455, 5.2) and the only 10 that arrive.
_HALF_FRAME = b"\x81\x64" + b'{"data":[{'
_NO_CLOSE_CODE = frozenset({1005, 1006, 1015})  # RFC 6455, 7.4.1: never sent
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s
# How often a link checks that TLS has given everything to TCP, in seconds.
_FLUSH_INTERVAL_S = 0.01
_log = logging.getLogger("stocktrace.simulator")


@dataclass(slots=True, eq=False)
class SimulatedConnection:
    """The record of one connection: the truth that a test compares with.

    The simulator's thread writes it, any thread may read it. ``sent_frames`` counts all frames,
    ``sent_trades`` the trades in them; ``frames`` are the frames themselves if they are kept.
    ``subscriptions`` are the symbols in the order in which they were requested. ``open`` is true
    until the connection ends.
    """

    number: int
    sent_frames: int = 0
    sent_trades: int = 0
    frames: list[bytes] = field(default_factory=list)
    subscriptions: tuple[str, ...] = ()
    open: bool = True


class ClientLink:
    """A client's connection. It is ``silent`` once nothing more can be sent on it."""

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
        self._totals = totals
        self._peer = peer
        self._faults = faults
        self._keep = keep
        self._loop = asyncio.get_running_loop()
        self._transforms = FaultTransforms(subscriptions, self._loop.time)
        self._record_bytes: int | None = None  # 0: one frame; None: as TLS cuts them
        self._after_trades: list[Fault] = []  # faults that wait for a number of trades
        self._timers: list[asyncio.TimerHandle] = []
        self._closing: asyncio.Task[None] | None = None
        self._silenced = asyncio.Event()
        self._actions: dict[str, Callable[[Fault], None]] = {
            "drop": lambda _: self.drop(),
            "reset": lambda _: self.reset(),
            "close": lambda fault: self.close(fault.code),
            "close-notify": lambda _: self._close_tls(),
            "stall": lambda _: self.stall(),
            "half-frame": lambda _: self._send_half_frame(),
            "half-record": lambda _: self._send_half_record(),
            "inject": lambda fault: self.send([fault.frame]),
            "malformed": lambda _: self._send_malformed(),
            **dict.fromkeys(STATE_FAULTS, self._begin_state),
            "records": self._begin_records,
        }

    @property
    def silent(self) -> bool:
        """True if it ended, stalls, or is about to be closed."""
        return self._silenced.is_set() or self._peer.protocol.state is not State.OPEN

    @property
    def listening(self) -> bool:
        """True if it has subscriptions and is not silent."""
        return bool(self.subscriptions.symbols) and not self.silent

    def plan_fault(self, fault: Fault) -> None:
        """Let ``fault`` strike when its time comes, which may be now."""
        if fault.after_seconds:
            timer = self._loop.call_later(fault.after_seconds, self._strike, fault)
            self._timers.append(timer)
        elif fault.after_trades <= self.record.sent_trades:
            self._strike(fault)
        else:
            self._after_trades.append(fault)

    def _strike(self, fault: Fault) -> None:
        if not self.silent and self._faults.take(fault):
            _log.info("connection %d: %s", self.record.number, fault.kind)
            self._actions[fault.kind](fault)

    def _strike_after_trades(self) -> None:
        sent = self.record.sent_trades
        due = [fault for fault in self._after_trades if fault.after_trades <= sent]
        self._after_trades = [fault for fault in self._after_trades if fault not in due]
        for fault in due:
            self._strike(fault)

    def deliver(self, pieces: Sequence[FramePiece]) -> int:
        """Send what the client subscribed to.

        Returns how many of ``pieces`` were handled: all, unless the connection ended before.
        """
        frames, trades = list[bytes](), 0
        copies = self.subscriptions.copies()
        for handled, piece in enumerate(pieces, 1):
            parts = [part for symbols in copies if (part := filter_piece(piece, symbols))]
            for part in parts:
                for result in self._transforms(part) if self._transforms else (part,):
                    frames.append(result.frame)
                    trades += result.trades
            sent = self.record.sent_trades + trades
            if any(fault.after_trades <= sent for fault in self._after_trades):
                self.send(frames, trades)
                frames, trades = [], 0
                self._strike_after_trades()
                if self.silent:
                    return handled
        self.send(frames, trades)
        return len(pieces)

    def send(self, frames: Sequence[bytes], trades: int = 0, *, binary: bool = False) -> None:
        """Send text frames, or binary ones, unchanged, in one write."""
        if self.silent or not frames:
            return
        # Count before sending: whatever a client has seen is already counted.
        for record in (self.record, self._totals):
            record.sent_frames += len(frames)
            record.sent_trades += trades
        if self._keep:
            self.record.frames.extend(frames)
        protocol = self._peer.protocol
        for frame in frames:
            protocol.send_binary(frame) if binary else protocol.send_text(frame)
        for piece in self._cut_records(protocol.data_to_send()):
            self._peer.transport.write(piece)

    def _cut_records(self, frames: list[bytes]) -> Iterable[bytes]:
        """Join ``frames`` for one write, or cut them into what shall be a TLS record each."""
        if size := self._record_bytes:
            data = b"".join(frames)
            return (data[at : at + size] for at in range(0, len(data), size))
        return [b"".join(frames)] if size is None else frames

    async def drain(self) -> None:
        """Wait until the client has read enough for more to be sent, or the link is silent."""
        if not self.silent and self._peer.transport.get_write_buffer_size() >= _WRITE_LIMIT:
            await wait_first(self._peer.drain(), self._silenced.wait())

    def _begin_state(self, fault: Fault) -> None:
        end = self._transforms.begin(fault)
        if fault.duration:
            self._timers.append(self._loop.call_later(fault.duration, end))

    def _begin_records(self, fault: Fault) -> None:
        self._record_bytes = fault.size

        def end() -> None:
            self._record_bytes = None

        if fault.duration:
            self._timers.append(self._loop.call_later(fault.duration, end))

    def _send_malformed(self) -> None:
        self.send(malformed_frames())
        self.send([b"\x00\x01"], binary=True)

    def drop(self) -> None:
        """End TCP without a close frame (nor TLS's close_notify), after everything sent."""
        self._silenced.set()
        self._when_flushed(tcp_below(self._peer.transport).close)

    def _when_flushed(self, action: Callable[[], None]) -> None:
        """Do ``action`` as soon as TLS, if there is any, has given everything sent to TCP."""
        transport = self._peer.transport
        if tcp_below(transport) is not transport and transport.get_write_buffer_size():
            timer = self._loop.call_later(_FLUSH_INTERVAL_S, self._when_flushed, action)
            self._timers.append(timer)
        else:
            action()

    def _close_tls(self) -> None:
        """End TLS by its close_notify, without a close frame; the client ends TCP."""
        self._silenced.set()
        self._peer.transport.close()

    def reset(self) -> None:
        """Reset TCP."""
        self._silenced.set()
        transport = self._peer.transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()

    def close(self, code: int) -> None:
        """Close with ``code``; the codes that mean "no close frame" are a drop."""
        if code in _NO_CLOSE_CODE:
            self.drop()
            return
        self._silenced.set()
        self._closing = asyncio.create_task(self._close(code))

    async def _close(self, code: int) -> None:
        with contextlib.suppress(ConnectionClosed):
            await self._peer.close(code)

    def stall(self) -> None:
        """Stop reading and writing."""
        self._silenced.set()
        self._peer.transport.pause_reading()

    def _send_half_frame(self) -> None:
        self._peer.transport.write(_HALF_FRAME)
        self.stall()

    def _send_half_record(self) -> None:
        transport = self._peer.transport
        self.stall()
        self._when_flushed(lambda: tcp_below(transport).write(HALF_RECORD))

    def mark_closed(self) -> None:
        """Record the end and cancel all timers."""
        self._silenced.set()
        self.record.open = False
        for timer in self._timers:
            timer.cancel()

    def abort(self) -> None:
        """Abort TCP if an orderly close is not possible."""
        if self._silenced.is_set():
            self._peer.transport.abort()


async def wait_first(*coroutines: Coroutine[Any, Any, object], within: float | None = None) -> None:
    """Wait until one of them is done or ``within`` seconds passed, then cancel the others.

    What they raise is dropped: here it can only be that the client left, and that is noticed where
    its messages are read.
    """
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, timeout=within, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
