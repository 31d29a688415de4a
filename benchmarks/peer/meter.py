"""What each peer's program has in common: ``URL TRADES FOLDER`` in, one JSON line out.

CPU time counts from the end of the imports to the moment the last row is with the operating
system; threads of the process count, the sender (a process of its own) does not.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import market


class Meter:
    """Made after the imports."""

    def __init__(self) -> None:
        self.url, trades, folder = sys.argv[1:4]
        self.trades = int(trades)
        self.tickers = market.tickers(int(sys.argv[4]) if len(sys.argv) > 4 else 50)
        self.folder = Path(folder)
        #: CPU seconds at the start.
        self.cpu = time.process_time()
        self._wall = time.monotonic()

    def done(self, **facts: Any) -> None:
        """All rows are written."""
        print(
            json.dumps(
                {
                    "cpu_s": time.process_time() - self.cpu,
                    "wall_s": time.monotonic() - self._wall,
                    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                    **facts,
                }
            ),
            flush=True,
        )
