"""Whether a capture is well: what a person should be woken for, as sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, get_args

from stocktrace.deadline import utc
from stocktrace.live.vigil import LATE_MS, late, missing, silent
from stocktrace.status import Status

#: ``stalled``: the capture's own thread does not look up; ``late``: an expected ticker.
Kind = Literal["stalled", "disconnected", "late", "lag", "queue", "disk"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# The capture looks up twice a second; one that publishes a large window may miss a few looks.
STALLED_S = 10.0
# The longest wait before a redial: longer is no short outage any more.
AWAY_S = 60.0
# Trades are on disk within ``flush_every``; twenty times the default is no batch, but a backlog.
BEHIND_S = 20.0
# The capture ends at ``min_free``: twice that leaves time to make room.
DISK_FACTOR = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, for a program and for a person."""

    kind: Kind
    sentence: str


@dataclass(frozen=True, slots=True)
class Look:
    """What is known of a capture at a moment (``now``, UTC).

    ``age_s`` is how old the status is, ``away_s`` for how long there has been no connection;
    ``free`` are bytes of the disk, of which the capture leaves ``min_free``, and ``flush_every_s``
    is how long a trade may wait.
    """

    status: Status
    now: datetime
    age_s: float
    away_s: float
    free: int
    min_free: int
    flush_every_s: float


def problems(look: Look) -> Iterator[Problem]:
    """What is wrong; nothing is good. A capture that publishes its end is not asked for trades."""
    if look.free < DISK_FACTOR * look.min_free:
        yield Problem(
            "disk",
            f"the disk has {look.free / 1e6:,.0f} MB left, and the capture ends at "
            f"{look.min_free / 1e6:,.0f} MB",
        )
    if look.status.state not in ("ending", "ended"):
        yield from _of_a_live_one(look)


def _of_a_live_one(look: Look) -> Iterator[Problem]:
    status = look.status
    if look.age_s > STALLED_S:
        yield Problem("stalled", f"the capture has not been heard of for {look.age_s:,.0f} s")
    if look.away_s > AWAY_S:
        why = f": {status.retry.reason}" if status.retry else ""
        yield Problem("disconnected", f"not connected for {look.away_s:,.0f} s{why}")
    if status.behind_s > max(BEHIND_S, BEHIND_S * look.flush_every_s):
        yield Problem(
            "queue",
            f"{status.backlog:,} trades wait for the disk, the oldest for {status.behind_s:,.0f} s",
        )
    if status.lag_ms > LATE_MS:
        yield Problem("lag", late(status.lag_ms))
    last = {name: utc(stamp) for name, stamp in status.last.items()}
    began = look.now - timedelta(seconds=status.elapsed_s)
    for ticker, seconds in silent(status.tickers, last, began, look.now).items():
        yield Problem("late", missing(ticker, seconds))
