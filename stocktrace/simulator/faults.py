"""Faults that the simulator can play: each is a line of data, so that a script can hold it.

===================  ==============================================================================
``status``           the handshake is answered by HTTP ``status`` (429, 503, 524, even 200)
``handshake-delay``  the handshake is answered after ``seconds`` (65)
``no-answer``        TCP is accepted, the handshake is never answered
-------------------  ------------------------------------------------------------------------------
``drop``             TCP ends after everything sent, without a close frame (a client sees 1006)
``reset``            TCP is reset; data in flight is lost
``close``            a close frame with ``code``
``stall``            half-open: the simulator stops reading and writing, TCP stays open
``half-frame``       the header of a frame of 100 bytes and 10 of them, then as ``stall``
``inject``           ``frame`` is sent as a text frame, whatever it holds
``malformed``        a set of frames that have crashed clients, see ``malformed_frames``
-------------------  ------------------------------------------------------------------------------
``mute``             heartbeats, but no trades
``silent``           no trades of ``symbol`` (by default of the first one subscribed to)
``duplicate``        each frame of trades is sent ``times`` (2) times (FINNHUB.md, #143)
``duplicate-rows``   each frame has its trades ``times`` times: A,B becomes A,B,A,B
``out-of-order``     the trades of a frame are in reverse order
``late``             one frame in ten is ``seconds`` (600) old
``lag``              trades become older by ``seconds`` (1) every second (FAULTS.md, 6)
``bad-row``          the price of the last trade of one frame is a text
``truncate``         each frame of trades is sent without its last 10 bytes
===================  ==============================================================================

The first group affects handshakes. The second is events on a connection. The third begins a state
of a connection, which can end again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from stocktrace.errors import SettingsError

HandshakeFault = Literal["status", "handshake-delay", "no-answer"]
ConnectionFault = Literal["drop", "reset", "close", "stall", "half-frame", "inject", "malformed"]
StateFault = Literal[
    "mute",
    "silent",
    "duplicate",
    "duplicate-rows",
    "out-of-order",
    "late",
    "lag",
    "bad-row",
    "truncate",
]
_HANDSHAKE_FAULTS = frozenset(get_args(HandshakeFault))
STATE_FAULTS = frozenset(get_args(StateFault))
FAULT_KINDS = (*get_args(HandshakeFault), *get_args(ConnectionFault), *get_args(StateFault))

# Defaults of ``seconds``: the handshake of Finnhub's #38, a late print as in polygon's #86, the
# lag of story 6.
_DEFAULT_SECONDS = {"handshake-delay": 65.0, "late": 600.0, "lag": 1.0}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault and when it strikes: once, or with ``repeat`` once on every connection.

    A handshake fault strikes the next dial, any other the next connection: at once, or
    ``after_trades`` trades were sent on it, or ``after_seconds`` after its handshake.
    ``after_connections`` spares that many dials or connections first. Trades are counted by whole
    frames. With ``duration`` (seconds, from when it first strikes) a state ends then, and any
    other fault strikes every dial or connection until then.

    Raises:
        SettingsError: the kind is unknown, or there are two times.
    """

    kind: HandshakeFault | ConnectionFault | StateFault
    after_trades: int = 0
    after_seconds: float = 0.0
    after_connections: int = 0
    repeat: bool = False
    duration: float = 0.0
    status: int = 429
    seconds: float | None = None
    code: int = 1001
    frame: bytes = b""
    times: int = 2
    symbol: str = ""

    def __post_init__(self) -> None:
        if self.kind not in FAULT_KINDS:
            raise SettingsError(
                f"Unknown fault {self.kind!r}. Use one of {', '.join(FAULT_KINDS)}."
            )
        if self.after_trades and self.after_seconds:
            raise SettingsError("A fault strikes after trades or after seconds, not after both.")

    @property
    def delay_s(self) -> float:
        """``seconds``, or the default of the kind."""
        return _DEFAULT_SECONDS.get(self.kind, 0.0) if self.seconds is None else self.seconds

    @property
    def is_handshake(self) -> bool:
        """True if it strikes a handshake, not a connection."""
        return self.kind in _HANDSHAKE_FAULTS

    @property
    def is_state(self) -> bool:
        """True if it begins a state that can end again."""
        return self.kind in STATE_FAULTS


