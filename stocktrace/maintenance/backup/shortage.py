"""Comparisons that keep a backup from losing what it has: no file is replaced by less."""

from __future__ import annotations

from pathlib import Path

from stocktrace.errors import ConversionError, TapeError
from stocktrace.maintenance.backup.data_files import (
    AUDIT_LOG,
    FileState,
    OpenedFile,
    is_plain_tape,
    is_report_lines,
    open_listed,
)
from stocktrace.maintenance.backup.manifest import Copy, Entry
from stocktrace.sessions.report import SessionReport
from stocktrace.store.dataset import hash_windows
from stocktrace.store.footer import read_windows
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, is_day_file
from stocktrace.store.tape import hash_tape


def find_shortage(layout: Layout, copy: Copy, name: str, file: OpenedFile, old: Entry) -> str:
    """Describe how a file that has changed is worse than that of the backup; "" if it is not.

    Tapes, the audit log and the lines of a report only grow. A repair replaces a published file.
    """
    path = layout.root / name
    try:
        if name == AUDIT_LOG or is_plain_tape(name) or is_report_lines(name):
            is_longer = begins_with(file, old) or (name == AUDIT_LOG and is_rotated(layout, old))
            return "" if is_longer else "lacks lines that the backup has"
        if name.endswith(".tape.zst"):
            with copy.local(name, old) as copied:
                size, digest = hash_tape(copied)
            is_longer = hash_tape(path, size) == (size, digest)
            return "" if is_longer else "lacks frames that the backup has"
        if name.startswith("parquet/"):
            held = hash_windows([path])
            is_whole = is_day_file(path) or held == read_windows(path)
            return "" if is_whole else "does not match its footer"
        if name.startswith("sessions/"):
            SessionReport.read(path)
    except (TapeError, ConversionError, ValueError) as error:
        return f"is damaged ({str(error).rstrip('.')})"
    return ""


def begins_with(file: OpenedFile, old: Entry) -> bool:
    """Return whether a file begins with the bytes of a file in the backup."""
    return file.length >= old.length and file.hash(old.length) == old.hash


def is_rotated(layout: Layout, old: Entry) -> bool:
    """Return whether the log of the backup was renamed, and continued in another file."""
    for path in layout.audit.parent.glob("audit-*.jsonl"):
        with open_listed(path.parent, path.name, FileState.of(path.stat())) as file:
            if begins_with(file, old):
                return True
    return False


def has_whole_report(root: Path, lines: str) -> bool:
    """Return whether a folder has a report that lacks nothing without these lines of it."""
    try:
        SessionReport.read((root / lines).with_suffix(".json"))
    except (FileNotFoundError, ValueError):
        return False
    return True


def windows_of(path: Path) -> set[WindowId]:
    """Return the windows of a published file: that of its name, or those of a compacted date.

    Raises:
        ConversionError: the footer of a compacted file cannot be read.
    """
    return set(read_windows(path)) if is_day_file(path) else {WindowId.parse(path)}
