"""Putting quarantined rows back: repaired by hand, or after the schema was mended.

The rows become a session of their own, with a tape of its own in which each row is a frame received
when the refused one was. It goes through the code that records any tape, so what is still wrong is
refused again, and ``verify`` can check it. The quarantine file stays as it is; beside it
``.requeued`` tells of each line that was taken by which session, so that none is taken twice.

A line counts as taken from the moment in which the session's folder of tapes gets its name, all
tapes in it: before it, nothing has happened; after it, the session is recovered like any other.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stocktrace.deadline import SYSTEM_CLOCK, Clock
from stocktrace.errors import StoreError, UsageError, is_usage
from stocktrace.feed import wire
from stocktrace.record.delivery import deliver
from stocktrace.record.journal import Journal, new_report
from stocktrace.record.publish import publish
from stocktrace.record.recovery import IMPORTED
from stocktrace.report import Report
from stocktrace.store import files, lock
from stocktrace.store.audit import Audit
from stocktrace.store.layout import Layout
from stocktrace.store.names import Part, is_import, new_import, new_session
from stocktrace.store.quarantine import Refused, parse
from stocktrace.store.tape import TapeWriter
from stocktrace.store.window import RollPolicy

# One window a UTC day, of any size: these are few rows.
_A_DAY = RollPolicy(86_400.0, 1 << 62)


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a quarantine file; ``name`` tells it from all others, however its row is edited."""

    name: str
    refused: Refused


def requeue(layout: Layout, source: Path, clock: Clock = SYSTEM_CLOCK) -> Report | None:
    """Put the rows of a quarantine file, or of an edited copy, through the schema again.

    Gives the report of the session they became, or ``None`` if none of them was left to take.

    Raises:
        UsageError: the file cannot be read as quarantine.
        StoreError: another process is requeuing.
    """
    try:
        with lock.held(layout.lock("requeue"), {"source": source.name}):
            return _requeue(layout, source, clock)
    except BlockingIOError:
        raise StoreError("Another process is requeuing: wait until it is done.") from None


def _requeue(layout: Layout, source: Path, clock: Clock) -> Report | None:
    taken_path = layout.requeued(source.name)
    taken = _taken(layout, taken_path)
    lines = [line for line in _lines(source) if isinstance(line.refused.row, dict)]
    fresh = sorted(
        (line for line in lines if line.name not in taken), key=lambda line: line.refused.stamp
    )
    if not fresh:
        return None
    session = _name(source, clock)
    with lock.held(layout.lock(session), {"session": session}):
        symbols = {line.refused.row.get("s") for line in fresh}
        tickers = sorted(symbol for symbol in symbols if isinstance(symbol, str))
        bound: dict[str, str | int | float] = {"lake": layout.lake} if layout.lake else {}
        report = new_report(session, tickers, clock.wall(), bound)
        report.reason = f"requeued from {source.name}"
        with files.temporary_folder(layout.tapes(session)) as staged:
            parts = _write_tapes(staged, session, fresh)
            taken.update((line.name, session) for line in fresh)
            text = "".join(f"{name} {taken[name]}\n" for name in sorted(taken))
            files.replace_text(taken_path, text)
            files.publish(staged, layout.tapes(session))
        journal = Journal(layout, report, Audit(layout.audit, session, clock))
        journal.audit("requeue", source=source.name, rows=len(fresh))
        journal.save()
        for part in parts:
            report.unpublished.append(part.window)
            journal.published(publish(layout, part, whole=False))
        report.state = IMPORTED if is_import(session) else "complete"
        report.ended = report.started
        journal.save()
        deliver(layout, report, clock)
    return report


def _name(source: Path, clock: Clock) -> str:
    """What was imported stays marked as such."""
    if is_import(source.name.partition("-")[0]):
        return new_import(clock.wall(), secrets.token_hex(8))
    return new_session(clock.wall())


def _taken(layout: Layout, path: Path) -> dict[str, str]:
    """The lines that were taken, each with the session that has it."""
    if not path.exists():
        return {}
    told = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return {name: session for name, session in told if layout.has(session)}


def _lines(source: Path) -> Iterator[_Line]:
    try:
        # Not by splitlines: a row that was mended by hand may hold what Unicode takes for a line's
        # end and JSON does not.
        texts = source.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        kind = UsageError if is_usage(error) else StoreError
        raise kind(f"Cannot read {source}: {error}.") from error
    seen: Counter[tuple[int, bytes]] = Counter()
    try:
        for refused in parse(texts):
            stamp, frame = refused.stamp, refused.frame
            seen[stamp, frame] += 1  # a frame can hold several refused rows
            name = hashlib.blake2b(b"%d %d " % (seen[stamp, frame], stamp), digest_size=16)
            name.update(frame)
            yield _Line(name.hexdigest(), refused)
    except ValueError as error:
        raise UsageError(f"{source}, {error}") from error


def _write_tapes(folder: Path, session: str, lines: list[_Line]) -> list[Part]:
    parts: list[Part] = []
    tape: TapeWriter | None = None
    window = None
    for line in lines:
        stamp = line.refused.stamp
        if window is None or tape is None or _A_DAY.due(window, stamp, tape.size):
            if tape is not None:
                tape.close()
            window = _A_DAY.open(session, len(parts) + 1, stamp)
            parts.append(Part.of(window))
            tape = TapeWriter(folder / f"{parts[-1].window}.tape")
        tape.append(stamp, [wire.frame_of(line.refused.row)])
    if tape is not None:
        tape.close()
    return parts
