"""How long to wait before the next dial.

Full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS 2015): the wait before attempt *n*
is uniform in [floor, max(floor, min(cap, base * 2^(n-1)))]. The floor leaves the server time to
drop the old socket: Finnhub kills the newer one while the older lives (FINNHUB.md, #158). Only a
connection that stayed for ``stable_s`` counts as success; one that came and went does not reset
the count (cryptofeed: 1,531 dials in 4 s).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

# Finnhub answers too many dials with 429 and wants minutes, not seconds (FINNHUB.md, "Connection").
TOO_MANY_DIALS_FLOOR_S = 60.0
TOO_MANY_DIALS_CAP_S = 600.0


@dataclass(slots=True)
class Backoff:
    """The waits of one feed; ask ``wait`` before each dial but the first."""

    base_s: float
    cap_s: float
    floor_s: float
    stable_s: float
    random: random.Random = field(default_factory=random.SystemRandom, repr=False)
    failures: int = 0

    def wait(self, *, too_many_dials: bool = False) -> float:
        """Seconds to wait now, after another failure; ``too_many_dials`` after an HTTP 429."""
        self.failures += 1
        # 2^30 s is beyond any cap; the bound keeps the float finite after years of failures.
        ceiling = min(self.cap_s, self.base_s * 2.0 ** min(self.failures - 1, 30))
        floor = self.floor_s
        if too_many_dials:
            floor = max(floor, TOO_MANY_DIALS_FLOOR_S)
            ceiling = min(TOO_MANY_DIALS_CAP_S, floor * 2.0 ** min(self.failures, 30))
        return self.random.uniform(floor, max(floor, ceiling))

    def lived(self, seconds: float) -> None:
        """A connection ended that had lived for ``seconds``."""
        if seconds >= self.stable_s:
            self.failures = 0
