"""Import of a session of another data folder, under its own name.

Its tapes are copied, and recovery does the rest, as if the process had crashed here. The other
folder is only read. A session counts as imported once its folder of tapes has its name here.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from stocktrace.errors import StoreError
from stocktrace.record.file_hashes import hash_files
from stocktrace.record.recovery import RecoveredSession, recover_session
from stocktrace.record.tape_facts import read_tape_facts
from stocktrace.sessions.catalog import is_in_use, read_report
from stocktrace.store import files, lock
from stocktrace.store.audit import AuditLog
from stocktrace.store.coverage import write_coverage
from stocktrace.store.layout import Layout
from stocktrace.store.tape import TapeFrames, TapeReader, TapeWriter


def is_data_folder(folder: Path) -> bool:
    """Return True if sessions were recorded to ``folder``."""
    return (folder / "tape").is_dir() or (folder / "sessions").is_dir()


def check_session(other: Layout, session: str) -> None:
    """Raise ``StoreError`` if a session cannot be imported: it is running, or lacks a tape."""
    if is_in_use(other, session):
        raise StoreError(
            f"Session {session} of {other.root} is running: import it when it has ended."
        )
    report = read_report(other, session)
    tapes = {window.window for window in other.session_tapes(session)}
    if not tapes or (report is not None and not report.windows.keys() <= tapes):
        raise StoreError(
            f"Session {session} of {other.root} lacks tapes: copy its Parquet files instead, they "
            "are complete."
        )


def adopt_session(layout: Layout, other: Layout, session: str) -> RecoveredSession | None:
    """Publish a session of ``other``; ``None`` if another process is doing so, or has done so.

    Raises:
        StoreError: the session cannot be imported; nothing of it is published.
    """
    check_session(other, session)
    try:
        with (
            lock.hold_lock(layout.lock(session), {"session": session}),
            files.temporary_folder(layout.tapes(session)) as staged,
        ):
            if layout.has(session):
                return None
            for window, tape in other.session_tapes(session).items():
                _copy_tape(tape, staged / f"{window.window}.tape")
                name = layout.quarantine(window).name
                record = other.requeue_record(name)
                if record.exists():  # no row is requeued twice
                    text = record.read_text(encoding="utf-8")
                    files.replace_text(layout.requeue_record(name), text)
            files.publish_file(staged, layout.tapes(session))
            AuditLog(layout.audit, session)("adopt", source=str(other.root))
            _copy_report(layout, other, session)
    except BlockingIOError:
        return None
    return recover_session(layout, session)


def _copy_tape(tape: Path, copy: Path) -> None:
    """Copy a tape as a plain one, with its truncated last line: recovery counts that."""
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
        raise StoreError(f"{tape} is damaged: run `stocktrace verify` on that data folder.")


def _copy_report(layout: Layout, other: Layout, session: str) -> None:
    """Copy what the tapes do not have: settings, host, the reason of the end."""
    report = read_report(other, session)
    if report is None:  # recovery writes it
        return
    if report.state != "running":
        written = write_coverage(layout, session, read_tape_facts(layout, session).coverage.spans)
        hash_files(layout, report, written)  # recovery adds the hashes of the quarantine
    report.unpublished = sorted(report.windows)
    report.settings.pop("lake", None)  # the lake is that of this data folder
    report.write(layout.report(session))
