"""What was refused, one JSON line each: reason, row, raw frame, receive time. Nothing is dropped.

`{"reason": …, "row": {…} | null, "frame": "…", "ts_recv": <epoch ns>}`; ``row`` is ``null`` when
the frame as a whole could not be read, ``frame`` is base64 under ``frame_base64`` when it is no
UTF-8.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stocktrace.store import files
from stocktrace.store.names import OPEN


@dataclass(frozen=True, slots=True)
class Refused:
    """One refused row, or frame if ``row`` is ``None``; ``stamp`` is epoch ns."""

    stamp: int
    frame: bytes
    row: Any
    reason: str

    def line(self) -> str:
        """Its line in the file."""
        try:
            frame = {"frame": self.frame.decode()}
        except UnicodeDecodeError:
            frame = {"frame_base64": base64.b64encode(self.frame).decode()}
        record = {"reason": self.reason, "row": self.row, **frame, "ts_recv": self.stamp}
        return json.dumps(record, separators=(",", ":")) + "\n"

    @classmethod
    def parse(cls, line: str) -> Refused:
        """The inverse of ``line``."""
        record = json.loads(line)
        encoded = record.get("frame_base64")
        frame = base64.b64decode(encoded) if encoded else record["frame"].encode()
        return cls(record["ts_recv"], frame, record["row"], record["reason"])


class Quarantine:
    """The quarantine file of one window, made when the first row needs it."""

    def __init__(self, path: Path) -> None:
        self._final = path
        self._open = path.with_name(path.name + OPEN)
        self._used = False

    def put(self, refused: Iterable[Refused]) -> None:
        """Append what was refused."""
        text = "".join(each.line() for each in refused).encode()
        if text:
            if not self._used:
                # What an earlier attempt at this window left is written again from the tape.
                self._open.parent.mkdir(parents=True, exist_ok=True)
                self._open.unlink(missing_ok=True)
                self._used = True
            files.append(self._open, text)

    def seal(self) -> None:
        """Publish the file; without a row there is none, not even one of an earlier attempt."""
        if self._used:
            files.publish(self._open, self._final)
        else:
            self._open.unlink(missing_ok=True)
            self._final.unlink(missing_ok=True)
