"""The problems of a capture that a person should be woken for, as sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, get_args

from stocktrace.live.staleness import LATE_MS, find_silent, lag_warning, silence_warning
from stocktrace.sessions.status import CaptureStatus
from stocktrace.units import utc_datetime

#: ``stalled``: the capture's main thread hangs; ``late``: a silent ticker.
ProblemKind = Literal["stalled", "disconnected", "late", "lag", "queue", "disk"]
PROBLEM_KINDS: tuple[ProblemKind, ...] = get_args(ProblemKind)

# There is a status twice a second. A capture that publishes a large window may miss a few.
STALLED_S = 10.0
# The longest delay before a reconnect: a longer disconnect is not a short one any more.
DISCONNECTED_S = 60.0
# Trades are on disk within ``flush_interval``. Twenty times the default is a backlog.
BEHIND_S = 20.0
# The capture ends at ``min_free_space``. Twice that leaves time to make room.
DISK_FACTOR = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem, for a program and for a person."""

    kind: ProblemKind
    sentence: str


@dataclass(frozen=True, slots=True)
class HealthInput:
    """Everything known of a capture at ``now`` (UTC).

    The capture ends when the disk has less than ``min_free_space`` bytes. ``flush_interval_s`` is
    how long a trade may wait.
    """

    status: CaptureStatus
    now: datetime
    status_age_s: float
    disconnected_s: float
    free_bytes: int
    min_free_space: int
    flush_interval_s: float


def find_problems(capture: HealthInput) -> Iterator[Problem]:
    """Yield the problems. Only the disk counts after the feed has ended."""
    if capture.free_bytes < DISK_FACTOR * capture.min_free_space:
        yield Problem(
            "disk",
            f"the disk has {capture.free_bytes / 1e6:,.0f} MB left, and the capture ends at "
            f"{capture.min_free_space / 1e6:,.0f} MB",
        )
    if capture.status.state not in ("ending", "ended"):
        yield from _running_problems(capture)


def _running_problems(capture: HealthInput) -> Iterator[Problem]:
    status = capture.status
    if capture.status_age_s > STALLED_S:
        yield Problem("stalled", f"no status of the capture for {capture.status_age_s:,.0f} s")
    if capture.disconnected_s > DISCONNECTED_S:
        reason = f": {status.retry.reason}" if status.retry else ""
        yield Problem("disconnected", f"not connected for {capture.disconnected_s:,.0f} s{reason}")
    if status.behind_s > max(BEHIND_S, BEHIND_S * capture.flush_interval_s):
        yield Problem(
            "queue",
            f"{status.backlog:,} trades wait for the disk, the oldest for {status.behind_s:,.0f} s",
        )
    if status.lag_ms > LATE_MS:
        yield Problem("lag", lag_warning(status.lag_ms))
    last_trades = {name: utc_datetime(stamp) for name, stamp in status.last.items()}
    began = capture.now - timedelta(seconds=status.elapsed_s)
    silent = find_silent(status.tickers, last_trades, began, capture.now)
    for ticker, seconds in silent.items():
        yield Problem("late", silence_warning(ticker, seconds))
