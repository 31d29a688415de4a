"""The origin of a quarantine line, whatever the name of its file, and the session that requeued it.

A line is identified by its content: the receive time of its frame, the frame, and its number among
the refused rows of the frame. Its origin is the quarantine file that has this line. Beside that
file, ``.requeued`` records which session requeued which line; ``elsewhere.requeued`` does so for
lines that no quarantine file of the data folder has.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stocktrace.errors import LayoutError, StoreError, UsageError, describe, usage_or
from stocktrace.store import files
from stocktrace.store.layout import Layout
from stocktrace.store.names import OPEN, WindowId
from stocktrace.store.quarantine import QuarantinedRow, parse_quarantine
from stocktrace.store.window import compact_utc

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


def read_quarantine_lines(path: Path) -> Iterator[QuarantineLine]:
    """Read the lines of a quarantine file, or of an edited copy.

    Raises:
        UsageError: it is not a quarantine file.
    """
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
            stamp, frame = refused.stamp, refused.frame
            seen[stamp, frame] += 1  # a frame can hold several refused rows
            name = hashlib.blake2b(b"%d %d " % (seen[stamp, frame], stamp), digest_size=16)
            name.update(frame)
            yield QuarantineLine(name.hexdigest(), refused)
    except ValueError as error:
        raise UsageError(f"{path}, {error}") from error


def find_origins(
    layout: Layout, source: Path, lines: Sequence[QuarantineLine]
) -> dict[str, list[str]]:
    """Find the quarantine files that have each line: their stems, by the line's name.

    If ``source`` has the name of such a file, that file is the origin of its lines.

    Raises:
        UsageError: ``source`` lacks a line of a frame, so the others cannot be identified.
    """
    origins: dict[str, list[str]] = {}
    namesake = _window_of(source)
    if namesake is not None:
        names = _common_lines(layout, namesake, source, lines)
        origins |= {name: [namesake.stem] for name in names}
    unknown = [line.refused.stamp for line in lines if line.name not in origins]
    others: dict[str, list[str]] = {}
    # The frames of a window were received on one UTC date, which is in its name.
    for day in sorted({compact_utc(stamp)[:8] for stamp in unknown}):
        for part in _quarantined_windows(layout, day):
            for name in _common_lines(layout, part, source, lines):
                others.setdefault(name, []).append(part.stem)
    return others | origins


def _window_of(path: Path) -> WindowId | None:
    with contextlib.suppress(LayoutError):
        return WindowId.parse(path)
    return None


def _quarantined_windows(layout: Layout, day: str) -> list[WindowId]:
    """The windows of a UTC date that have a quarantine file."""
    parts = map(_window_of, layout.root.glob(f"quarantine/*-{day}T*.jsonl*"))
    return sorted({part for part in parts if part is not None}, key=lambda part: part.stem)


def _common_lines(
    layout: Layout, part: WindowId, source: Path, lines: Sequence[QuarantineLine]
) -> set[str]:
    """The names of those ``lines`` that are in the quarantine file of a window."""
    path = layout.quarantine(part)
    path = path if path.exists() else path.with_name(path.name + OPEN)
    if not path.exists():
        return set()
    names, frames = {line.name for line in lines}, {line.frame for line in lines}
    common = set()
    for line in read_quarantine_lines(path):
        if line.name in names:
            common.add(line.name)
        elif line.frame in frames:
            raise UsageError(
                f"{source} lacks lines of a frame that {path} has: copy all lines of a frame, in "
                "their order."
            )
    return common


class RequeueLedger:
    """Records which lines of a file were requeued, and by which session."""

    def __init__(self, layout: Layout, source: Path, lines: Sequence[QuarantineLine]) -> None:
        self._layout = layout
        self._source = source
        self._origins = find_origins(layout, source, lines)
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
        return all(self._was_requeued(line, stem) for stem in stems)

    def _was_requeued(self, line: QuarantineLine, stem: str) -> bool:
        if line.name in self._entries(stem):
            return True
        # It may have been requeued before its origin was imported. But a session that began later
        # has the line because the row was refused again.
        return stem < self._entries(_ELSEWHERE).get(line.name, "")

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
