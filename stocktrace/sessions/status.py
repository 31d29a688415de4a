"""The live status of a capture: given to ``on_status``, and written to ``<session>.status``.

The file is one JSON object, replaced in one step twice a second: a reader sees the old status or
the new one. The last one stays, with ``state`` ``ended``. It is not synced to disk, because a power
cut ends the capture, too.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal, Self

import msgspec

from stocktrace.intervals import CONNECTING
from stocktrace.sessions.report import GapReport, LagReport, SessionState
from stocktrace.store import files
from stocktrace.store.layout import Layout
from stocktrace.text import count_of, describe_gaps

#: ``connecting`` for the first time; ``ending``: it is disconnected and publishes the rest.
ConnectionState = Literal["connecting", "connected", "reconnecting", "ending", "ended"]


class ReconnectAttempt(msgspec.Struct, frozen=True):
    """The next attempt to connect: its number since the disconnect, its time (UTC), the reason."""

    attempt: int
    at: datetime
    reason: str


class StepProgress(msgspec.Struct, frozen=True):
    """A step of the end of a capture, such as ``writing Parquet``: ``done`` of so many tickers."""

    step: str
    done: int
    total: int

    def __str__(self) -> str:
        return f"{self.step}, {self.done:,} of {count_of(self.total, 'ticker')}"


class CaptureStatus(msgspec.Struct, frozen=True):
    """The state of a capture at ``written_at`` (UTC).

    ``trades`` and ``per_ticker`` count received trades, ``recorded`` those in CSV or Parquet, and
    ``quarantined`` the refused ones. ``backlog`` and ``queued`` are trades that wait for the
    recorder, the oldest of them for ``behind_s``. ``lag_ms`` is the median lag of the last batch,
    ``latency`` has the session's quantiles, ``feed_lag_s`` is how far the feed is behind. ``gaps``
    counts the gaps that have ended, ``gap_s`` their seconds; ``outages`` leaves out the time before
    the first connection, and ``last_outage`` is the one that began last. ``open_gap`` lasts until
    now; the properties count it, too. ``trade_frames``, ``control`` and ``undecodable``
    count frames by kind, ``unrequested`` the trades of tickers that nobody asked for. ``last`` is
    when the last trade of each ticker was received (epoch ns).
    ``rolled`` windows have ended, ``published`` of them are in ``files`` Parquet files with
    ``parquet`` trades; the oldest of the others waits for ``publishing_s``. ``spilled`` counts
    tickers that are rebuilt from the tape because a queue was full, once for each window.
    ``final_state`` is the report's state, ``progress`` is how far its end has come. Mappings leave
    out tickers without a value.
    """

    session: str
    connected: bool
    elapsed_s: float
    remaining_s: float
    trades: int
    backlog: int
    reconnects: int
    lag_ms: float
    tickers: tuple[str, ...]
    per_ticker: dict[str, int]
    state: ConnectionState = "connecting"
    written_at: datetime | None = None
    retry: ReconnectAttempt | None = None
    recorded: int = 0
    quarantined: int = 0
    quarantined_by_ticker: dict[str, int] = msgspec.field(default_factory=dict)
    queued: dict[str, int] = msgspec.field(default_factory=dict)
    gaps: int = 0
    gap_s: float = 0.0
    outages: int = 0
    last_outage: GapReport | None = None
    open_gap: GapReport | None = None
    latency: LagReport = LagReport()
    feed_lag_s: float = 0.0
    behind_s: float = 0.0
    trade_frames: int = 0
    control: int = 0
    undecodable: int = 0
    unrequested: int = 0
    last: dict[str, int] = msgspec.field(default_factory=dict)
    rolled: int = 0
    published: int = 0
    publishing_s: float = 0.0
    files: int = 0
    parquet: int = 0
    spilled: int = 0
    notices: int = 0
    last_error: str = ""
    final_state: SessionState = "running"
    reason: str = ""
    progress: StepProgress | None = None

    @property
    def all_gaps(self) -> int:
        """The number of gaps, with one that lasts."""
        return self.gaps + (self.open_gap is not None)

    @property
    def all_gap_s(self) -> float:
        """Their seconds."""
        return self.gap_s + (self.open_gap.seconds if self.open_gap else 0.0)

    @property
    def all_outages(self) -> int:
        """The gaps without that before the first connection."""
        return self.outages + (self.open_gap is not None and self.open_gap.reason != CONNECTING)

    @property
    def gap_summary(self) -> str:
        """The number of gaps, their length, and how many of them are connecting."""
        return describe_gaps(self.all_gaps, self.all_gap_s, self.all_gaps - self.all_outages)

    @property
    def connection(self) -> str:
        """``connected``, ``connected, 14 s behind``, ``reconnecting for 75 s, attempt 7``."""
        if self.open_gap is None:
            return f"{self.state}{f', {self.feed_lag_s:,.0f} s behind' if self.feed_lag_s else ''}"
        attempt = f", attempt {self.retry.attempt}" if self.retry else ""
        return f"{self.state} for {self.open_gap.seconds:,.0f} s{attempt}"

    @property
    def unpublished(self) -> int:
        """The number of windows that wait to be published."""
        return self.rolled - self.published

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the status in ``path``; ``ValueError`` if it is not a status."""
        return msgspec.json.decode(path.read_bytes(), type=cls)


def read_last_status(layout: Layout, session: str) -> CaptureStatus | None:
    """Return the last status of a session; ``None`` if it is missing or of another version."""
    try:
        return CaptureStatus.read(layout.status(session))
    except (FileNotFoundError, ValueError):
        return None


class StatusFile:
    """Keeps the newest status on disk for other processes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = files.temporary_for(path)
        self._is_failing = False

    def write(self, status: CaptureStatus) -> str | None:
        """Replace the file; return a sentence when that begins to fail. The capture continues."""
        try:
            self._temporary.write_bytes(msgspec.json.encode(status))
            self._temporary.replace(self._path)
        except OSError as error:
            was_failing, self._is_failing = self._is_failing, True
            return None if was_failing else f"the live status cannot be written: {error}"
        self._is_failing = False
        return None
