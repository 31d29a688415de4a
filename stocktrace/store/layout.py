"""Where everything stands on disk.

    <data-dir>/
      tape/<session>/<window>.tape                    raw frames and marks; .tape.zst once recorded
      tape/<session>/<window>.tape[.zst].aside-<n>    differs from the tape that was kept (``tape``)
      csv/<ticker>/<session>-<window>.csv.open        being appended to
      csv/<ticker>/<session>-<window>.csv             sealed: complete
      quarantine/<session>-<window>.jsonl[.open]      what was refused, and why
      quarantine/<session>-<window>.requeued          which of it was put back since
      quarantine/elsewhere.requeued                   the same of lines that no file here has
      sessions/<session>.json · .lock · .status       the report; the lock and status while live
      sessions/<session>.changes/                     changes of tickers on their way to it
      log/audit.jsonl                                 one line an event
      coverage/date=<UTC date>/<session>.parquet      when which ticker was listened to
      parquet/date=<UTC date>/symbol=<ticker>/<session>-<window>.parquet
      parquet/date=<UTC date>/symbol=<ticker>/day-<n>.parquet   once compacted; n counts how often
      parquet/date=<UTC date>/symbol=~/anchor.parquet   no rows; keeps numeric tickers text
      compacting/date=<UTC date>/symbol=<ticker>/       what is to take that folder's place
      converting/.<session>-*.tmp                       what is to become a published file
      .scratch.*.tmp/                                   windows that are recorded again, to compare
      csv-kept/<ticker>/<session>-<window>.csv          published; kept if ``csv_retention`` is set
      outbox/<session>/<name>                           what is still to be sent to the lake
      repairs/<session>.parquet                         gaps that the trades of an import repair
      repairs/asked.parquet                             what became of the gaps that none does
      repairs/staged/<digest>.parquet                   ticks on their way into a repair
      reconciled/date=<New York date>/completeness.parquet   what was recorded, beside the ticks

What ``<session>``, ``<window>`` and ``<ticker>`` look like is said in ``names``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stocktrace.settings import Settings
from stocktrace.store.names import OPEN, WindowId, decode_ticker, encode_ticker, is_session
from stocktrace.store.tape import better_tape


@dataclass(frozen=True, slots=True)
class Layout:
    """The data folder; ``keeps_csv`` says whether segments stay when they are published.

    ``lake`` is the URL of where published files are sent to, or empty.
    """

    root: Path
    keeps_csv: bool = False
    lake: str = ""

    @classmethod
    def from_settings(cls, settings: Settings) -> Layout:
        """The data folder of ``settings``."""
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

    def report(self, session: str) -> Path:
        """The report of a session."""
        return self.sessions / f"{session}.json"

    def lock(self, session: str) -> Path:
        """The lock that the process of a live session holds."""
        return self.sessions / f"{session}.lock"

    def status(self, session: str) -> Path:
        """How a live session stands, replaced twice a second; no ``.json``: those are reports."""
        return self.sessions / f"{session}.status"

    def ticker_requests(self, session: str) -> Path:
        """The folder through which a live session is asked for other tickers (``live.ticker_requests``)."""
        return self.sessions / f"{session}.changes"

    def tapes(self, session: str) -> Path:
        """The folder of a session's tapes."""
        return self.root / "tape" / session

    def tape(self, part: WindowId) -> Path:
        """The tape of a window that is not yet recorded whole."""
        return self.tapes(part.session) / f"{part.window}.tape"

    def archived_tape(self, part: WindowId) -> Path:
        """The compressed tape of a window that is recorded whole."""
        return self.tapes(part.session) / f"{part.window}.tape.zst"

    def csv(self, ticker: str, part: WindowId) -> Path:
        """The sealed segment of a ticker."""
        return self.root / "csv" / encode_ticker(ticker) / f"{part.stem}.csv"

    def open_csv(self, ticker: str, part: WindowId) -> Path:
        """The segment of a ticker that is being appended to."""
        return self.root / "csv" / encode_ticker(ticker) / f"{part.stem}.csv{OPEN}"

    def ticker_of_csv(self, path: Path) -> str:
        """The ticker whose segment ``path`` is."""
        return decode_ticker(path.parent.name)

    def kept_csv(self, ticker: str, part: WindowId) -> Path:
        """The segment of a ticker that is published and kept all the same."""
        return self.root / "csv-kept" / encode_ticker(ticker) / f"{part.stem}.csv"

    def partition(self, ticker: str, date: str) -> Path:
        """The folder of a ticker's published trades of a UTC date."""
        return self.dataset / f"date={date}" / f"symbol={encode_ticker(ticker)}"

    def parquet(self, ticker: str, part: WindowId) -> Path:
        """The published file of a ticker's window, until its day is compacted."""
        return self.partition(ticker, part.date) / f"{part.stem}.parquet"

    def compaction_staging(self, ticker: str, date: str) -> Path:
        """The folder that is to take the place of ``partition``.

        Outside the dataset, for DuckDB and polars read hidden folders, too.
        """
        return self.root / "compacting" / f"date={date}" / f"symbol={encode_ticker(ticker)}"

    def has(self, session: str) -> bool:
        """Whether a session is here, published or still to be recovered."""
        return self.tapes(session).is_dir() or self.report(session).exists()

    def all_sessions(self) -> list[str]:
        """The sessions that ``has`` tells of, the oldest first."""
        names = {path.name for path in self.root.glob("tape/*")}
        names |= {path.stem for path in self.sessions.glob("*.json")}
        return sorted(filter(is_session, names))

    def imported_sessions(self, digest: str) -> list[str]:
        """The sessions of what was imported or merged from a source: one, or none."""
        pattern = f"[0-9]*_{digest[:16]}_*"
        found = {path.name for path in self.root.glob(f"tape/{pattern}")}
        found |= {path.stem for path in self.sessions.glob(f"{pattern}.json")}
        return sorted(filter(is_session, found))

    def gap_fills(self, session: str) -> Path:
        """The gaps that an import repairs."""
        return self.root / "repairs" / f"{session}.parquet"

    @property
    def fill_requests(self) -> Path:
        """What became of the gaps that no import repairs."""
        return self.root / "repairs" / "asked.parquet"

    def staged_ticks(self, digest: str) -> Path:
        """Ticks that were fetched for a repair."""
        return self.root / "repairs" / "staged" / f"{digest}.parquet"

    def completeness(self, date: str) -> Path:
        """What was recorded of a New York date, beside the ticks."""
        return self.root / "reconciled" / f"date={date}" / "completeness.parquet"

    @property
    def converting(self) -> Path:
        """Where a file is written before it is published: outside the dataset, for the same reason.

        It must be of the dataset's file system: a rename is only there one step.
        """
        return self.root / "converting"

    @property
    def scratch(self) -> Path:
        """What the folders are called after that are thrown away (``files.temporary_folder``)."""
        return self.root / "scratch"

    @property
    def compaction_lock(self) -> Path:
        """The lock of whoever compacts, and of those who must not be disturbed by it."""
        return self.root / "compacting" / "compaction.lock"

    def coverage(self, session: str, date: str) -> Path:
        """When which tickers of a session were listened to, on a UTC date."""
        return self.root / "coverage" / f"date={date}" / f"{session}.parquet"

    def anchor(self, date: str) -> Path:
        """The file without rows that keeps numeric tickers text (``parquet.convert``)."""
        return self.dataset / f"date={date}" / "symbol=~" / "anchor.parquet"

    def outbox(self, session: str) -> Path:
        """What of a session is still to be sent to the lake (``outbox``)."""
        return self.root / "outbox" / session

    def quarantine(self, part: WindowId) -> Path:
        """What of a window was refused."""
        return self.root / "quarantine" / f"{part.stem}.jsonl"

    def requeue_record(self, quarantine: str) -> Path:
        """Which lines of the file called ``quarantine`` were put back, from it or from a copy."""
        return (self.root / "quarantine" / quarantine).with_suffix(".requeued")

    def dates(self) -> list[str]:
        """The UTC dates that something is published of."""
        return sorted(path.name.removeprefix("date=") for path in self.dataset.glob("date=*"))

    def plain_tapes(self, session: str = "*") -> list[Path]:
        """The tapes that are not archived, of one session or of all."""
        return sorted(self.root.glob(f"tape/{session}/[0-9]*.tape"))

    def archived_tapes(self) -> list[Path]:
        """The tapes of all sessions whose windows are recorded."""
        return sorted(self.root.glob("tape/*/[0-9]*.tape.zst"))

    def all_segments(self) -> list[Path]:
        """All segments, sealed or not; whatever they are called."""
        return sorted(self.root.glob("csv/*/*.csv*"))

    def all_sealed_segments(self) -> list[Path]:
        """Those that are sealed."""
        return sorted(self.root.glob("csv/*/*.csv"))

    def kept_segments(self) -> list[Path]:
        """Segments that are published and kept all the same."""
        return sorted(self.root.glob("csv-kept/*/*.csv"))

    def compaction_leftovers(self) -> list[Path]:
        """The folders that ``staged`` names, of compactions that were killed."""
        return sorted(self.root.glob("compacting/date=*/symbol=*"))

    def open_segments(self, part: WindowId) -> list[Path]:
        """The segments of a window that are not sealed."""
        return sorted(self.root.glob(f"csv/*/{part.stem}.csv{OPEN}"))

    def sealed_segments(self, part: WindowId) -> list[Path]:
        """The segments of a window that are sealed and not yet published."""
        return sorted(self.root.glob(f"csv/*/{part.stem}.csv"))

    def published_files(self, session: str, dates: Iterable[str]) -> Iterator[tuple[str, Path]]:
        """The published files of a session that lie under ``dates``, each with its ticker."""
        for date in sorted(dates):
            for path in sorted(self.dataset.glob(f"date={date}/symbol=*/{session}-*.parquet")):
                yield decode_ticker(path.parent.name.removeprefix("symbol=")), path

    def published_window(self, part: WindowId) -> list[Path]:
        """The published files of a window that lie under its date."""
        return sorted(self.dataset.glob(f"date={part.date}/symbol=*/{part.stem}.parquet"))

    def session_tapes(self, session: str) -> dict[WindowId, Path]:
        """The tapes of a session, one a window, in order; the better one where there are two."""
        folder = self.tapes(session)
        parts = {WindowId.of_tape(path) for path in folder.glob("[0-9]*.tape.zst")}
        parts |= {WindowId.of_tape(path) for path in folder.glob("[0-9]*.tape")}
        return {part: self.tape_of(part) for part in sorted(parts, key=lambda part: part.number)}

    def tape_of(self, part: WindowId) -> Path:
        """The tape of a window, archived or not; the better one where there are two."""
        tape, archived = self.tape(part), self.archived_tape(part)
        if not tape.exists():
            return archived
        return better_tape(tape, archived) if archived.exists() else tape

    def tapes_aside(self, session: str) -> list[Path]:
        """The tapes of a session that were set aside, because they differ from the one kept."""
        return sorted(self.tapes(session).glob("[0-9]*.aside-*"))

    def temporaries(self, session: str) -> list[Path]:
        """Files of a session that are being written, or were when their process ended."""
        return [
            *self.tapes(session).glob(".*.tmp"),
            *self.converting.glob(f".{session}-*.tmp"),
            *self.sessions.glob(f".{session}.*.tmp"),
            *self.outbox(session).rglob(".*.tmp"),
        ]

    def orphaned_temporaries(self) -> list[Path]:
        """The like of no one session; the folders are scratch, or tapes that were never begun."""
        return [
            *self.root.glob(".scratch.*"),
            *self.root.glob("tape/.*.tmp"),
            *self.converting.glob(".*.tmp"),
            *self.root.glob("quarantine/.*.tmp"),
            *self.root.glob("repairs/.*.tmp"),
            *self.root.glob("repairs/staged/.*.tmp"),
        ]
