"""Faults at random: the same ones for the same seed."""

from __future__ import annotations

from random import Random

from stocktrace.simulator.arrivals import exponential
from stocktrace.simulator.faults import Fault

# Connections, and dials, that something happens to: at the usual pace days of it.
CONNECTIONS = 5_000
#: Mean life of a connection, in seconds: enough for a client to settle, few enough to wait for.
DEFAULT_PACE = 20.0
# Shares of dials that fail, and of connections that something odd happens to before their end.
_REFUSED = 0.3
_ODD = 0.5
# States last this part of a life, so that what comes after them is seen too.
_STATE = 0.3


def random_faults(
    seed: int, pace: float = DEFAULT_PACE, connections: int = CONNECTIONS
) -> tuple[Fault, ...]:
    """Every connection ends somehow, after ``pace`` seconds in the mean.

    Some dials fail first, and half of the connections have a fault of another kind meanwhile.
    """
    random = Random(seed)
    faults = []
    for number in range(connections):
        if random.random() < _REFUSED:
            faults.append(_at_handshake(random, number))
        life = max(0.05 * pace, exponential(random, pace))
        if random.random() < _ODD:
            faults.append(_during(random, number, life))
        faults.append(_at_end(random, number, life))
    return tuple(faults)


def _at_handshake(random: Random, number: int) -> Fault:
    # 429 not often: a good client then waits for minutes, and nothing happens to it.
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


def _during(random: Random, number: int, life: float) -> Fault:
    begin = life * 0.5 * random.random()
    lasting = life * _STATE
    choices = (
        Fault("mute", 0, begin, number, lasting=lasting),
        Fault("silent", 0, begin, number, lasting=lasting),
        Fault("duplicate", 0, begin, number, lasting=lasting, times=2 + int(2 * random.random())),
        Fault("copies", 0, begin, number, lasting=lasting, times=2 + int(2 * random.random())),
        Fault("out-of-order", 0, begin, number, lasting=lasting),
        Fault("late", 0, begin, number, lasting=lasting),
        Fault("lag", 0, begin, number, lasting=lasting),
        Fault("truncate", 0, begin, number, lasting=lasting),
        Fault("bad-row", 0, begin, number),
        Fault("odd", 0, begin, number),
    )
    return choices[int(len(choices) * random.random())]


def _at_end(random: Random, number: int, life: float) -> Fault:
    choices = (
        Fault("drop", 0, life, number),
        Fault("reset", 0, life, number),
        Fault("close", 0, life, number, code=1000),
        Fault("close", 0, life, number, code=1001),
        Fault("stall", 0, life, number),
        Fault("half-frame", 0, life, number),
    )
    return choices[int(len(choices) * random.random())]
