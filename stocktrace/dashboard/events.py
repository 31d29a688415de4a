"""The events of a session that the page shows, and its gaps, from the audit log."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from stocktrace.intervals import CONNECTING
from stocktrace.store.layout import Layout
from stocktrace.text import count_of

# The page shows the newest; the log has all.
MAX_EVENTS = 200
# A gap at the start that is shorter is not shown.
_CONNECTING_S = 1.0


class PageEvent(msgspec.Struct, frozen=True, array_like=True):
    """One line of the page: its time (epoch s), the name of the audit event, and a text."""

    at: float
    kind: str
    text: str


class GapSpan(msgspec.Struct, frozen=True, array_like=True):
    """A gap (epoch s); ``end`` is ``None`` while it lasts."""

    start: float
    end: float | None
    reason: str


class EventLog:
    """The events and gaps of one session, read from the audit log."""

    def __init__(self, layout: Layout, session: str) -> None:
        self._session = session
        self._log = _AuditTail(layout.audit, session)
        self.lines: list[PageEvent] = []
        #: Number of gaps of each ticker.
        self.gaps_by_ticker: Counter[str] = Counter()
        #: Tickers that Finnhub refused, with its text.
        self.refused: dict[str, str] = {}
        self._tickers: set[str] = set()
        self._gaps: list[GapSpan] = []
        self._open_gap: GapSpan | None = None
        self._was_connected = False

    def read(self) -> None:
        """Read what was logged since the last read."""
        for record in self._log.read():
            self._add_record(record)

    def add(self, at: float, kind: str, text: str) -> None:
        """Add a line that is not in the log."""
        self.lines.append(PageEvent(at, kind, text))

    @property
    def gaps(self) -> list[GapSpan]:
        """The gaps so far, an open one last."""
        return [*self._gaps, *([self._open_gap] if self._open_gap else [])]

    def _add_record(self, record: dict[str, Any]) -> None:
        at, name = datetime.fromisoformat(record["at"]).timestamp(), record["event"]
        if name in ("start", "connect"):
            self._tickers |= set(record["tickers"])
        elif name == "subscribe":
            self._tickers = (self._tickers | set(record["added"])) - set(record["removed"])
        elif name == "refused":
            self.refused.update(dict.fromkeys(record["tickers"], record["text"]))
        elif name == "disconnect":
            start = datetime.fromisoformat(record.get("start", record["at"])).timestamp()
            self._open_gap = GapSpan(start, None, record["reason"])
        elif name == "gap":
            self._add_gap(record)
        if (text := self._describe(name, record)) is not None:
            self.add(at, name, text)

    def _add_gap(self, record: dict[str, Any]) -> None:
        start, end = (datetime.fromisoformat(record[name]) for name in ("start", "end"))
        self._gaps.append(GapSpan(start.timestamp(), end.timestamp(), record["reason"]))
        self._open_gap = None
        self.gaps_by_ticker.update(self._tickers - self.refused.keys())

    def _describe(self, name: str, record: dict[str, Any]) -> str | None:
        if name == "start":
            return f"capture of {count_of(len(record['tickers']), 'ticker')} started"
        if name == "connect":
            word = "reconnected" if self._was_connected else "connected"
            self._was_connected = True
            return f"{word}, {count_of(len(record['tickers']), 'ticker')}"
        if name == "gap":
            seconds = self._gaps[-1].end - self._gaps[-1].start  # type: ignore[operator]
            if record["reason"] == CONNECTING and seconds < _CONNECTING_S:
                return None
            return f"gap of {seconds:.1f} s: {record['reason']}"
        if name == "recover":
            return f"recovered, {count_of(record['rows'], 'trade')} published"
        return _fill(_SENTENCES[name], record) if name in _SENTENCES else None


#: The other events that the page shows, as sentences; the rest of the log is routine.
_SENTENCES = {
    "disconnect": "{reason}",
    "subscribe": "tickers added: {added}, removed: {removed}",
    "refused": "{tickers} is refused: {text}",
    "error": "the server says: {text}",
    "notice": "{text}",
    "spill": "window {window}: validation fell behind; it will be rebuilt from the tape",
    "failure": "window {window} was not published: {error}",
    "end": "{state}: {reason}",
}


def _fill(sentence: str, record: dict[str, Any]) -> str:
    """Fill a sentence with the facts of an event; a missing one is "…", a list is joined."""
    facts = defaultdict(lambda: "…", record)
    for name, value in record.items():
        if isinstance(value, list):
            facts[name] = " ".join(value) or "none"
    return sentence.format_map(facts)


class _AuditTail:
    """Reads the lines of one session in the audit log and its rotated parts, each once."""

    def __init__(self, path: Path, session: str) -> None:
        self._path, self._session = path, session.encode()
        began = f"audit-{session[:15]}"
        # A part is named after the time of its last line.
        older = sorted(path.parent.glob("audit-*.jsonl"))
        self._parts = [part for part in older if part.stem[: len(began)] >= began]
        self._inode = 0
        self._offset = 0

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield what was written since the last read."""
        while self._parts:
            yield from self._decode(self._parts.pop(0).read_bytes())
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            inode = os.fstat(file.fileno()).st_ino
            if self._inode not in (0, inode):
                yield from self._read_rotated()
            self._inode = inode
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        yield from self._decode(whole)

    def _read_rotated(self) -> Iterator[dict[str, Any]]:
        """Yield the rest of the file that was the log at the last read."""
        for part in sorted(self._path.parent.glob("audit-*.jsonl"), reverse=True):
            if part.stat().st_ino == self._inode:
                yield from self._decode(part.read_bytes()[self._offset :])
                break
        self._offset = 0

    def _decode(self, data: bytes) -> Iterator[dict[str, Any]]:
        for line in data.split(b"\n"):
            if self._session in line:
                try:
                    record = msgspec.json.decode(line)
                except msgspec.DecodeError:
                    continue  # truncated by a power cut: `stocktrace audit` reports it
                if isinstance(record, dict) and record.get("session") == self._session.decode():
                    yield record
