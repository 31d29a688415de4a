"""Faults that the simulator can play: each is a line of data, so that a script can hold it.

docs/faults.md describes each kind. Those of the first group affect handshakes, the second is events
on a connection, the third begins a state of a connection, which can end again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Literal, cast, get_args

from stocktrace.errors import SettingsError, UsageError
from stocktrace.simulator.market import exponential
from stocktrace.units import parse_duration

HandshakeFault = Literal["status", "handshake-delay", "no-answer", "tls-1.2"]
ConnectionFault = Literal[
    "drop",
    "reset",
    "close",
    "close-notify",
    "stall",
    "half-frame",
    "half-record",
    "inject",
    "malformed",
]
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
    "records",
]
_HANDSHAKE_FAULTS = frozenset(get_args(HandshakeFault))
STATE_FAULTS = frozenset(get_args(StateFault))
TLS_FAULTS = frozenset({"tls-1.2", "close-notify", "half-record", "records"})
FAULT_KINDS = (*get_args(HandshakeFault), *get_args(ConnectionFault), *get_args(StateFault))

# Defaults of ``seconds``: the handshake of Finnhub's #38, a late print as in polygon's #86, the
# lag of story 6 (FAULTS.md). Duplicates are those of Finnhub's #143 (FINNHUB.md).
_DEFAULT_SECONDS = {"handshake-delay": 65.0, "late": 600.0, "lag": 1.0}

_AFTER = re.compile(r"(\d+)(trades|connections)")
_COMMON_OPTIONS = ("after", "for", "repeat")
# The option that only this kind has.
_OWN_OPTION = {
    "status": "status",
    "handshake-delay": "by",
    "close": "code",
    "inject": "frame",
    "silent": "symbol",
    "duplicate": "times",
    "duplicate-rows": "times",
    "late": "by",
    "lag": "by",
    "records": "size",
}
# The options that are durations, and their fields; and the least and greatest of numbers.
_DURATIONS = {"after": "after_seconds", "for": "duration", "by": "seconds"}
_RANGES = {"status": (200, 599), "code": (1000, 4999), "times": (2, 100), "size": (1, 16384)}

# Number of connections, and of dials, that have random faults: days at the default pace.
CONNECTIONS = 5_000
#: Mean duration of a connection, in seconds: long enough for a client to settle, and short enough
#: to wait for.
DEFAULT_PACE = 20.0
# Shares of dials that fail, and of connections that have another fault before their end.
_FAILED_DIALS = 0.3
_OTHER_FAULTS = 0.5
# The share of a connection that a state lasts, so that what follows is exercised, too.
_STATE = 0.3


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
    size: int = 0  # bytes a TLS record; 0: one frame
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

    @property
    def needs_tls(self) -> bool:
        """True if it does something that plain TCP does not have."""
        return self.kind in TLS_FAULTS


def parse_fault(text: str) -> Fault:
    """Parse ``KIND[,after=…][,for=…][,repeat][,…]``, as a command line has it.

    ``after`` is a duration, or a number of trades or connections (``1000trades``,
    ``2connections``), and may occur twice. ``frame=`` takes the rest of the text.

    Raises:
        UsageError: the text is not a fault; the message says what is valid.
    """
    head, has_frame, frame = text.partition(",frame=")
    kind, *options = head.split(",")
    if kind not in FAULT_KINDS:
        raise UsageError(f"Unknown fault {kind!r}. Use one of {', '.join(FAULT_KINDS)}.")
    if has_frame:
        options.append(f"frame={frame}")
    known = [*_COMMON_OPTIONS, *([_OWN_OPTION[kind]] if kind in _OWN_OPTION else [])]
    fields: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if name not in known or bool(equals) == (name == "repeat"):
            *others, last = [name if name == "repeat" else f"{name}=…" for name in known]
            raise UsageError(
                f"The fault {kind} has no option {option!r}. "
                f"Its options are {', '.join(others)} and {last}."
            )
        field, parsed = _parse_option(kind, name, value)
        if field in fields:
            raise UsageError(f"The fault {text!r} has {name} twice.")
        fields[field] = parsed
    if kind == "inject" and "frame" not in fields:
        raise UsageError("The fault inject needs frame=….")
    return Fault(cast("Any", kind), **fields)


def _parse_option(kind: str, name: str, value: str) -> tuple[str, Any]:
    """Return the field of a fault that an option sets, and its value."""
    if name == "after" and (match := _AFTER.fullmatch(value)):
        return f"after_{match[2]}", int(match[1])
    if name in _DURATIONS:
        return _DURATIONS[name], _parse_duration(name, value)
    if name in _RANGES:
        return name, _parse_number(kind, name, value)
    if name == "frame":
        return name, value.encode("utf-8", "surrogateescape")
    return name, True if name == "repeat" else value


def _parse_duration(name: str, value: str) -> float:
    try:
        return parse_duration(value)
    except UsageError:
        also = ", 1000trades or 2connections" if name == "after" else ""
        raise UsageError(
            f"{name}={value} is not a valid time. Write it as 5s or 1m30s{also}."
        ) from None


def _parse_number(kind: str, name: str, value: str) -> int:
    low, high = _RANGES[name]
    if not (value.isascii() and value.isdigit() and low <= int(value) <= high):
        raise UsageError(
            f"{name}={value} is not valid for the fault {kind}. Use a number from {low} to {high}."
        )
    return int(value)


class FaultPlan:
    """The faults that are still to come. Only the simulator's thread may use it."""

    def __init__(
        self,
        faults: Iterable[Fault] = (),
        now: Callable[[], float] = time.monotonic,
        *,
        tls: bool = False,
    ) -> None:
        self._pending: list[Fault] = []
        self._tls = tls
        self._ends: dict[Fault, float] = {}
        self._now = now
        for fault in faults:
            self.add(fault)

    def add(self, fault: Fault) -> None:
        """Plan another fault.

        Raises:
            SettingsError: it needs TLS, which the simulator does not use.
        """
        if fault.needs_tls and not self._tls:
            raise SettingsError(f"The fault {fault.kind} needs TLS. Add --tls.")
        self._ends.pop(fault, None)
        self._pending.append(fault)

    def clear(self) -> None:
        """Remove all faults."""
        self._pending.clear()

    def take_for_dial(self, dial: int, *, tls: bool = False) -> list[Fault]:
        """Take the faults that strike this dial (from 1), or with ``tls`` its TLS handshake."""
        due = [each for each in self._due(dial) if each.is_handshake and each.needs_tls == tls]
        return [fault for fault in due if self.take(fault)]

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


