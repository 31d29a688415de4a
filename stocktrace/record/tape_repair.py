"""Cut out of a tape what a crash or a power cut left incomplete: its torn end, and holes.

After a power cut, a file system can have the length of a file without all of its contents: it then
has zero bytes, which no line of a tape has.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stocktrace.errors import TapeError
from stocktrace.store.files import disk_errors, locked_temporary, publish_file, sync, sync_file
from stocktrace.store.tape import parse_line

_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class TapeHole:
    """Zero bytes in the middle of a tape: what was received from ``start`` to ``end`` is lost."""

    start: int
    end: int
    zeros: int

    @property
    def reason(self) -> str:
        """The reason of its gap."""
        return f"a hole of {self.zeros:,} zero bytes in the tape"


def repair_tape(tape: Path, begin: int, end: int = 0) -> list[TapeHole]:
    """Cut the torn end and the holes out of a tape, and keep the rest of their lines beside it.

    In place of a hole, the tape gets a mark: a pause from the line before to the line after.
    ``begin`` and ``end`` (epoch ns) are those of the window, for a hole at its edge; without
    ``end``, a hole at the end is a torn end. Returns the holes.
    """
    if not _has_zeros(tape):
        _truncate_torn_tape(tape)
        return []
    holes: list[TapeHole] = []
    zeros, last, has_rest = 0, begin, False
    aside = tape.with_suffix(".torn")
    with locked_temporary(tape) as whole, locked_temporary(aside) as rest:
        with disk_errors(whole), whole.open("wb") as out, rest.open("wb") as cut:

            def close_hole(stamp: int) -> None:
                nonlocal zeros
                hole = TapeHole(min(last, stamp), stamp, zeros)
                facts = json.dumps({"start": hole.start, "reason": hole.reason})
                out.write(f"{stamp}\t#paused {facts}\n".encode())
                holes.append(hole)
                zeros = 0

            for line, line_zeros in _lines_and_zeros(tape):
                if line_zeros or not line.endswith(b"\n"):
                    cut.write(line)
                    has_rest = has_rest or bool(line)
                    zeros += line_zeros
                    continue
                with contextlib.suppress(TapeError):
                    stamp = parse_line(line[:-1]).stamp
                    if zeros:
                        close_hole(stamp)
                    last = stamp
                out.write(line)
            if zeros and end:
                close_hole(end)
        if has_rest:
            publish_file(rest, aside)
        if whole.stat().st_size != tape.stat().st_size:
            publish_file(whole, tape)
    return holes


def _lines_and_zeros(tape: Path) -> Iterator[tuple[bytes, int]]:
    """Yield each line without its zero bytes, and their number; the last one may have no end."""
    line, zeros = b"", 0
    with tape.open("rb") as file:
        while piece := file.readline(_PIECE_BYTES):
            zeros += piece.count(b"\0")
            line += piece.replace(b"\0", b"")
            if piece.endswith(b"\n"):
                yield line, zeros
                line, zeros = b"", 0
    if line or zeros:
        yield line, zeros


def _has_zeros(tape: Path) -> bool:
    with tape.open("rb") as file:
        return any(b"\0" in piece for piece in iter(lambda: file.read(_PIECE_BYTES), b""))


def _truncate_torn_tape(tape: Path) -> None:
    """Truncate a tape after its last complete line, and keep the rest beside it."""
    with tape.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        end = last_line_end(file.fileno(), size)
        if end < size:
            torn = os.pread(file.fileno(), size - end, end)
            aside = tape.with_suffix(".torn")
            with disk_errors(aside):
                aside.write_bytes(torn)
            sync_file(aside)
            sync_file(aside.parent)
            file.truncate(end)
            sync(file.fileno())


def last_line_end(descriptor: int, end: int) -> int:
    """Return where the last complete line ends among the first ``end`` bytes of a file."""
    block = 1 << 16
    while end > 0:
        begin = max(0, end - block)
        newline = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        end = begin
    return 0
