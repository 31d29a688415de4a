"""What was refused, one JSON line each: reason, row, raw frame, receive time. Nothing is dropped.

`{"reason": …, "row": {…} | null, "frame_id": "…", "frame": "…", "ts_recv": <epoch ns>}`; ``frame``
is base64 under ``frame_base64`` when it is no UTF-8. ``row`` is ``null`` when the frame as a whole
could not be read; such a line has no ``frame_id``.

A server that spells one member in its own way has all rows of a frame refused. So a frame stands
with the first of its rows, and the lines of the others have its ``frame_id`` alone: a file grows
with what was received, not with its square. Files of earlier versions repeat the frame, without an
id; they are read all the same.
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

# Ids of frames that are remembered while a file is written (some 10 MB); then each stands again.
_IDS = 1 << 16
# Bytes that are written at once: what was refused in one read can be many times that.
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class QuarantinedRow:
    """One refused row, or frame if ``row`` is ``None``; ``stamp`` is epoch ns."""

    stamp: int
    frame: bytes
    row: Any
    reason: str

    def line(self, frame_id: str = "", *, whole: bool = True) -> str:
        """Its line in the file, without the frame if it is not to be ``whole``."""
        record: dict[str, Any] = {"reason": self.reason, "row": self.row}
        if frame_id:
            record["frame_id"] = frame_id
        if whole:
            record |= _member(self.frame)
        record["ts_recv"] = self.stamp
        return json.dumps(record, separators=(",", ":")) + "\n"


def _member(frame: bytes) -> dict[str, str]:
    try:
        return {"frame": frame.decode()}
    except UnicodeDecodeError:
        return {"frame_base64": base64.b64encode(frame).decode()}


@dataclass(slots=True)
class QuarantineLines:
    """The lines of one file as they are written, each frame but once."""

    _written: set[str] = field(default_factory=set)

    def of(self, refused: Iterable[QuarantinedRow]) -> Iterator[str]:
        """The next lines."""
        ids: dict[bytes, str] = {}  # a frame of many rows is hashed once
        for each in refused:
            if each.row is None:
                yield each.line()
                continue
            if each.frame not in ids:
                ids[each.frame] = hashlib.blake2b(each.frame, digest_size=16).hexdigest()
            frame_id = ids[each.frame]
            is_new = frame_id not in self._written
            if is_new:
                if len(self._written) == _IDS:
                    self._written.clear()
                self._written.add(frame_id)
            yield each.line(frame_id, whole=is_new)


def parse_quarantine(lines: Iterable[str]) -> Iterator[QuarantinedRow]:
    """What the lines of a file say, from its first one on; empty ones say nothing.

    Raises:
        ValueError: a line is none of a quarantine, or its frame stands in none above; says which.
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
            stamp = index(record["ts_recv"])  # a float has lost digits
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"line {number}: no line of a quarantine.") from error
        if frame is None:
            raise ValueError(
                f"line {number}: its frame stands in no line above: copy the file with all lines."
            )
        yield QuarantinedRow(stamp, frame, row, reason)


def _frame(record: dict[str, Any]) -> bytes | None:
    """The frame that stands in a line; ``None`` if that is a line above."""
    if encoded := record.get("frame_base64"):
        return base64.b64decode(encoded)
    if "frame" not in record and record["frame_id"]:
        return None
    frame: str = record["frame"]
    return frame.encode()


class QuarantineWriter:
    """The quarantine file of one window, made when the first row needs it."""

    def __init__(self, path: Path) -> None:
        self._final = path
        self._open = path.with_name(path.name + OPEN)
        self._used = False
        self._lines = QuarantineLines()

    def add(self, refused: Iterable[QuarantinedRow]) -> None:
        """Append what was refused."""
        piece = bytearray()
        for line in self._lines.of(refused):
            piece += line.encode()
            if len(piece) >= _PIECE:
                self._append(bytes(piece))
                piece.clear()
        if piece:
            self._append(bytes(piece))

    def _append(self, piece: bytes) -> None:
        if not self._used:
            # What an earlier attempt at this window left is written again from the tape.
            self._open.parent.mkdir(parents=True, exist_ok=True)
            self._open.unlink(missing_ok=True)
            self._used = True
        files.append(self._open, piece)

    def seal(self) -> None:
        """Publish the file; without a row there is none, not even one of an earlier attempt."""
        if self._used:
            files.publish_file(self._open, self._final)
        else:
            self._open.unlink(missing_ok=True)
            self._final.unlink(missing_ok=True)