def random_faults(
    seed: int, pace: float = DEFAULT_PACE, connections: int = CONNECTIONS, *, tls: bool = False
) -> tuple[Fault, ...]:
    """Return faults that end every connection, after ``pace`` seconds on average.

    Some dials fail first, and half of the connections have another fault before their end. The
    same seed makes the same faults; with ``tls`` those of TLS are among them.
    """
    random = Random(seed)
    faults: list[Fault] = []
    for number in range(connections):
        if random.random() < _FAILED_DIALS:
            faults.append(replace(_dial_fault(random, tls=tls), after_connections=number))
        duration = max(0.05 * pace, exponential(random, pace))
        if random.random() < _OTHER_FAULTS:
            other = _other_fault(random, duration, tls=tls)
            faults.append(replace(other, after_connections=number))
        ending = _choose(random, (*_ENDINGS, *(_TLS_ENDINGS if tls else ())))
        faults.append(replace(ending, after_seconds=duration, after_connections=number))
    return tuple(faults)


def _choose(random: Random, choices: Sequence[Fault]) -> Fault:
    return choices[int(len(choices) * random.random())]


def _dial_fault(random: Random, *, tls: bool) -> Fault:
    seconds = 1.0 + 4.0 * random.random()
    # 429 is rare: a good client then waits for minutes, in which nothing is exercised.
    if random.random() < 0.02:
        return Fault("status", status=429)
    statuses = [Fault("status", status=status) for status in (524, 503, 200)]
    others = Fault("handshake-delay", seconds=seconds), Fault("no-answer")
    old = (Fault("tls-1.2"),) if tls else ()
    return _choose(random, (*statuses, *others, *old))


def _other_fault(random: Random, duration: float, *, tls: bool) -> Fault:
    begin, state = duration * 0.5 * random.random(), duration * _STATE
    choices = (
        Fault("mute", duration=state),
        Fault("silent", duration=state),
        Fault("duplicate", duration=state, times=2 + int(2 * random.random())),
        Fault("duplicate-rows", duration=state, times=2 + int(2 * random.random())),
        Fault("out-of-order", duration=state),
        Fault("late", duration=state),
        Fault("lag", duration=state),
        Fault("truncate", duration=state),
        Fault("bad-row"),
        Fault("malformed"),
        *((Fault("records", duration=state, size=1400),) if tls else ()),
    )
    return replace(_choose(random, choices), after_seconds=begin)


_ENDINGS = (
    Fault("drop"),
    Fault("reset"),
    Fault("close", code=1000),
    Fault("close", code=1001),
    Fault("stall"),
    Fault("half-frame"),
)
_TLS_ENDINGS = (Fault("close-notify"), Fault("half-record"))
