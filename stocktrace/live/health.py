"""Whether a capture is well: what a person should be woken for, as sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, get_args

from stocktrace.live.staleness import LATE_MS, find_silent, lag_warning, silence_warning
from stocktrace.sessions.status import CaptureStatus
from stocktrace.units import utc_datetime

#: ``stalled``: the capture's own thread does not look up; ``late``: an expected ticker.
ProblemKind = Literal["stalled", "disconnected", "late", "lag", "queue", "disk"]
PROBLEM_KINDS: tuple[ProblemKind, ...] = get_args(ProblemKind)

# The capture looks up twice a second; one that publishes a large window may miss a few looks.
STALLED_S = 10.0
# The longest wait before a redial: longer is no short outage any more.
DISCONNECTED_S = 60.0
# Trades are on disk within ``flush_interval``; twenty times the default is no batch, but a backlog.
BEHIND_S = 20.0
# The capture ends at ``min_free_space``: twice that leaves time to make room.
DISK_FACTOR = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, for a program and for a person."""

    kind: ProblemKind
    sentence: str


@dataclass(frozen=True, slots=True)
class HealthInput:
    """What is known of a capture at a moment (``now``, UTC).

    ``age_s`` is how old the status is, ``away_s`` for how long there has been no connection;
    ``free`` are bytes of the disk, of which the capture leaves ``min_free_space``, and ``flush_interval_s``
    is how long a trade may wait.
    """

    status: CaptureStatus
    now: datetime
    status_age_s: float
    disconnected_s: float
    free_bytes: int
    min_free_space: int
    flush_interval_s: float


def find_problems(look: HealthInput) -> Iterator[Problem]:
    """What is wrong; nothing is good. A capture that publishes its end is not asked for trades."""
    if look.free_bytes < DISK_FACTOR * look.min_free_space:
        yield Problem(
            "disk",
            f"the disk has {look.free_bytes / 1e6:,.0f} MB left, and the capture ends at "
            f"{look.min_free_space / 1e6:,.0f} MB",
        )
    if look.status.state not in ("ending", "ended"):
        yield from _running_problems(look)


def _running_problems(look: HealthInput) -> Iterator[Problem]:
    status = look.status
    if look.status_age_s > STALLED_S:
        yield Problem(
            "stalled", f"the capture has not been heard of for {look.status_age_s:,.0f} s"
        )
    if look.disconnected_s > DISCONNECTED_S:
        why = f": {status.retry.reason}" if status.retry else ""
        yield Problem("disconnected", f"not connected for {look.disconnected_s:,.0f} s{why}")
    if status.behind_s > max(BEHIND_S, BEHIND_S * look.flush_interval_s):
        yield Problem(
            "queue",
            f"{status.backlog:,} trades wait for the disk, the oldest for {status.behind_s:,.0f} s",
        )
    if status.lag_ms > LATE_MS:
        yield Problem("lag", lag_warning(status.lag_ms))
    last = {name: utc_datetime(stamp) for name, stamp in status.last.items()}
    began = look.now - timedelta(seconds=status.elapsed_s)
    for ticker, seconds in find_silent(status.tickers, last, began, look.now).items():
        yield Problem("late", silence_warning(ticker, seconds))