class FaultPlan:
    """The faults that are still to come. Only the simulator's thread may use it."""

    def __init__(
        self, faults: Iterable[Fault] = (), now: Callable[[], float] = time.monotonic
    ) -> None:
        self._pending = list(faults)
        self._ends: dict[Fault, float] = {}
        self._now = now

    def add(self, fault: Fault) -> None:
        """Plan another fault."""
        self._ends.pop(fault, None)
        self._pending.append(fault)

    def clear(self) -> None:
        """Remove all faults."""
        self._pending.clear()

    def take_for_dial(self, dial: int) -> list[Fault]:
        """Take the faults that strike this dial; the first dial is 1."""
        return [fault for fault in self._due(dial) if fault.is_handshake and self.take(fault)]

    def for_connection(self, number: int) -> list[Fault]:
        """Return the faults that may strike this connection (from 1). ``take`` each in its time."""
        return [fault for fault in self._due(number) if not fault.is_handshake]

    def _due(self, number: int) -> list[Fault]:
        return [fault for fault in self._pending if number > fault.after_connections]

    def take(self, fault: Fault) -> bool:
        """Report whether ``fault`` may strike now. It is then used up, unless it continues."""
        if fault not in self._pending:
            return False
        if fault.duration and not fault.is_state:
            now = self._now()
            if now < self._ends.setdefault(fault, now + fault.duration):
                return True
            self._pending.remove(fault)
            return False
        if not fault.repeat:
            self._pending.remove(fault)
        return True


_MALFORMED = (
    b'{"type":"ping"}',
    b'{"msg":"Subscribing to too many symbols","type":"error"}',
    b'{"type":"error"}',
    b'{"type":"news","data":[{"headline":"\xe2\x82\xac 5","id":1}]}',
    b'{"type":"pr","data":[]}',
    b'{"type":"halt","data":[{"s":"AAPL"}]}',
    b'{"type":"trade"}',
    b'{"type":"trade","data":null}',
    b'{"type":"trade","data":[]}',
    b'{"type":"trade","data":[null]}',
    b'{"data":[{"c":["1"],"p":NaN,"s":"AAPL","t":1,"v":1}],"type":"trade"}',
    b'{"data":[{"c":["1"],"p":1e999,"s":"AAPL","t":1700000000000,"v":1}],"type":"trade"}',
    b'{"data":[{"c":["1"],"p":1,"s":"AAPL","t":99999999999999999999,"v":1}],"type":"trade"}',
    b'{"data":[{"c":["1"],"p":1,"t":1700000000000,"v":1}],"type":"trade"}',
    b"null",
    b"true",
    b"-1",
    b'"trade"',
    b"[]",
    b"{}",
    b"",
    b" ",
    b"\n",
    b"# 1",
    b"{",
    b'{"type":"trade","data":[{"s":"AAPL"',
    b'{"type":"news","data":"\xff\xfe"}',
    b"\xff",
    b'{"type":"\\ud800"}',
    b"\x00",
    b'{"type":"ping"}{"type":"ping"}',
    b'{"type":"ping"}\n{"type":"ping"}',
    b"1" * 5_000,
    b'{"type":"trade","data":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
)


def malformed_frames() -> list[bytes]:
    """Return frames that have crashed clients (FAULTS.md, 39): control, unknown, broken, huge.

    They are sent as text frames. None of them holds a trade that can be recorded.
    """
    return [*_MALFORMED, b'{"type":"news","data":"' + b"x" * 10_000_000 + b'"}']
