"""The audit log: one JSON line an event, each with its hash and that of the line before it.

`{"at": <UTC>, "event": …, "session": …, …, "previous": <hash>, "hash": <hash>}`

``hash`` covers the text of the line before it, including ``previous``: a changed byte, a missing or
a moved line breaks the chain, and ``check_audit_log`` names the line. Only cutting lines off at the
end leaves a valid chain; the report of the last session shows how it ended.

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
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from stocktrace.clock import SYSTEM_CLOCK, Clock
from stocktrace.store.files import disk_errors, lock_descriptor, write_all
from stocktrace.units import utc_datetime

#: ``previous`` of the first line.
FIRST_HASH = "0" * 32
# A busy day of one capture has well under a megabyte; an editor can still open so many bytes.
ROTATE_BYTES = 16_000_000
_TAIL = 1 << 12


class AuditLog:
    """Appends the events of one session to ``path``."""

    def __init__(self, path: Path, session: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._path = path
        self._session = session
        self._clock = clock

    def __call__(self, event: str, **facts: object) -> None:
        """Append an event with the current time."""
        at = utc_datetime(self._clock.wall())
        record = {"at": at.isoformat(), "event": event, "session": self._session, **facts}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lock = self._path.with_suffix(".lock")
        with disk_errors(self._path):
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                lock_descriptor(descriptor, fcntl.LOCK_EX, lock)
                self._append(record, at)
            finally:
                os.close(descriptor)

    def _append(self, record: dict[str, object], at: datetime) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            previous = self._previous_hash(descriptor)
            size = os.fstat(descriptor).st_size
            try:
                write_all(descriptor, _line({**record, "previous": previous}))
                if record["event"] == "delete":
                    os.fsync(descriptor)  # the file is deleted next, its line must be on disk
            except OSError:
                with contextlib.suppress(OSError):  # an incomplete line would break the chain
                    os.ftruncate(descriptor, size)
                raise
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        if size >= ROTATE_BYTES:
            self._path.rename(self._path.with_name(f"audit-{at:%Y%m%dT%H%M%S.%f}Z.jsonl"))

    def _previous_hash(self, descriptor: int) -> str:
        """Return the hash of the last line, which may be in a rotated log; end a truncated line."""
        size = os.fstat(descriptor).st_size
        if size:
            tail = _last_line(descriptor, size)
            if not tail.endswith(b"\n"):  # truncated by a power cut
                write_all(descriptor, b"\n")
            return _last_hash(tail.removesuffix(b"\n"))
        rotated = _rotated(self._path)
        return _last_hash(rotated[-1].read_bytes().rstrip(b"\n")) if rotated else FIRST_HASH


def _last_line(descriptor: int, size: int) -> bytes:
    """Return the end of a log: at least its last line."""
    length = _TAIL
    while True:
        tail = os.pread(descriptor, length, max(0, size - length))
        if length >= size or b"\n" in tail[:-1]:
            return tail
        length *= 8


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


def _last_hash(text: bytes) -> str:
    """Return the hash in the last line of ``text``, which ends without a line feed."""
    return _hash_of(text.rpartition(b"\n")[2]) or FIRST_HASH


def _rotated(path: Path) -> list[Path]:
    return sorted(path.parent.glob("audit-*.jsonl"))


def deleted_files(path: Path, session: str) -> set[str]:
    """Return the names of a session's files that were deleted according to the log at ``path``.

    Lines that were changed do not count.
    """
    names: set[str] = set()
    with contextlib.suppress(FileNotFoundError):  # first: it may be rotated while we read
        names |= _deleted_files(path, path.stat().st_size).get(session, set())
    for log in _rotated(path):
        names |= _deleted_files(log, log.stat().st_size).get(session, set())
    return names


# A rotated log does not change: verifying many sessions reads it once.
@functools.lru_cache(maxsize=256)
def _deleted_files(log: Path, size: int) -> dict[str, set[str]]:
    """Return the names of deleted files by session, from the first ``size`` bytes of a log."""
    names: dict[str, set[str]] = {}
    with log.open("rb") as file:
        lines = file.read(size).split(b"\n")
    for line in lines:
        if b'"event": "delete"' in line and _hash_of(line) is not None:
            record = json.loads(line)
            name = Path(record.get("file", "")).name
            names.setdefault(record["session"], set()).add(name)
    return names


def check_audit_log(path: Path) -> Iterator[str]:
    """Yield a sentence for each break in the chain of the log and its rotated files."""
    previous: str | None = None
    for log in [*_rotated(path), path]:
        if not log.exists():
            continue
        for number, line in enumerate(log.read_bytes().split(b"\n")[:-1], 1):
            line_hash = _hash_of(line)
            if line_hash is None:
                yield f"{log}, line {number}: the line was changed or is truncated"
            elif previous is not None and f'"previous": "{previous}"'.encode() not in line:
                yield f"{log}, line {number}: the line before it was changed or is missing"
            elif previous is None and f'"previous": "{FIRST_HASH}"'.encode() not in line:
                yield f"{log}, line {number}: the beginning is missing"
            previous = line_hash or FIRST_HASH
        if not log.read_bytes().endswith(b"\n"):
            yield f"{log}: the last line is truncated"
