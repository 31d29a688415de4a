"""Where a line of quarantine comes from, however its file is called, and who put it back.

A line is known by what it holds: when its frame was received, the frame, and which of the frame's
refused rows it is. The quarantine file that has this line is its origin. Beside it ``.requeued``
says which session took which line. ``elsewhere.requeued`` says so of lines that no quarantine file
of the data folder has.
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
    """A line of a quarantine file; ``name`` tells it from all others, however its row is edited."""

    name: str
    refused: QuarantinedRow

    @property
    def frame(self) -> tuple[int, bytes]:
        """The frame that it is a row of."""
        return self.refused.stamp, self.refused.frame


def read_quarantine_lines(path: Path) -> Iterator[QuarantineLine]:
    """The lines of a quarantine file, or of an edited copy.

    Raises:
        UsageError: it cannot be read as quarantine.
    """
    try:
        # Not by splitlines: a row that was mended by hand may hold what Unicode takes for a line's
        # end and JSON does not.
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
    """The stems of the quarantine files that have a line, by the line's name.

    If ``source`` has the name of such a file, that one is the origin of the lines in it.

    Raises:
        UsageError: ``source`` lacks a line of a frame: which of the frame's rows the others are
            cannot be told.
    """
    found: dict[str, list[str]] = {}
    named = _part(source)
    if named is not None:
        found |= {name: [named.stem] for name in _held(layout, named, source, lines)}
    strays = [line.refused.stamp for line in lines if line.name not in found]
    others: dict[str, list[str]] = {}
    # The frames of a window were received on one UTC date, which is in its name.
    for day in sorted({compact_utc(stamp)[:8] for stamp in strays}):
        for part in _quarantined(layout, day):
            for name in _held(layout, part, source, lines):
                others.setdefault(name, []).append(part.stem)
    return others | found


def _part(path: Path) -> WindowId | None:
    with contextlib.suppress(LayoutError):
        return WindowId.parse(path)
    return None


def _quarantined(layout: Layout, day: str) -> list[WindowId]:
    """The windows of a UTC date that have a quarantine file."""
    parts = map(_part, layout.root.glob(f"quarantine/*-{day}T*.jsonl*"))
    return sorted({part for part in parts if part is not None}, key=lambda part: part.stem)


def _held(
    layout: Layout, part: WindowId, source: Path, lines: Sequence[QuarantineLine]
) -> set[str]:
    """The names of those of ``lines`` that the quarantine of a window has."""
    path = layout.quarantine(part)
    path = path if path.exists() else path.with_name(path.name + OPEN)
    if not path.exists():
        return set()
    names, frames = {line.name for line in lines}, {line.frame for line in lines}
    found = set()
    for line in read_quarantine_lines(path):
        if line.name in names:
            found.add(line.name)
        elif line.frame in frames:
            raise UsageError(
                f"{source} lacks a line of a frame that {path} has with more lines: copy all lines "
                "of a frame, in their order."
            )
    return found


class RequeueLedger:
    """Which lines of a file were taken, and by which session; ``take`` notes more of them."""

    def __init__(self, layout: Layout, source: Path, lines: Sequence[QuarantineLine]) -> None:
        self._layout = layout
        self._source = source
        self._origins = find_origins(layout, source, lines)
        self._records: dict[str, dict[str, str]] = {}

    def origin(self, line: QuarantineLine) -> str:
        """The stem of the file that a line comes from.

        Raises:
            UsageError: two files have it.
        """
        stem, *others = self._origins.get(line.name, [_ELSEWHERE])
        if others:
            raise UsageError(
                f"{self._source} has a row that {stem}.jsonl has and {others[0]}.jsonl, too: give "
                "the copy the name of the file that it is a copy of."
            )
        return stem

    def has(self, line: QuarantineLine) -> bool:
        """Whether a line was taken; if several files have it, from all of them."""
        if line.name in self._record(self._source.name):
            return True  # earlier versions noted it under the name of the copy
        stems = self._origins.get(line.name, [_ELSEWHERE])
        return all(self._was_taken(line, stem) for stem in stems)

    def _was_taken(self, line: QuarantineLine, stem: str) -> bool:
        if line.name in self._record(stem):
            return True
        # It may have been taken before its origin came to this folder. But a session that began
        # later has the line because the row was refused again.
        return stem < self._record(_ELSEWHERE).get(line.name, "")

    def take(self, lines: Iterable[QuarantineLine], session: str) -> None:
        """Note that ``session`` has ``lines``; it counts once the session is there."""
        stems = set()
        for line in lines:
            stem = self.origin(line)
            self._record(stem)[line.name] = session
            stems.add(stem)
        for stem in sorted(stems):
            taken = self._record(stem)
            text = "".join(f"{name} {taken[name]}\n" for name in sorted(taken))
            files.replace_text(self._layout.requeue_record(stem), text)

    def _record(self, name: str) -> dict[str, str]:
        """The lines that were taken, each with the session that has it."""
        if name not in self._records:
            path = self._layout.requeue_record(name)
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            told = (line.split() for line in text.splitlines())
            self._records[name] = {
                name: session for name, session in told if self._layout.has(session)
            }
        return self._records[name]
