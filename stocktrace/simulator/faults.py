"""What can go wrong on purpose: each fault is a line of data, so that a script can hold it.

===================  ==============================================================================
``status``           the handshake is answered by HTTP ``status`` (429, 503, 524, even 200)
``handshake-delay``  the handshake is answered ``seconds`` (65) later
``no-answer``        TCP is accepted, the handshake never answered
-------------------  ------------------------------------------------------------------------------
``drop``             TCP ends after all that was sent, with no close frame (a client sees 1006)
``reset``            TCP is reset, what was under way is lost
``close``            a close frame with ``code``
``stall``            half-open: the exchange stops reading and writing, TCP stays
``half-frame``       the header of a frame of 100 bytes, 10 of them, then as ``stall``
``inject``           ``frame`` is sent as a text frame, whatever it holds
``odd``              a set of frames that have killed clients: ``stocktrace.simulator.malformed_frames``
-------------------  ------------------------------------------------------------------------------
``mute``             heartbeats, but no trades
``silent``           no trades of ``symbol`` (or of the one that was subscribed to first)
``duplicate``        each frame of trades is sent ``times`` (2) times (FINNHUB.md, #143)
``copies``           each frame has its trades ``times`` times: A,B becomes A,B,A,B
``out-of-order``     the trades of a frame stand in reverse
``late``             one frame in ten happened ``seconds`` (600) ago
``lag``              trades are older and older, by ``seconds`` (1) a second (FAULTS.md, 6)
``bad-row``          the last trade of one frame has a price that is none
``truncate``         each frame of trades is sent without its last 10 bytes
===================  ==============================================================================

The first group strikes handshakes, the second connections, at a blow; the third begins a state of
a connection.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from stocktrace.errors import SettingsError

HandshakeFault = Literal["status", "handshake-delay", "no-answer"]
ConnectionFault = Literal["drop", "reset", "close", "stall", "half-frame", "inject", "odd"]
StateFault = Literal[
    "mute",
    "silent",
    "duplicate",
    "copies",
    "out-of-order",
    "late",
    "lag",
    "bad-row",
    "truncate",
]
_HANDSHAKE_FAULTS = frozenset(get_args(HandshakeFault))
STATE_FAULTS = frozenset(get_args(StateFault))
FAULT_KINDS = (*get_args(HandshakeFault), *get_args(ConnectionFault), *get_args(StateFault))

# What ``seconds`` is where nobody says it: the handshake of Finnhub's #38, a late print as in
# polygon's #86, the lag of story 6.
_SECONDS = {"handshake-delay": 65.0, "late": 600.0, "lag": 1.0}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault and when it strikes: once, or with ``repeat`` once on every connection.

    A handshake fault strikes the next dial, the others the next connection, at once or
    ``after_trades`` trades were sent on it or ``after_seconds`` after its handshake;
    ``after_connections`` first spares as many dials or connections. Trades are counted by whole
    frames. With ``lasting`` (seconds, from when it first struck) a state ends then, and a blow
    strikes every dial or connection until then.

    Raises:
        SettingsError: no such kind, or two times at once.
    """

    kind: HandshakeFault | ConnectionFault | StateFault
    after_trades: int = 0
    after_seconds: float = 0.0
    after_connections: int = 0
    repeat: bool = False
    lasting: float = 0.0
    status: int = 429
    seconds: float | None = None
    code: int = 1001
    frame: bytes = b""
    times: int = 2
    symbol: str = ""

    def __post_init__(self) -> None:
        if self.kind not in FAULT_KINDS:
            raise SettingsError(f"{self.kind!r} is no fault: use one of {', '.join(FAULT_KINDS)}.")
        if self.after_trades and self.after_seconds:
            raise SettingsError("A fault strikes after trades or after seconds, not after both.")

    @property
    def by(self) -> float:
        """``seconds``, or what is usual for the kind."""
        return _SECONDS.get(self.kind, 0.0) if self.seconds is None else self.seconds

    @property
    def at_handshake(self) -> bool:
        """Whether it strikes a handshake, and not a connection."""
        return self.kind in _HANDSHAKE_FAULTS

    @property
    def is_state(self) -> bool:
        """Whether it begins something that can end again."""
        return self.kind in STATE_FAULTS


class FaultPlan:
    """The faults that are still to come. Belongs to the exchange's thread."""

    def __init__(
        self, faults: Iterable[Fault] = (), now: Callable[[], float] = time.monotonic
    ) -> None:
        self._coming = list(faults)
        self._ends: dict[Fault, float] = {}
        self._now = now

    def add(self, fault: Fault) -> None:
        """One more."""
        self._ends.pop(fault, None)
        self._coming.append(fault)

    def clear(self) -> None:
        """No more."""
        self._coming.clear()

    def at_handshake(self, dial: int) -> list[Fault]:
        """The faults that strike this dial, the first being 1; they are taken."""
        struck = [fault for fault in self._for(dial) if fault.at_handshake]
        return [fault for fault in struck if self.take(fault)]

    def on_connection(self, number: int) -> list[Fault]:
        """The faults that may strike this connection, the first being 1; take them in time."""
        return [fault for fault in self._for(number) if not fault.at_handshake]

    def _for(self, number: int) -> list[Fault]:
        return [fault for fault in self._coming if number > fault.after_connections]

    def take(self, fault: Fault) -> bool:
        """Whether ``fault`` may strike now; unless it goes on, no other connection's may."""
        if fault not in self._coming:
            return False
        if fault.lasting and not fault.is_state:
            now = self._now()
            if now < self._ends.setdefault(fault, now + fault.lasting):
                return True
            self._coming.remove(fault)
            return False
        if not fault.repeat:
            self._coming.remove(fault)
        return True
