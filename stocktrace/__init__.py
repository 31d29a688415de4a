"""Record live market trades: data you cannot download again.

    report = stocktrace.capture(["AAPL", "MSFT"], duration="30m")
    trades = stocktrace.read_trades("AAPL", date="2026-11-23")

Each name below is imported when it is used, since pandas, pyarrow and pandera take a second.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from stocktrace._version import __version__

if TYPE_CHECKING:
    from stocktrace.errors import StocktraceError, UsageError
    from stocktrace.live.api import capture
    from stocktrace.live.control import CaptureControl
    from stocktrace.query.bars import read_bars
    from stocktrace.query.coverage import read_coverage, read_gaps
    from stocktrace.query.trades import read_trades, scan
    from stocktrace.sessions.report import SessionReport
    from stocktrace.sessions.status import CaptureStatus
    from stocktrace.settings import Settings

__all__ = [
    "CaptureControl",
    "CaptureStatus",
    "SessionReport",
    "Settings",
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
    "CaptureControl": "live.control",
    "SessionReport": "sessions.report",
    "Settings": "settings",
    "CaptureStatus": "sessions.status",
    "StocktraceError": "errors",
    "UsageError": "errors",
    "capture": "live.api",
    "read_bars": "query.bars",
    "read_coverage": "query.coverage",
    "read_gaps": "query.coverage",
    "read_trades": "query.trades",
    "scan": "query.trades",
}


def __getattr__(name: str) -> object:
    """Import a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
