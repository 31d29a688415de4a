"""A session of another data folder is published in this one, under its own name.

It was captured, and stays so: its tapes are copied, and recovery does the rest, as if its process
had died here. The other folder is only read. A session counts as adopted from the moment in which
its folder of tapes gets its name here.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from stocktrace.clock import SYSTEM_CLOCK, Clock
from stocktrace.errors import StoreError
from stocktrace.record.file_hashes import hash_files
from stocktrace.record.recovery import (
    RecoveredSession,
    coverage_from_tapes,
    recover_session,
)
from stocktrace.sessions.catalog import is_in_use, read_report
from stocktrace.store import files, lock
from stocktrace.store.audit import AuditLog
from stocktrace.store.coverage import write_coverage
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.tape import TapeFrames, TapeReader, TapeWriter


def is_data_folder(folder: Path) -> bool:
    """Whether a folder is one that sessions were recorded to."""
    return (folder / "tape").is_dir() or (folder / "sessions").is_dir()


def check_session(other: Layout, session: str) -> None:
    """See that a session can be adopted.

    Raises:
        StoreError: it is alive, or has not all its tapes.
    """
    if is_in_use(other, session):
        raise StoreError(f"Session {session} of {other.root} is alive: run it again when it ended.")
    report = read_report(other, session)
    tapes = {part.window for part in other.session_tapes(session)}
    if not tapes or (report is not None and not report.windows.keys() <= tapes):
        raise StoreError(
            f"Session {session} of {other.root} has not all its tapes any more: copy its Parquet "
            "files as they are, they are whole."
        )


def adopt_session(
    layout: Layout, other: Layout, session: str, clock: Clock = SYSTEM_CLOCK
) -> RecoveredSession | None:
    """Publish a session of ``other``; ``None`` if another process is at it, or has done it.

    Raises:
        StoreError: it cannot be; nothing of it is here.
    """
    check_session(other, session)
    try:
        with (
            lock.hold_lock(layout.lock(session), {"session": session}),
            files.temporary_folder(layout.tapes(session)) as staged,
        ):
            if layout.has(session):
                return None
            for part, tape in other.session_tapes(session).items():
                _copy(tape, staged / f"{part.window}.tape")
                _copy_requeued(layout, other, part)
            files.publish_file(staged, layout.tapes(session))
            AuditLog(layout.audit, session, clock)("adopt", source=str(other.root))
            _copy_report(layout, other, session)
    except BlockingIOError:
        return None
    return recover_session(layout, session, clock)


def _copy(tape: Path, copy: Path) -> None:
    """A tape as if it had not been archived; a torn end is copied, too, for recovery to count."""
    if tape.suffix == ".tape":
        shutil.copyfile(tape, copy)
        files.sync_file(copy)
        return
    writer, reader = TapeWriter(copy), TapeReader(tape)
    for entry in reader:
        if isinstance(entry, TapeFrames):
            writer.append(entry.stamp, entry.frames)
        else:
            writer.append_mark(entry)
    writer.close()
    if reader.damage or reader.invalid_lines or reader.torn_bytes:
        raise StoreError(f"{tape} is damaged: `stocktrace verify` tells more, there.")


def _copy_requeued(layout: Layout, other: Layout, part: WindowId) -> None:
    """Which refused rows were put back, so that none is put back twice."""
    name = layout.quarantine(part).name
    told, here = other.requeue_record(name), layout.requeue_record(name)
    if told.exists():
        files.replace_text(here, told.read_text(encoding="utf-8"))


def _copy_report(layout: Layout, other: Layout, session: str) -> None:
    """What the tapes do not tell: settings, host, words for a person.

    What is counted in it is counted again. A session that did not end has no coverage yet:
    recovery writes it, and one without a report from its tapes alone.
    """
    report = read_report(other, session)
    if report is None:
        return
    if report.state != "running":
        written = write_coverage(layout, session, coverage_from_tapes(layout, session)[0].intervals)
        hash_files(layout, report, written)  # recovery does it for the quarantine
    report.unpublished = sorted(report.windows)
    report.settings.pop("lake", None)  # where it was sent from there; ours is the layout's
    report.write(layout.report(session))
