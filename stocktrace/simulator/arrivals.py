"""When trades happen: a self-exciting (Hawkes) process, because trades cause trades.

Each trade raises the intensity, which then decays exponentially; gaps are drawn exactly, with two
uniforms each (Dassios and Zhao, "Exact simulation of Hawkes process with exponentially decaying
intensity", Electron. Commun. Probab. 18, 2013). Only ``Random.random`` is used, whose sequence
for a seed is the same in every version of Python.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random

# The share of trades that others caused; what the literature finds for liquid stocks is 0.5-0.8.
_BRANCHING = 0.7
# How fast excitement fades, 1/s: a burst lasts some tenths of a second.
_DECAY = 8.0
# The opening peak fades with this time constant, in seconds: a demo should show it.
_OPENING_SECONDS = 60.0


def exponential(random: Random, mean: float) -> float:
    """An exponentially distributed value."""
    return -mean * math.log(1.0 - random.random())


def arrivals(random: Random, rate: float, opening: float) -> Iterator[float]:
    """Endless times of trades, in seconds from the start, ``rate`` a second in the long run.

    At the start the rate is ``opening`` times as high.
    """
    now, excited = 0.0, 0.0
    jump = _BRANCHING * _DECAY
    while True:
        peak = 1.0 + (opening - 1.0) * math.exp(-now / _OPENING_SECONDS)
        gap = exponential(random, 1.0 / (rate * peak * (1.0 - _BRANCHING)))
        if excited > 0.0:
            decayed = 1.0 + _DECAY * math.log(1.0 - random.random()) / excited
            if decayed > 0.0:
                gap = min(gap, -math.log(decayed) / _DECAY)
        excited = excited * math.exp(-_DECAY * gap) + jump
        now += gap
        yield now
