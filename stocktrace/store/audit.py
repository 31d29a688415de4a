"""The audit log: one JSON line an event, each with its hash and that of the line before it.

`{"at": <UTC>, "event": …, "session": …, …, "previous": <hash>, "hash": <hash>}`

``hash`` covers the text of the line before it, including ``previous``: a changed byte, a missing or
a moved line breaks the chain, and ``check_audit_log`` names the line. Cutting lines off at the end
leaves a valid chain: ``verify`` misses the end of a session if its report is on disk.

``report`` has a hash of each field of the report that follows. What a power cut left of the last
lines is ``torn`` of the next one.

A line is on the disk after ``sync``; that of a deletion at once, before the file is deleted.

Several processes append; a lock file beside the log orders them. A log of ``ROTATE_BYTES`` is
renamed to ``audit-<time of its last line>.jsonl``, and a new one continues the chain.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from stocktrace.clock import SYSTEM_CLOCK, Clock
from stocktrace.store.files import (
    disk_errors,
    lock_descriptor,
    make_folder,
    sync,
    sync_file,
    write_all,
)
from stocktrace.units import utc_datetime

#: ``previous`` of the first line.
FIRST_HASH = "0" * 32
# The beginning of a line: its event and session.
_HEAD = re.compile(rb'\{"at": "[^"]*", "event": "([^"]*)", "session": "([^"]*)"')
# A busy day of one capture has well under a megabyte; an editor can still open so many bytes.
ROTATE_BYTES = 16_000_000
_ROTATED_NAME = "audit-%Y%m%dT%H%M%S.%fZ.jsonl"
_BLOCK = 1 << 12
# So much of a truncated line is kept.
_TORN_BYTES = 1000
# Far more than a session writes between two syncs.
_UNSYNCED_BYTES = 1 << 16


class AuditLog:
    """Appends the events of one session to ``path``."""

    def __init__(self, path: Path, session: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._path = path
        self._session = session
        self._clock = clock
        self._is_synced = True
        self._is_mended = False

    def __call__(self, event: str, **facts: object) -> None:
        """Append an event with the current time."""
        at = utc_datetime(self._clock.wall())
        record = {"at": at.isoformat(), "event": event, "session": self._session, **facts}
        make_folder(self._path.parent)
        with self._locked():
            self._append(record, at)
        self._is_synced = False

    def mend(self) -> None:
        """Cut off what a power cut left of the last lines, if it left such a part."""
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as log:
            if _begin_of_torn(log.fileno()) is not None:
                self("mend")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self._path.with_suffix(".lock")
        with disk_errors(self._path):
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                lock_descriptor(descriptor, fcntl.LOCK_EX, lock)
                yield
            finally:
                os.close(descriptor)

    def sync(self) -> None:
        """Wait until the events are on the disk; from any thread."""
        if not self._is_synced:
            self._is_synced = True
            with contextlib.suppress(FileNotFoundError):  # it was rotated, and synced before
                sync_file(self._path)

    def _append(self, record: dict[str, object], at: datetime) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            # Zeros are left by a power cut alone, so before this process.
            record |= _cut_torn(descriptor, with_zeros=not self._is_mended)
            self._is_mended = True
            previous = self._previous_hash(descriptor)
            size = os.fstat(descriptor).st_size
            try:
                write_all(descriptor, _line({**record, "previous": previous}))
                if record["event"] == "delete" or "report" in record:
                    # The file is deleted or replaced next: the line must be on disk before.
                    sync(descriptor)
            except OSError:
                with contextlib.suppress(OSError):  # an incomplete line would break the chain
                    os.ftruncate(descriptor, size)
                raise
            if not size:
                sync_file(self._path.parent)  # the name of a new log
            size = os.fstat(descriptor).st_size
            if size >= ROTATE_BYTES:
                sync(descriptor)
        finally:
            os.close(descriptor)
        if size >= ROTATE_BYTES:
            self._rotate(at)

    def _rotate(self, at: datetime) -> None:
        rotated = _rotated(self._path)
        if rotated:  # names stay in order though the clock may have been set back
            last = datetime.strptime(rotated[-1].name, _ROTATED_NAME).replace(tzinfo=UTC)
            at = max(at, last + timedelta(microseconds=1))
        self._path.rename(self._path.with_name(at.strftime(_ROTATED_NAME)))
        sync_file(self._path.parent)  # before a new log has its name

    def _previous_hash(self, descriptor: int) -> str:
        """Return the hash of the last line, which may be in a rotated log."""
        rotated = _rotated(self._path)
        if os.fstat(descriptor).st_size or not rotated:
            return _last_hash(descriptor)
        with rotated[-1].open("rb") as file:
            return _last_hash(file.fileno())


def _last_hash(descriptor: int) -> str:
    line = _last_line(descriptor, os.fstat(descriptor).st_size)
    return _hash_of(line.removesuffix(b"\n")) or FIRST_HASH


def _line(record: dict[str, object]) -> bytes:
    text = json.dumps(record, default=str)[:-1]
    return f'{text}, "hash": "{_hash(text)}"}}\n'.encode()


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _hash_of(line: bytes) -> str | None:
    """Return the hash in a line; ``None`` if it is missing or wrong."""
    text, mark, rest = line.decode(errors="replace").rpartition(', "hash": "')
    stated = rest.removesuffix('"}')
    return stated if mark and _hash(text) == stated else None


def _cut_torn(descriptor: int, *, with_zeros: bool) -> dict[str, str]:
    """Cut off what a power cut left of the last lines; return it as a fact of the next line."""
    begin = _begin_of_torn(descriptor, with_zeros=with_zeros)
    if begin is None:
        return {}
    torn = os.pread(descriptor, _TORN_BYTES, begin)
    os.ftruncate(descriptor, begin)
    return {"torn": torn.decode(errors="replace")}


def _begin_of_torn(descriptor: int, *, with_zeros: bool = True) -> int | None:
    """Return where the lines end that are whole, if others follow them.

    Of lines that were not synced, a power cut leaves zeros, or a part of the last one.
    """
    size = os.fstat(descriptor).st_size
    zeros = -1
    if with_zeros:
        first = max(0, size - _UNSYNCED_BYTES)
        zeros = os.pread(descriptor, _UNSYNCED_BYTES, first).find(b"\0")
        size = first + zeros if zeros >= 0 else size
    line = _last_line(descriptor, size)
    if line and not line.endswith(b"\n"):
        return size - len(line)
    return size if zeros >= 0 else None


def _last_line(descriptor: int, size: int) -> bytes:
    """Return the last line of a log of ``size`` bytes, with its line feed if it has one."""
    line, begin = b"", size
    while begin:
        begin = max(0, begin - _BLOCK)
        line = os.pread(descriptor, min(_BLOCK, size - len(line)), begin) + line
        end = line.rfind(b"\n", 0, len(line) - 1)
        if end >= 0:
            return line[end + 1 :]
    return line


def _rotated(path: Path) -> list[Path]:
    return sorted(path.parent.glob("audit-[0-9]*Z.jsonl"))


def first_hash(path: Path) -> str:
    """Return the hash of the first line ever written, which no other log has; "" without one."""
    for log in [*_rotated(path), path]:
        with contextlib.suppress(FileNotFoundError), log.open("rb") as file:
            return _hash_of(file.readline().removesuffix(b"\n")) or ""
    return ""


@dataclass(slots=True)
class LoggedSession:
    """The lines of a session, as far as ``verify`` needs them.

    ``deleted`` are the names of its files that were deleted. ``report`` has the digests of its
    report, ``None`` if it did not end. ``exists`` is false before its first report, and after its
    removal.
    """

    deleted: set[str] = field(default_factory=set)
    report: dict[str, str] | None = None
    exists: bool = False


def read_logged_session(path: Path, session: str) -> LoggedSession:
    """Return what the log at ``path`` says of a session since its last report.

    Lines that were changed do not count. Older logs than that with the report are not read.
    """
    logged = LoggedSession()
    for log, state in _newest_first(path):
        if (older := _read_sessions(log, state).get(session)) is not None:
            logged.deleted |= older.deleted
            logged.report = older.report
            if logged.report is not None:
                break
    return logged


def logged_sessions(path: Path) -> set[str]:
    """Return the sessions that must exist according to the log at ``path``."""
    exists: dict[str, bool] = {}
    for log, state in reversed(_newest_first(path)):
        exists |= {name: logged.exists for name, logged in _read_sessions(log, state).items()}
    return {name for name, still in exists.items() if still}


class _LogState(NamedTuple):
    """By these, a log is known to be unchanged: its size (bytes), time (epoch ns) and inode."""

    size: int
    mtime_ns: int
    inode: int


def _newest_first(path: Path) -> list[tuple[Path, _LogState]]:
    """Return the log and its rotated files with their states."""
    logs: list[tuple[Path, _LogState]] = []
    with contextlib.suppress(FileNotFoundError):  # first: it may be rotated while we read
        logs.append((path, _state_of(path)))
    return logs + [(log, _state_of(log)) for log in reversed(_rotated(path))]


def _state_of(log: Path) -> _LogState:
    status = log.stat()
    return _LogState(status.st_size, status.st_mtime_ns, status.st_ino)


# A rotated log does not change: verifying many sessions reads it once.
@functools.lru_cache(maxsize=256)
def _read_sessions(log: Path, state: _LogState) -> dict[str, LoggedSession]:
    """Return what a log said in this state, by session."""
    sessions: dict[str, LoggedSession] = {}
    with log.open("rb") as file:
        lines = file.read(state.size).split(b"\n")
    for line in lines:
        if (match := _HEAD.match(line)) is None or not match[2]:
            continue
        event, name = match.groups()
        session = sessions.setdefault(name.decode(), LoggedSession())
        # The first report follows the start; a kill in between leaves none.
        session.exists = event != b"remove" and (session.exists or event != b"start")
        if (event == b"delete" or b'"report": {' in line) and _hash_of(line) is not None:
            record = json.loads(line)
            if event == b"delete":
                session.deleted.add(Path(record.get("file", "")).name)
            else:
                session.report = record.get("report")
    return sessions


def check_audit_log(path: Path) -> Iterator[str]:
    """Yield a sentence for each break in the chain of the log and its rotated files."""
    for log, number, problem in find_breaks(path):
        yield f"{log}, line {number}: {problem}"


def find_breaks(path: Path) -> Iterator[tuple[Path, int, str]]:
    """Yield each break in the chain: its file, the number of the line, and the problem."""
    previous: str | None = None
    for log, text in _read_logs(path):
        *lines, rest = text.split(b"\n")
        for number, line in enumerate(lines, 1):
            line_hash = _hash_of(line)
            if line_hash is None:
                yield log, number, "the line was changed or is truncated"
            elif previous is not None and f'"previous": "{previous}"'.encode() not in line:
                yield log, number, "the line before it was changed or is missing"
            elif previous is None and f'"previous": "{FIRST_HASH}"'.encode() not in line:
                yield log, number, "the beginning is missing"
            previous = line_hash or FIRST_HASH
        if rest or not lines:
            yield log, len(lines) + 1, "the last line is truncated"


def _read_logs(path: Path) -> Iterator[tuple[Path, bytes]]:
    """Yield the rotated files and the log, as they were at one moment."""
    with contextlib.ExitStack() as stack:
        size, log = 0, None
        with contextlib.ExitStack() as locked:
            with contextlib.suppress(FileNotFoundError):
                locked.callback(os.close, descriptor := os.open(path.with_suffix(".lock"), 0))
                fcntl.flock(descriptor, fcntl.LOCK_SH)  # nobody appends or rotates
            rotated = _rotated(path)
            with contextlib.suppress(FileNotFoundError):
                log = stack.enter_context(path.open("rb"))
                size = os.fstat(log.fileno()).st_size
        for part in rotated:
            yield part, part.read_bytes()
        if log is not None:
            yield path, log.read(size)
