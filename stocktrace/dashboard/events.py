"""What happened in a session and a person should see, from the audit log; and its gaps."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from stocktrace.intervals import CONNECTING
from stocktrace.sessions.report import GapReport
from stocktrace.store.layout import Layout
from stocktrace.text import count_of

# What a page shows; the log has the rest.
MAX_EVENTS = 200
# A connection usually takes less: not worth a line.
_CONNECTING_S = 1.0


class PageEvent(msgspec.Struct, frozen=True, array_like=True):
    """One line of the page: when (epoch s), of which kind (see ``_SAID``), in words."""

    at: float
    kind: str
    text: str


class GapSpan(msgspec.Struct, frozen=True, array_like=True):
    """A stretch (epoch s) without a connection; ``end`` is ``None`` while it lasts."""

    start: float
    end: float | None
    reason: str


class EventLog:
    """Follows the audit log of one session."""

    def __init__(self, layout: Layout, session: str) -> None:
        self._session = session
        self._log = _AuditTail(layout.audit, session)
        self.lines: list[PageEvent] = []
        self.outages: list[GapSpan] = []
        self._lost: GapSpan | None = None
        self._tickers: set[str] = set()
        #: Gaps of each ticker, and why one is not served.
        self.gaps: Counter[str] = Counter()
        self.refused: dict[str, str] = {}
        self._was_connected = False

    def read(self) -> None:
        """Take in what was logged since the last look."""
        for record in self._log.look():
            self._add_record(record)

    def add(self, at: float, kind: str, text: str) -> None:
        """A line that is not of the log."""
        self.lines.append(PageEvent(at, kind, text))

    def gap_bands(self, report: list[GapReport] | None) -> list[GapSpan]:
        """The gaps so far; those of the ``report`` of a session that is over, which knows best."""
        if report is not None:
            return [GapSpan(g.start.timestamp(), g.end.timestamp(), g.reason) for g in report]
        return [*self.outages, *([self._lost] if self._lost else [])]

    def _add_record(self, record: dict[str, Any]) -> None:
        at, name = datetime.fromisoformat(record["at"]).timestamp(), record["event"]
        if name in ("start", "connect"):
            self._tickers |= set(record["tickers"])
        elif name == "subscribe":
            self._tickers = (self._tickers | set(record["added"])) - set(record["removed"])
        elif name == "refused":
            self.refused[record["ticker"]] = record["text"]
        elif name == "disconnect":
            self._lost = GapSpan(at, None, record["reason"])
        elif name == "gap":
            self._end_gap(record)
        if (text := self._sentence(name, record)) is not None:
            self.add(at, name, text)

    def _end_gap(self, record: dict[str, Any]) -> None:
        start, end = (datetime.fromisoformat(record[name]) for name in ("start", "end"))
        self.outages.append(GapSpan(start.timestamp(), end.timestamp(), record["reason"]))
        self._lost = None
        self.gaps.update(self._tickers - self.refused.keys())

    def _sentence(self, name: str, record: dict[str, Any]) -> str | None:
        if name == "start":
            return f"capture of {count_of(len(record['tickers']), 'ticker')} began"
        if name == "connect":
            was, self._was_connected = self._was_connected, True
            tickers = count_of(len(record["tickers"]), "ticker")
            return f"connected{' again' if was else ''}, {tickers}"
        if name == "gap":
            seconds = self.outages[-1].end - self.outages[-1].start  # type: ignore[operator]
            if record["reason"] == CONNECTING and seconds < _CONNECTING_S:
                return None
            return f"not listening for {seconds:.1f} s: {record['reason']}"
        if name == "recover":
            return f"recovered, {count_of(record['rows'], 'trade')} published"
        said = _SENTENCES.get(name)
        return None if said is None else said.format_map(_MissingFacts(record))


#: The other kinds that a page shows, and what it says of them; all else in the log is routine.
_SENTENCES = {
    "disconnect": "{reason}",
    "subscribe": "tickers added: {added}, removed: {removed}",
    "refused": "{ticker} is refused: {text}",
    "error": "the server says: {text}",
    "notice": "{text}",
    "spill": "window {window}: overload, its trades are had from the tape",
    "failure": "window {window} is not published: {error}",
    "end": "{state}: {reason}",
}


class _MissingFacts(dict[str, Any]):
    """Words for a sentence; what a line of the log lacks is left out, a list is joined."""

    def __missing__(self, key: str) -> str:
        return "…"

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key) if key in self else self.__missing__(key)
        return (" ".join(value) or "none") if isinstance(value, list) else value


class _AuditTail:
    """The lines of one session in the audit log and its rotated parts, each once."""

    def __init__(self, path: Path, session: str) -> None:
        self._path, self._session = path, session.encode()
        began = f"audit-{session[:15]}"
        # A part is called after the time of its last line.
        older = sorted(path.parent.glob("audit-*.jsonl"))
        self._parts = [part for part in older if part.stem[: len(began)] >= began]
        self._inode = 0
        self._offset = 0

    def look(self) -> Iterator[dict[str, Any]]:
        """What was written since."""
        while self._parts:
            yield from self._decoded(self._parts.pop(0).read_bytes())
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            inode = os.fstat(file.fileno()).st_ino
            if self._inode not in (0, inode):
                yield from self._rotated()
            self._inode = inode
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        yield from self._decoded(whole)

    def _rotated(self) -> Iterator[dict[str, Any]]:
        """The rest of the file that had the log's name at the last look."""
        for part in sorted(self._path.parent.glob("audit-*.jsonl"), reverse=True):
            if part.stat().st_ino == self._inode:
                yield from self._decoded(part.read_bytes()[self._offset :])
                break
        self._offset = 0

    def _decoded(self, data: bytes) -> Iterator[dict[str, Any]]:
        for line in data.split(b"\n"):
            if self._session in line:
                try:
                    record = msgspec.json.decode(line)
                except msgspec.DecodeError:
                    continue  # torn by a power cut: `stocktrace audit` tells of it
                if isinstance(record, dict) and record.get("session") == self._session.decode():
                    yield record
