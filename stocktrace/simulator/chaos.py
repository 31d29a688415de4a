"""Random faults: the same ones for the same seed."""

from __future__ import annotations

from random import Random

from stocktrace.simulator.faults import Fault
from stocktrace.simulator.market import exponential

# Number of connections, and of dials, that have faults: days at the default pace.
CONNECTIONS = 5_000
#: Mean duration of a connection, in seconds: long enough for a client to settle, and short enough
#: to wait for.
DEFAULT_PACE = 20.0
# Shares of dials that fail, and of connections that have another fault before their end.
_DIAL_FAULTS = 0.3
_OTHER_FAULTS = 0.5
# The share of a connection that a state lasts, so that what follows is exercised, too.
_STATE = 0.3


def random_faults(
    seed: int, pace: float = DEFAULT_PACE, connections: int = CONNECTIONS
) -> tuple[Fault, ...]:
    """Return faults that end every connection, after ``pace`` seconds on average.

    Some dials fail first, and half of the connections have another fault before their end.
    """
    random = Random(seed)
    faults = []
    for number in range(connections):
        if random.random() < _DIAL_FAULTS:
            faults.append(_handshake_fault(random, number))
        duration = max(0.05 * pace, exponential(random, pace))
        if random.random() < _OTHER_FAULTS:
            faults.append(_other_fault(random, number, duration))
        faults.append(_ending_fault(random, number, duration))
    return tuple(faults)


def _handshake_fault(random: Random, number: int) -> Fault:
    # 429 is rare: a good client then waits for minutes, in which nothing is exercised.
    choices = (
        Fault("status", status=524, after_connections=number),
        Fault("status", status=503, after_connections=number),
        Fault("status", status=200, after_connections=number),
        Fault("handshake-delay", seconds=1.0 + 4.0 * random.random(), after_connections=number),
        Fault("no-answer", after_connections=number),
    )
    if random.random() < 0.02:
        return Fault("status", status=429, after_connections=number)
    return choices[int(len(choices) * random.random())]


def _other_fault(random: Random, number: int, duration: float) -> Fault:
    begin = duration * 0.5 * random.random()
    state = duration * _STATE
    choices = (
        Fault("mute", 0, begin, number, duration=state),
        Fault("silent", 0, begin, number, duration=state),
        Fault("duplicate", 0, begin, number, duration=state, times=2 + int(2 * random.random())),
        Fault(
            "duplicate-rows", 0, begin, number, duration=state, times=2 + int(2 * random.random())
        ),
        Fault("out-of-order", 0, begin, number, duration=state),
        Fault("late", 0, begin, number, duration=state),
        Fault("lag", 0, begin, number, duration=state),
        Fault("truncate", 0, begin, number, duration=state),
        Fault("bad-row", 0, begin, number),
        Fault("malformed", 0, begin, number),
    )
    return choices[int(len(choices) * random.random())]


def _ending_fault(random: Random, number: int, duration: float) -> Fault:
    choices = (
        Fault("drop", 0, duration, number),
        Fault("reset", 0, duration, number),
        Fault("close", 0, duration, number, code=1000),
        Fault("close", 0, duration, number, code=1001),
        Fault("stall", 0, duration, number),
        Fault("half-frame", 0, duration, number),
    )
    return choices[int(len(choices) * random.random())]
