"""The head of the page and its tiles: the status while a session lives, then the report."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from stocktrace.dashboard.vitals import Vitals


def head(vitals: Vitals) -> dict[str, Any]:
    """What the session is, how it stands, since when and for how long still."""
    report, live = vitals.known, vitals.live
    elapsed = ((report.ended or datetime.now(UTC)) - report.started).total_seconds()
    if live and vitals.state == "dead":
        elapsed = live.elapsed_s  # its time stands still
    return {
        "session": report.session,
        "state": vitals.state,
        "outcome": report.state,
        "reason": report.reason,
        "host": report.host,
        "tickers": len(live.tickers if live else report.tickers),
        "started": report.started.timestamp(),
        "elapsed_s": round(elapsed, 1),
        "left_s": round(live.left_s, 1) if live else 0.0,
        "silent_s": round(vitals.silent_s, 1),
        "retry": live.retry if live and vitals.state in ("connecting", "reconnecting") else None,
        "error": live.last_error if live else "",
    }


def figures(vitals: Vitals) -> dict[str, Any]:
    """The tiles, but those that are counted from the rows."""
    report, live = vitals.known, vitals.live
    queued = live.queued if live else {}
    fullest = max(queued, key=lambda ticker: queued[ticker], default="")
    return {
        "rate": round(vitals.rate, 1),
        "received": live.trades if live else report.books.trades,
        "queue": queued.get(fullest, 0),
        "queue_of": fullest,
        "reconnects": live.reconnects if live else report.reconnects,
        "gaps": live.gaps if live else len(report.gaps),
        "gap_s": live.gap_s if live else report.gap_s,
        "outages": live.outages if live else len(report.outages),
        "quarantined": vitals.quarantined,
        "rolled": live.rolled if live else len(report.windows),
        "published": live.published if live else len(report.windows) - len(report.unpublished),
        "files": sum(one.files for one in report.per_ticker.values()),
    }
