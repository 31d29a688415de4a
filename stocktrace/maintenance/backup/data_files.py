"""The files of a data folder that a backup copies, as they are at one moment.

A capture, a recovery and a compaction may run. They move rows from file to file: from the tape to
CSV, from CSV to Parquet, from a window's file to that of its date. The folders are therefore listed
in that order, after the reports: whatever leaves one folder is found in the next one, and no report
lists a window whose tape is missing. The audit log is last: each deletion is in it before.

Locks, temporary files, the status and caches are left out. So are the segments and the quarantine
of a window that is being recorded: its tape is copied up to the last complete line, and
`stocktrace recover` writes them again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from stocktrace.record.tape_repair import last_line_end
from stocktrace.store.layout import Layout
from stocktrace.store.names import OPEN

#: The folders in the order in which they are listed.
FOLDERS = (
    "sessions", "tape", "csv", "csv-kept", "quarantine", "parquet", "coverage", "repairs",
    "reconciled", "outbox", "log",
)  # fmt: skip
AUDIT_LOG = "log/audit.jsonl"
PIECE_BYTES = 1 << 20


class FileState(NamedTuple):
    """The facts by which a change is noticed: size (bytes), time (epoch ns) and inode."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        """Return the state of a file."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


class SourceChanged(Exception):
    """A file was replaced or deleted after it was listed: list the folder again."""


class UnreadableFile(Exception):
    """A file of the data folder cannot be read; ``str()`` says why."""


def list_files(layout: Layout) -> dict[str, FileState]:
    """Return the files to copy, by their path in the data folder, which uses ``/``."""
    while True:
        before = _taped_windows(layout)
        entries = (entry for folder in FOLDERS for entry in _walk(layout.root, folder))
        found = {name: state for name, state in entries if _is_copied(name)}
        # Windows that began during the listing are not in it, whatever was found of them.
        begun = _taped_windows(layout) - before - set(map(_window_of, filter(_is_tape, found)))
        compacted = tuple(f"parquet/date={_date_of(window)}/day-" for window in begun)
        if not any(name.startswith(compacted) for name in found):
            break
    plain = (name for name in found if is_plain_tape(name) and f"{name}.zst" not in found)
    recorded = set(map(_window_of, plain)) | begun
    return {
        name: state
        for name, state in found.items()
        if not (_is_view(name) and _window_of(name) in recorded)
        if not (name.startswith("parquet/") and _window_of(name) in begun)
    }


def _taped_windows(layout: Layout) -> set[str]:
    names = (f"tape/{path.parent.name}/{path.name}" for path in layout.root.glob("tape/*/[0-9]*"))
    return set(map(_window_of, filter(_is_tape, names)))


def _is_tape(name: str) -> bool:
    return name.startswith("tape/") and name.endswith((".tape", ".tape.zst"))


def _window_of(name: str) -> str:
    """Return the stem of the window that a file is named after."""
    parts = name.split("/")
    stem = parts[-1].partition(".")[0]
    return f"{parts[1]}-{stem}" if parts[0] == "tape" else stem


def _date_of(window: str) -> str:
    digits = window.partition("-")[2][:8]
    return f"{digits[:4]}-{digits[4:6]}-{digits[6:]}"


def _is_view(name: str) -> bool:
    """Return whether a recovery writes a file again from a plain tape."""
    return name.startswith("csv/") or (name.startswith("quarantine/") and name.endswith(".jsonl"))


def _is_copied(name: str) -> bool:
    if name.startswith("sessions/"):
        return name.count("/") == 1 and name.endswith((".json", ".jsonl"))
    return not name.endswith((".lock", ".tmp", f".jsonl{OPEN}"))


def is_plain_tape(name: str) -> bool:
    """Return whether a file is a tape that may still be appended to."""
    return name.startswith("tape/") and name.endswith(".tape")


def is_report_lines(name: str) -> bool:
    """Return whether a file has lines of a running session's report, which end with the session."""
    return name.startswith("sessions/") and name.endswith(".jsonl")


def is_growing(name: str) -> bool:
    """Return whether a file is appended to, so that its beginning is a copy of an earlier state."""
    return (
        name == AUDIT_LOG
        or is_plain_tape(name)
        or is_report_lines(name)
        or name.endswith(f".csv{OPEN}")
    )


def _walk(root: Path, folder: str) -> Iterator[tuple[str, FileState]]:
    while True:
        try:
            entries = _list_folder(root / folder)
            break
        except FileNotFoundError:
            if not (root / folder).exists():
                return
    for name, status in sorted(entries.items()):
        if stat.S_ISREG(status.st_mode):
            yield f"{folder}/{name}", FileState.of(status)
        elif stat.S_ISDIR(status.st_mode):
            yield from _walk(root, f"{folder}/{name}")


def _list_folder(path: Path) -> dict[str, os.stat_result]:
    """List a folder twice, and again until nothing was renamed in between.

    A listing may miss both names of a file that is renamed, and the files of a folder that
    compaction replaces.
    """
    before = {name for name in os.listdir(path) if not name.startswith(".")}  # noqa: PTH208 - speed
    while True:
        with os.scandir(path) as entries:
            found = {
                entry.name: entry.stat(follow_symlinks=False)
                for entry in entries
                if not entry.name.startswith(".")
            }
        if found.keys() == before:
            return found
        before = set(found)


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A file that stays readable though its name may be deleted: ``length`` bytes are copied."""

    descriptor: int
    state: FileState
    length: int

    def chunks(self, length: int | None = None) -> Iterator[bytes]:
        """Yield the bytes to copy, or the first ``length`` of them; may be called again.

        Raises:
            SourceChanged: the file became shorter.
        """
        at, end = 0, self.length if length is None else min(length, self.length)
        while at < end:
            size = min(PIECE_BYTES, end - at)
            try:
                chunk = os.pread(self.descriptor, size, at)
            except OSError as error:
                raise UnreadableFile(error.strerror) from error
            if not chunk:
                raise SourceChanged
            yield chunk
            at += len(chunk)

    def hash(self, length: int | None = None) -> str:
        """Return the SHA-256 of the bytes to copy, or of the first ``length`` of them."""
        return hash_chunks(self.chunks(length))


def hash_chunks(chunks: Iterable[bytes]) -> str:
    """Return the SHA-256 of ``chunks``."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def open_listed(root: Path, name: str, listed: FileState) -> Iterator[OpenedFile]:
    """Open a file of a listing; of one that grows, only complete lines are copied.

    Raises:
        SourceChanged: it is not the file that was listed any more.
        UnreadableFile: the system does not let us read it.
    """
    try:
        # Never follow a link, never wait for a named pipe.
        descriptor = os.open(root / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise SourceChanged from None
    except OSError as error:
        raise UnreadableFile(error.strerror) from error
    try:
        state = FileState.of(os.fstat(descriptor))
        if is_growing(name):
            yield OpenedFile(descriptor, state, last_line_end(descriptor, state.size))
        elif state != listed:
            raise SourceChanged
        else:
            yield OpenedFile(descriptor, state, state.size)
    finally:
        os.close(descriptor)
