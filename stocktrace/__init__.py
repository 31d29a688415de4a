"""stocktrace: a recorder of live market trades that can be trusted with data that comes once.

    report = stocktrace.capture(["AAPL", "MSFT"], lasting="30m")
    trades = stocktrace.read_trades("AAPL", date="2026-11-23")

The names below are loaded when they are used: pandas, pyarrow and pandera take a second.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from stocktrace.errors import StocktraceError, UsageError
    from stocktrace.live.capturing import capture
    from stocktrace.live.handle import Handle
    from stocktrace.report import Report
    from stocktrace.settings import Settings
    from stocktrace.status import Status
    from stocktrace.store.bars import read_bars
    from stocktrace.store.coverage import read_coverage, read_gaps
    from stocktrace.store.dataset import read_trades, scan

__all__ = [
    "Handle",
    "Report",
    "Settings",
    "Status",
    "StocktraceError",
    "UsageError",
    "__version__",
    "capture",
    "read_bars",
    "read_coverage",
    "read_gaps",
    "read_trades",
    "scan",
]

_HOMES = {
    "Handle": "live.handle",
    "Report": "report",
    "Settings": "settings",
    "Status": "status",
    "StocktraceError": "errors",
    "UsageError": "errors",
    "capture": "live.capturing",
    "read_bars": "store.bars",
    "read_coverage": "store.coverage",
    "read_gaps": "store.coverage",
    "read_trades": "store.dataset",
    "scan": "store.dataset",
}


def __getattr__(name: str) -> object:
    """Load a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
