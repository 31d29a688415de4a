"""Shared by the peers: arguments ``URL TRADES FOLDER``, one JSON line as the result.

CPU time is measured from the end of the imports until the operating system has the last row; it
includes all threads of the process, but not the sender, which is another process.
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
    """Starts to measure when it is made, after the imports."""

    def __init__(self) -> None:
        self.url, trades, folder = sys.argv[1:4]
        self.trades = int(trades)
        self.tickers = market.tickers(int(sys.argv[4]) if len(sys.argv) > 4 else 50)
        self.folder = Path(folder)
        #: CPU seconds at the start.
        self.cpu = time.process_time()
        self._wall = time.monotonic()

    def report(self, **facts: Any) -> None:
        """Print the result when all rows are written."""
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
