"""The audit log: one JSON line an event, each with its hash and that of the line before it.

`{"at": <UTC>, "event": …, "session": …, …, "previous": <hash>, "hash": <hash>}`. ``hash`` is of the
line's own text up to it, ``previous`` included: a byte that is changed, a line that is missing or
moved breaks the chain, and ``check`` names the line. (Lines cut off at the very end leave a chain
that is whole; the report of the last session tells how it ended.)

Several processes append: a lock on a file beside the log orders them. A log of ``ROTATE_BYTES`` is
renamed to ``audit-<time of its last line>.jsonl`` and the chain goes on in a new one.
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
from stocktrace.store.files import disk_errors, write_all
from stocktrace.units import utc_datetime

#: What the first line says of the line before it.
FIRST_HASH = "0" * 32
# A busy day of one capture is well under a megabyte; this is years of them in one editor's reach.
ROTATE_BYTES = 16_000_000
_TAIL = 1 << 20


class AuditLog:
    """Appends the events of one session to ``path``."""

    def __init__(self, path: Path, session: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._path = path
        self._session = session
        self._clock = clock

    def __call__(self, event: str, **facts: object) -> None:
        """Write that ``event`` happened now."""
        at = utc_datetime(self._clock.wall())
        record = {"at": at.isoformat(), "event": event, "session": self._session, **facts}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lock = self._path.with_suffix(".lock")
        with disk_errors(self._path):
            guard = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(guard, fcntl.LOCK_EX)
                self._append(record, at)
            finally:
                os.close(guard)

    def _append(self, record: dict[str, object], at: datetime) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            previous = _last_hash(descriptor) or _hash_before(self._path)
            before = os.fstat(descriptor).st_size
            try:
                write_all(descriptor, _line({**record, "previous": previous}))
                if record["event"] == "delete":
                    os.fsync(descriptor)  # the file is deleted next: its line must outlast it
            except OSError:
                with contextlib.suppress(OSError):  # half a line would break the chain
                    os.ftruncate(descriptor, before)
                raise
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        if size >= ROTATE_BYTES:
            self._path.rename(self._path.with_name(f"audit-{at:%Y%m%dT%H%M%S.%f}Z.jsonl"))


def _line(record: dict[str, object]) -> bytes:
    text = json.dumps(record, default=str)[:-1]
    return f'{text}, "hash": "{_hash(text)}"}}\n'.encode()


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _hash_of(line: bytes) -> str | None:
    """The hash that a line tells of itself, or ``None`` if it tells none or another than it has."""
    text, mark, rest = line.decode(errors="replace").rpartition(', "hash": "')
    told = rest.removesuffix('"}')
    return told if mark and _hash(text) == told else None


def _last_hash(descriptor: int) -> str | None:
    size = os.fstat(descriptor).st_size
    if not size:
        return None
    tail = os.pread(descriptor, _TAIL, max(0, size - _TAIL))
    if not tail.endswith(b"\n"):  # a line that a power cut tore: end it, so that it stands alone
        write_all(descriptor, b"\n")
        tail += b"\n"
    return _hash_of(tail[:-1].rpartition(b"\n")[2]) or FIRST_HASH


def _hash_before(path: Path) -> str:
    """The last hash of the log that was rotated last."""
    older = _rotated(path)
    if not older:
        return FIRST_HASH
    return _hash_of(older[-1].read_bytes().rstrip(b"\n").rpartition(b"\n")[2]) or FIRST_HASH


def deleted(path: Path, session: str) -> set[str]:
    """The names of a session's files of which the log at ``path`` says that they were deleted.

    Lines that were changed do not count.
    """
    found: set[str] = set()
    with contextlib.suppress(FileNotFoundError):  # first: it may be rotated while we read
        found |= _deleted(path, path.stat().st_size).get(session, set())
    for part in _rotated(path):
        found |= _deleted(part, part.stat().st_size).get(session, set())
    return found


# A log that was rotated does not change; a check of many sessions reads it once.
@functools.lru_cache(maxsize=256)
def _deleted(part: Path, size: int) -> dict[str, set[str]]:
    """The names of deleted files by session, in the first ``size`` bytes of one log file."""
    found: dict[str, set[str]] = {}
    with part.open("rb") as file:
        lines = file.read(size).split(b"\n")
    for line in lines:
        if b'"event": "delete"' in line and _hash_of(line) is not None:
            record = json.loads(line)
            name = Path(record.get("file", "")).name
            found.setdefault(record["session"], set()).add(name)
    return found


def _rotated(path: Path) -> list[Path]:
    return sorted(path.parent.glob("audit-*.jsonl"))


def check_audit_log(path: Path) -> Iterator[str]:
    """Where the chain of the log at ``path`` and its rotated parts is broken, in words."""
    previous: str | None = None
    for part in [*_rotated(path), path]:
        if not part.exists():
            continue
        for number, line in enumerate(part.read_bytes().split(b"\n")[:-1], 1):
            found = _hash_of(line)
            if found is None:
                yield f"{part}, line {number}: it was changed, or is torn"
            elif previous is not None and f'"previous": "{previous}"'.encode() not in line:
                yield f"{part}, line {number}: what stood before it was changed or is missing"
            elif previous is None and f'"previous": "{FIRST_HASH}"'.encode() not in line:
                yield f"{part}, line {number}: the beginning is missing"
            previous = found or FIRST_HASH
        if not part.read_bytes().endswith(b"\n"):
            yield f"{part}: the last line is torn"
