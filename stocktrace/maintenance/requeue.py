"""Requeue of quarantined rows that were corrected by hand, or that a new schema accepts.

The rows become a session of their own (``importing.importer``), each received when the refused
frame was; rows that are still invalid are refused again. The quarantine file stays as it is.

No line is requeued twice, from any copy. A line is identified by its content: the receive time of
its frame, the frame, and its number among the refused rows of the frame. Its origin is the
quarantine file that has this line. Beside that file, ``.requeued`` records which session requeued
which line; ``elsewhere.requeued`` does so for lines that no quarantine file of the data folder has.
A line counts as requeued once the session's folder of tapes has its name.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stocktrace.clock import SYSTEM_CLOCK, Clock
from stocktrace.errors import LayoutError, StoreError, UsageError, describe, usage_or
from stocktrace.feed import protocol
from stocktrace.importing.importer import ImportOrigin, SessionTapes, publish_tapes
from stocktrace.sessions.report import SessionReport, SessionState
from stocktrace.store import files, lock
from stocktrace.store.layout import Layout
from stocktrace.store.names import OPEN, WindowId, compact_utc, is_import, new_import, new_session
from stocktrace.store.quarantine import QuarantinedRow, parse_quarantine
from stocktrace.text import encodable

_ELSEWHERE = "elsewhere"


@dataclass(frozen=True, slots=True)
class QuarantineLine:
    """A line of a quarantine file; ``name`` identifies it, even if its row was edited."""

    name: str
    refused: QuarantinedRow

    @property
    def frame(self) -> tuple[int, bytes]:
        """The receive time and the text of its frame."""
        return self.refused.stamp, self.refused.frame


def requeue_rows(layout: Layout, source: Path, clock: Clock = SYSTEM_CLOCK) -> SessionReport | None:
    """Validate the rows of a quarantine file, or of an edited copy, again.

    Returns the report of their session, or ``None`` if all were requeued before.

    Raises:
        UsageError: it is not a quarantine file, lacks a line of a frame, or two files have a line.
        StoreError: another process is requeuing.
    """
    try:
        with lock.hold_lock(layout.lock("requeue"), {"source": source.name}):
            return _requeue_locked(layout, source, clock)
    except BlockingIOError:
        raise StoreError("Another process is requeuing: wait until it is done.") from None


def _requeue_locked(layout: Layout, source: Path, clock: Clock) -> SessionReport | None:
    lines = list(_read_lines(source))
    ledger = RequeueLedger(layout, source, lines)
    fresh = sorted(
        (line for line in lines if isinstance(line.refused.row, dict) and not ledger.has(line)),
        key=lambda line: line.refused.stamp,
    )
    if not fresh:
        return None
    name = encodable(source.name)
    facts = {"source": name}
    session = _session_name([source.name, *map(ledger.origin, fresh)], clock)
    with lock.hold_lock(layout.lock(session), {"session": session}):
        with files.temporary_folder(layout.tapes(session)) as staged:
            tapes = SessionTapes(staged, ImportOrigin("", facts, f"requeued from {name}"))
            tapes.write(
                [[(line.refused.stamp, protocol.frame_of(line.refused.row)) for line in fresh]]
            )
            ledger.add(fresh, session)
            files.publish_file(staged, layout.tapes(session))
        state: SessionState = "imported" if is_import(session) else "complete"
        return publish_tapes(
            layout, session, tapes, clock, state=state, event="requeue", rows=len(fresh)
        )


def _session_name(origins: Iterable[str], clock: Clock) -> str:
    """Return a new name; rows of an import stay marked as imported."""
    if any(is_import(origin.partition("-")[0]) for origin in origins):
        return new_import(clock.wall(), secrets.token_hex(8))
    return new_session(clock.wall())


def _read_lines(path: Path) -> Iterator[QuarantineLine]:
    try:
        # Not splitlines: an edited row may contain characters that end a line in Unicode, but not
        # in JSON.
        texts = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise usage_or(StoreError, error)(f"Cannot read {describe(error, path)}.") from error
    if path.suffix == OPEN:
        texts.pop()  # the last line may not be complete yet
    seen: Counter[tuple[int, bytes]] = Counter()
    try:
        for refused in parse_quarantine(texts):
            frame = refused.stamp, refused.frame
            seen[frame] += 1  # a frame can hold several refused rows
            text = b"%d %d %b" % (seen[frame], *frame)
            name = hashlib.blake2b(text, digest_size=16)
            yield QuarantineLine(name.hexdigest(), refused)
    except ValueError as error:
        raise UsageError(f"{path}, {error}") from error


class RequeueLedger:
    """Records which lines of a file were requeued, and by which session."""

    def __init__(self, layout: Layout, source: Path, lines: Sequence[QuarantineLine]) -> None:
        self._layout = layout
        self._source = source
        self._lines = {line.name: line for line in lines}
        self._origins = self._find_origins()
        self._loaded: dict[str, dict[str, str]] = {}

    def origin(self, line: QuarantineLine) -> str:
        """Return the stem of the file that a line comes from.

        Raises:
            UsageError: two files have the line.
        """
        stem, *others = self._origins.get(line.name, [_ELSEWHERE])
        if others:
            raise UsageError(
                f"{self._source} has a row of both {stem}.jsonl and {others[0]}.jsonl: name the "
                "copy after the file that it was copied from."
            )
        return stem

    def has(self, line: QuarantineLine) -> bool:
        """Return True if a line was requeued; if several files have it, from all of them."""
        if line.name in self._entries(self._source.name):
            return True  # earlier versions recorded it under the name of the copy
        stems = self._origins.get(line.name, [_ELSEWHERE])
        # It may have been requeued before its origin was imported. But a session that began later
        # has the line because the row was refused again.
        elsewhere = self._entries(_ELSEWHERE).get(line.name, "")
        return all(line.name in self._entries(stem) or stem < elsewhere for stem in stems)

    def add(self, lines: Iterable[QuarantineLine], session: str) -> None:
        """Record that ``session`` requeues ``lines``; it counts once the session exists."""
        stems = set()
        for line in lines:
            stem = self.origin(line)
            self._entries(stem)[line.name] = session
            stems.add(stem)
        for stem in sorted(stems):
            entries = self._entries(stem)
            text = "".join(f"{name} {entries[name]}\n" for name in sorted(entries))
            files.replace_text(self._layout.requeue_record(stem), text)

    def _entries(self, name: str) -> dict[str, str]:
        """The requeued lines of a file, each with the session that requeued it."""
        if name not in self._loaded:
            path = self._layout.requeue_record(name)
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            entries = (entry.split() for entry in text.splitlines())
            self._loaded[name] = {
                line: session for line, session in entries if self._layout.has(session)
            }
        return self._loaded[name]

    def _find_origins(self) -> dict[str, list[str]]:
        """The stems of the quarantine files that have each line, by the line's name.

        If the source has the name of such a file, that file is the origin of its lines.
        """
        namesake = _window_of(self._source)
        own = self._common_lines(namesake) if namesake is not None else set()
        # The frames of a window were received on one UTC date, which is in its name.
        dates = {
            compact_utc(line.refused.stamp)[:8]
            for line in self._lines.values()
            if line.name not in own
        }
        origins: dict[str, list[str]] = {}
        for date in sorted(dates):
            paths = self._layout.root.glob(f"quarantine/*-{date}T*.jsonl*")
            parts = {part for part in map(_window_of, paths) if part is not None}
            for part in sorted(parts, key=lambda part: part.stem):
                for name in self._common_lines(part):
                    origins.setdefault(name, []).append(part.stem)
        if namesake is not None:
            origins |= {name: [namesake.stem] for name in own}
        return origins

    def _common_lines(self, part: WindowId) -> set[str]:
        """The names of the source's lines that the quarantine file of a window has, too."""
        path = self._layout.quarantine(part)
        path = path if path.exists() else path.with_name(path.name + OPEN)
        if not path.exists():
            return set()
        frames = {line.frame for line in self._lines.values()}
        common = set()
        for line in _read_lines(path):
            if line.name in self._lines:
                common.add(line.name)
            elif line.frame in frames:
                raise UsageError(
                    f"{self._source} lacks lines of a frame that {path} has: copy all lines of a "
                    "frame, in their order."
                )
        return common


def _window_of(path: Path) -> WindowId | None:
    with contextlib.suppress(LayoutError):
        return WindowId.parse(path)
    return None
