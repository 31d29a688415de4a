"""How a capture stands: what ``watch`` is given, and what others read from ``<session>.status``.

The file is one JSON object, replaced as a whole twice a second: a reader sees the old status or
the new one. The last one stays, with ``state`` ``ended``. It is not synced to disk: after a power
cut there is no live capture to tell of.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal, Self

import msgspec

from stocktrace.sessions.report import GapReport, LagReport
from stocktrace.store import files
from stocktrace.store.layout import Layout

#: ``connecting`` for the first time; ``ending``: it listens no more and publishes the rest.
ConnectionState = Literal["connecting", "connected", "reconnecting", "ending", "ended"]


class ReconnectAttempt(msgspec.Struct, frozen=True):
    """The wait for another dial: the how many-th since it last listened, when (UTC), and why."""

    attempt: int
    at: datetime
    reason: str


class CaptureStatus(msgspec.Struct, frozen=True):
    """How a capture stands, for who watches it.

    ``at`` is when it was looked (UTC). ``trades`` and ``per_ticker`` count what was received,
    ``recorded`` what is in CSV or Parquet, ``quarantined`` what was refused; ``backlog`` and
    ``queued`` the trades that wait for the recorder. ``lag_ms`` is how late the last batch was (its
    median), ``lag`` the session's quantiles, ``behind_s`` how long the oldest trade that waits has
    waited. ``gaps`` are those of the session that are over, ``gap_s`` their seconds; ``outages`` of
    them are no moment before a connection stood, ``last_outage`` is the one that began last.
    ``trade_frames``, ``control`` and ``undecodable`` are the frames by kind; ``last`` is when the
    last trade of each ticker was received (epoch ns). ``rolled`` windows have ended, ``published``
    of them are in ``files`` Parquet files, with ``parquet`` trades. ``spilled`` are tickers that
    are had from the tape for want of room in a queue, once for each window.
    ``outcome`` is the report's state. Mappings leave out tickers with nothing to tell.
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
    latency: LagReport = LagReport()
    behind_s: float = 0.0
    trade_frames: int = 0
    control: int = 0
    undecodable: int = 0
    last: dict[str, int] = msgspec.field(default_factory=dict)
    rolled: int = 0
    published: int = 0
    files: int = 0
    parquet: int = 0
    spilled: int = 0
    notices: int = 0
    last_error: str = ""
    final_state: str = "running"
    reason: str = ""

    @classmethod
    def read(cls, path: Path) -> Self:
        """The status in ``path``.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is none.
        """
        return msgspec.json.decode(path.read_bytes(), type=cls)


def read_last_status(layout: Layout, session: str) -> CaptureStatus | None:
    """Return the last status of a session; ``None`` if it is missing or of another version."""
    try:
        return CaptureStatus.read(layout.status(session))
    except (FileNotFoundError, ValueError):
        return None


class StatusFile:
    """Keeps the newest status on disk, for whoever cannot be called."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = files.temporary_for(path)
        self._failing = False

    def write(self, status: CaptureStatus) -> str | None:
        """Replace it; gives a sentence when that begins to fail: the capture goes on without."""
        try:
            self._temporary.write_bytes(msgspec.json.encode(status))
            self._temporary.replace(self._path)
        except OSError as error:
            was, self._failing = self._failing, True
            return None if was else f"the live status cannot be written: {error}"
        self._failing = False
        return None
