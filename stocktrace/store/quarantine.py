"""Quarantine: rows that are not valid trades, one JSON line each. Nothing is dropped.

`{"reason": …, "row": {…} | null, "frame_id": "…", "frame": "…", "ts_recv_ns": <epoch ns>}`

- ``row`` is ``null`` if the frame as a whole could not be read; then ``frame_id`` is missing.
- ``frame`` is base64 under ``frame_base64`` if it is not UTF-8.
- Only the first row of a frame has the frame; the others have its ``frame_id``. If a server spells
  one member differently, all rows of a frame are invalid: so a file grows with what was received,
  not with its square. A line may have a frame without an id.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import index
from pathlib import Path
from typing import Any

from stocktrace.store import files
from stocktrace.store.names import OPEN

# ``json.dumps`` would make an encoder for each line.
_encode = json.JSONEncoder(separators=(",", ":")).encode
# Ids of frames that are remembered while a file is written (some 10 MB); then frames are repeated.
_MAX_IDS = 1 << 16
# Bytes that are written at once: the lines of one read can be many times that.
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class QuarantinedRow:
    """A row that is not a valid trade, or a frame if ``row`` is ``None``; ``stamp`` is epoch ns."""

    stamp: int
    frame: bytes
    row: Any
    reason: str

    def line(self, frame_id: str = "", *, with_frame: bool = True) -> str:
        """Return the line in the file."""
        record: dict[str, Any] = {"reason": self.reason, "row": self.row}
        if frame_id:
            record["frame_id"] = frame_id
        if with_frame:
            try:
                record["frame"] = self.frame.decode()
            except UnicodeDecodeError:
                record["frame_base64"] = base64.b64encode(self.frame).decode()
        record["ts_recv_ns"] = self.stamp
        return _encode(record) + "\n"


@dataclass(slots=True)
class QuarantineEncoder:
    """Makes the lines of one file, each frame once."""

    _written: set[str] = field(default_factory=set)

    def encode(self, rows: Iterable[QuarantinedRow]) -> Iterator[str]:
        """Yield the next lines."""
        ids: dict[bytes, str] = {}  # a frame of many rows is hashed once
        for row in rows:
            if row.row is None:
                yield row.line()
                continue
            frame_id = ids.get(row.frame)
            if frame_id is None:
                frame_id = ids[row.frame] = hashlib.blake2b(row.frame, digest_size=16).hexdigest()
            is_new = frame_id not in self._written
            if is_new:
                if len(self._written) == _MAX_IDS:
                    self._written.clear()
                self._written.add(frame_id)
            yield row.line(frame_id, with_frame=is_new)


def parse_quarantine(lines: Iterable[str]) -> Iterator[QuarantinedRow]:
    """Yield the rows of a file from its first line on; empty lines are skipped.

    Raises:
        ValueError: A line is not valid, or its frame is not in a line above; the text says which.
    """
    frames: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            frame_id, frame = record.get("frame_id"), _frame(record)
            if frame is None:
                frame = frames.get(frame_id)
            elif frame_id is not None:
                frames[frame_id] = frame
            row, reason = record["row"], record["reason"]
            stamp = index(record["ts_recv_ns"])  # a float has lost digits
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"line {number}: not a line of a quarantine file.") from error
        if frame is None:
            raise ValueError(
                f"line {number}: its frame is not in a line above: copy the file with all lines."
            )
        yield QuarantinedRow(stamp, frame, row, reason)


def _frame(record: dict[str, Any]) -> bytes | None:
    """Return the frame in a line; ``None`` if it is in a line above."""
    if encoded := record.get("frame_base64"):
        return base64.b64decode(encoded)
    if "frame" not in record and record["frame_id"]:
        return None
    frame: str = record["frame"]
    return frame.encode()


class QuarantineWriter:
    """Writes the quarantine file of one window, which is created with its first row."""

    def __init__(self, path: Path) -> None:
        self._final = path
        self._open = path.with_name(path.name + OPEN)
        self._has_rows = False
        self._encoder = QuarantineEncoder()

    def add(self, rows: Iterable[QuarantinedRow]) -> None:
        """Append rows."""
        chunk = bytearray()
        for line in self._encoder.encode(rows):
            chunk += line.encode()
            if len(chunk) >= _CHUNK_BYTES:
                self._append(bytes(chunk))
                chunk.clear()
        if chunk:
            self._append(bytes(chunk))

    def _append(self, chunk: bytes) -> None:
        if not self._has_rows:
            # A file of an earlier attempt at this window is written again from the tape.
            files.make_folder(self._open.parent)
            self._open.unlink(missing_ok=True)
            self._has_rows = True
        files.append(self._open, chunk)

    def seal(self) -> None:
        """Publish the file, unless one with more rows exists: its tape was larger than ours."""
        if self._has_rows and _count_lines(self._final) <= _count_lines(self._open):
            files.publish_file(self._open, self._final)
        else:
            self._open.unlink(missing_ok=True)


def _count_lines(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(1 for _ in file)
    except FileNotFoundError:
        return 0
