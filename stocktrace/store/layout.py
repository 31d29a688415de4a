"""The paths of everything on disk.

    <data-dir>/
      tape/<session>/<window>.tape                    raw frames and marks; .tape.zst once recorded
      tape/<session>/<window>.tape[.zst].aside-<n>    differs from the tape that was kept (``tape``)
      csv/<ticker>/<session>-<window>.csv.open        being appended to
      csv/<ticker>/<session>-<window>.csv             sealed: complete
      quarantine/<session>-<window>.jsonl[.open]      invalid rows, with the reasons
      quarantine/<session>-<window>.requeued          which of them were requeued
      quarantine/elsewhere.requeued                   requeued lines that no file here has
      sessions/<session>.json · .lock · .status       the report; the lock and status while live
      sessions/<session>.jsonl                        while live: what the report lacks (``report``)
      sessions/<session>.changes/                     requests to change its tickers
      sessions/finished                               which sessions need no recovery; a cache
      log/audit.jsonl                                 one line an event
      coverage/date=<UTC date>/<session>.parquet      when each ticker was listened to
      parquet/date=<UTC date>/<session>-<window>.parquet   all tickers of a window
      parquet/date=<UTC date>/day-<n>.parquet           of a date, compacted; n counts how often
      parquet/date=<UTC date>/day-<n>-002.parquet       … and more of a large date
      compacting/date=<UTC date>/                       will replace that folder
      converting/.<session>-*.tmp                       will become a published file
      .scratch.*.tmp/                                   windows rebuilt for comparison
      csv-kept/<ticker>/<session>-<window>.csv          published, kept because of ``csv_retention``
      outbox/<session>/<name>                           to be sent to the lake
      repairs/<session>.parquet                         gaps that the trades of an import fill
      repairs/asked.parquet                             the last result for all other gaps
      repairs/staged/<digest>.parquet                   fetched ticks, not yet imported
      reconciled/date=<New York date>/completeness.parquet   the published trades against the ticks

``names`` defines ``<session>``, ``<window>`` and ``<ticker>``. ``compacting`` and ``converting``
are outside ``parquet`` because DuckDB and polars also read hidden folders, but on its file system,
where a rename is atomic.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from stocktrace.settings import Settings
from stocktrace.store.names import OPEN, WindowId, decode_ticker, encode_ticker, is_session
from stocktrace.store.tape import better_tape


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths in a data folder.

    ``keeps_csv``: segments are kept after they are published. ``lake`` is the URL to which
    published files are sent, or empty.
    """

    root: Path
    keeps_csv: bool = False
    lake: str = ""

    @classmethod
    def from_settings(cls, settings: Settings) -> Layout:
        """Return the layout of the data folder in ``settings``."""
        return cls(settings.data_dir, settings.csv_retention != 0, settings.lake)

    @property
    def sessions(self) -> Path:
        """The folder of reports and locks."""
        return self.root / "sessions"

    @property
    def dataset(self) -> Path:
        """The folder of the published Parquet files."""
        return self.root / "parquet"

    @property
    def audit(self) -> Path:
        """The audit log."""
        return self.root / "log" / "audit.jsonl"

    @property
    def finished_sessions(self) -> Path:
        """Which sessions were found to be finished (``sessions.catalog``); may be deleted."""
        return self.sessions / "finished"

    def report(self, session: str) -> Path:
        """The report of a session."""
        return self.sessions / f"{session}.json"

    def lock(self, session: str) -> Path:
        """The lock that the process of a running session holds."""
        return self.sessions / f"{session}.lock"

    def status(self, session: str) -> Path:
        """The status of a running session, replaced twice a second."""
        return self.sessions / f"{session}.status"

    def ticker_requests(self, session: str) -> Path:
        """The folder of requests to change a running session's tickers."""
        return self.sessions / f"{session}.changes"

    def tapes(self, session: str) -> Path:
        """The folder of a session's tapes."""
        return self.root / "tape" / session

    def tape(self, window: WindowId) -> Path:
        """The tape of a window until it is recorded completely."""
        return self.tapes(window.session) / f"{window.window}.tape"

    def archived_tape(self, window: WindowId) -> Path:
        """The compressed tape of a window that is recorded completely."""
        return self.tapes(window.session) / f"{window.window}.tape.zst"

    def csv_folder(self, ticker: str) -> Path:
        """The folder of a ticker's segments."""
        return self.root / "csv" / encode_ticker(ticker)

    def csv(self, ticker: str, window: WindowId) -> Path:
        """The sealed segment of a ticker."""
        return self.csv_folder(ticker) / f"{window.stem}.csv"

    def open_csv(self, ticker: str, window: WindowId) -> Path:
        """The segment of a ticker that is being appended to."""
        return self.csv_folder(ticker) / f"{window.stem}.csv{OPEN}"

    def ticker_of_csv(self, path: Path) -> str:
        """The ticker of a segment."""
        return decode_ticker(path.parent.name)

    def kept_csv(self, ticker: str, window: WindowId) -> Path:
        """The segment of a ticker that is kept after it was published."""
        return self.root / "csv-kept" / encode_ticker(ticker) / f"{window.stem}.csv"

    def date_folder(self, date: str) -> Path:
        """The folder of the published trades of a UTC date."""
        return self.dataset / f"date={date}"

    def window_file(self, window: WindowId) -> Path:
        """The published file of a window, until its date is compacted."""
        return self.date_folder(window.date) / f"{window.stem}.parquet"

    def compaction_staging(self, date: str) -> Path:
        """The folder that will replace ``date_folder``."""
        return self.root / "compacting" / f"date={date}"

    def has(self, session: str) -> bool:
        """Return whether a session exists here, published or still to be recovered."""
        return self.tapes(session).is_dir() or self.report(session).exists()

    def all_sessions(self, pattern: str = "*") -> list[str]:
        """List the sessions that exist here and match ``pattern``, the oldest first."""
        names = {path.name for path in self.root.glob(f"tape/{pattern}")}
        names |= {path.stem for path in self.sessions.glob(f"{pattern}.json")}
        return sorted(filter(is_session, names))

    def taped_sessions(self) -> list[str]:
        """List the sessions that have tapes, the oldest first."""
        return sorted(path.name for path in self.root.glob("tape/*") if is_session(path.name))

    def imported_sessions(self, digest: str) -> list[str]:
        """List the sessions that were imported or merged from a source: one, or none."""
        return self.all_sessions(f"[0-9]*_{digest[:16]}_*")

    def gap_fills(self, session: str) -> Path:
        """The gaps that an import fills."""
        return self.root / "repairs" / f"{session}.parquet"

    @property
    def fill_requests(self) -> Path:
        """The last result for the gaps that no import fills."""
        return self.root / "repairs" / "asked.parquet"

    def staged_ticks(self, digest: str) -> Path:
        """Ticks that were fetched for a gap."""
        return self.root / "repairs" / "staged" / f"{digest}.parquet"

    def completeness(self, date: str) -> Path:
        """The published trades of a New York date against the ticks."""
        return self.root / "reconciled" / f"date={date}" / "completeness.parquet"

    @property
    def converting(self) -> Path:
        """The folder in which files are written before they are published."""
        return self.root / "converting"

    @property
    def renames(self) -> list[tuple[Path, Path]]:
        """The folders between which files are moved in one step: both are on one disk."""
        pairs = [
            (self.converting, self.dataset),
            (self.converting, self.root / "coverage"),
            (self.compaction_lock.parent, self.dataset),
        ]
        if self.keeps_csv:
            pairs.append((self.root / "csv", self.root / "csv-kept"))
        return pairs

    @property
    def scratch(self) -> Path:
        """The name from which temporary folders get theirs (``files.temporary_folder``)."""
        return self.root / "scratch"

    @property
    def compaction_lock(self) -> Path:
        """The lock of compactions, and of readers that must not be disturbed by one."""
        return self.root / "compacting" / "compaction.lock"

    def coverage(self, session: str, date: str) -> Path:
        """When the tickers of a session were listened to, on a UTC date."""
        return self.root / "coverage" / f"date={date}" / f"{session}.parquet"

    def outbox(self, session: str) -> Path:
        """The files of a session that are to be sent to the lake (``outbox``)."""
        return self.root / "outbox" / session

    def quarantine(self, window: WindowId) -> Path:
        """The invalid rows of a window."""
        return self.root / "quarantine" / f"{window.stem}.jsonl"

    def requeue_record(self, quarantine: str) -> Path:
        """Which lines of the file called ``quarantine``, or of a copy, were requeued."""
        return (self.root / "quarantine" / quarantine).with_suffix(".requeued")

    def dates(self) -> list[str]:
        """List the UTC dates that have published trades."""
        return sorted(path.name.removeprefix("date=") for path in self.dataset.glob("date=*"))

    def plain_tapes(self, session: str = "*") -> list[Path]:
        """List the tapes that are not archived, of one session or of all."""
        return sorted(self.root.glob(f"tape/{session}/[0-9]*.tape"))

    def archived_tapes(self) -> list[Path]:
        """List the archived tapes of all sessions."""
        return sorted(self.root.glob("tape/*/[0-9]*.tape.zst"))

    def all_segments(self) -> list[Path]:
        """List all segments, sealed or not."""
        return sorted(self.root.glob("csv/*/*.csv*"))

    def kept_segments(self) -> list[Path]:
        """List the segments that are kept after they were published."""
        return sorted(self.root.glob("csv-kept/*/*.csv"))

    def compaction_leftovers(self) -> list[Path]:
        """List the staging folders of killed compactions."""
        return sorted(self.root.glob("compacting/date=*"))

    def open_segments(self, window: WindowId) -> list[Path]:
        """List the segments of a window that are not sealed."""
        return sorted(self.root.glob(f"csv/*/{window.stem}.csv{OPEN}"))

    def sealed_segments(self, window: WindowId | None = None) -> list[Path]:
        """List the segments, of one window or of all, that are sealed but not published."""
        return sorted(self.root.glob(f"csv/*/{window.stem if window else '*'}.csv"))

    def session_tapes(self, session: str) -> dict[WindowId, Path]:
        """Return the tapes of a session by window, in order; the better one where there are two."""
        folder = self.tapes(session)
        windows = {WindowId.of_tape(path) for path in folder.glob("[0-9]*.tape.zst")}
        windows |= {WindowId.of_tape(path) for path in folder.glob("[0-9]*.tape")}
        in_order = sorted(windows, key=attrgetter("number"))
        return {window: self.tape_of(window) for window in in_order}

    def tape_of(self, window: WindowId) -> Path:
        """Return the tape of a window, archived or not; the better one where there are two."""
        tape, archived = self.tape(window), self.archived_tape(window)
        if not tape.exists():
            return archived
        return better_tape(tape, archived) if archived.exists() else tape

    def tapes_aside(self, session: str) -> list[Path]:
        """List the tapes of a session that were set aside because they differ from the one kept."""
        return sorted(self.tapes(session).glob("[0-9]*.aside-*"))

    def temporaries(self, session: str) -> list[Path]:
        """List the temporary files of a session, in use or abandoned."""
        return [
            *self.tapes(session).glob(".*.tmp"),
            *self.converting.glob(f".{session}-*.tmp"),
            *self.sessions.glob(f".{session}.*.tmp"),
            *self.outbox(session).rglob(".*.tmp"),
        ]

    def orphaned_temporaries(self) -> list[Path]:
        """List temporary files and folders that belong to no single session."""
        return [
            *self.root.glob(".scratch.*"),
            *self.root.glob("tape/.*.tmp"),
            *self.converting.glob(".*.tmp"),
            *(path for pair in self.renames for each in pair for path in each.glob(".probe.*.tmp")),
            *self.root.glob("quarantine/.*.tmp"),
            *self.root.glob("repairs/.*.tmp"),
            *self.root.glob("repairs/staged/.*.tmp"),
        ]
