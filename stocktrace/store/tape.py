r"""The tape: one append-only file per window, from which everything else can be rebuilt.

Invariants:

- A line is ``<receive time, UTC epoch ns>\\t<payload>\n``. The payload is a frame as received, or a
  mark (``marks``): ``#<name> <facts as JSON>``.
- A frame that contains a line feed or a zero byte, or begins with ``#``, is written as
  ``#raw <base64>``, so every frame can be restored byte for byte.
- A line is complete when its ``\n`` is written; bytes after the last ``\n`` are torn.
- A zero byte is never written: it is part of a hole, which a power cut can leave (``tape_repair``).
- One thread appends, with one write per read of the socket. The operating system has the data when
  ``append`` returns.

A tape is named ``.tape``, or ``.tape.zst`` once it is archived; third-party recordings may be
``.tape.gz``. A tape that was set aside (``settle_tapes``) ends in ``.aside-<n>``.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import zstandard

from stocktrace.errors import TapeError
from stocktrace.marks import Mark, OpeningMark, parse_mark
from stocktrace.store.files import (
    disk_errors,
    locked_temporary,
    make_folder,
    publish_file,
    sync,
    sync_file,
    write_all,
)
from stocktrace.store.names import compact_utc

#: The last receive time that fits into an int64, in the year 2262.
LATEST_NS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class TapeFrames:
    """Consecutive frames with the same receive time, ``stamp`` (UTC epoch ns): one socket read."""

    stamp: int
    frames: Sequence[bytes]


class TapeWriter:
    """Appends to one tape, which it creates; raises ``FileExistsError`` if ``path`` exists.

    The feed's thread calls ``append`` and ``append_mark``. They take no lock: the system orders a
    write and an fsync, and ``close`` is called after the last append. Two other threads call
    ``sync`` and ``close``; their lock keeps a sync off a closed (and reused) descriptor.

    The thread that creates the tape does not wait for the disk, unless its folder is new: the first
    ``sync`` also syncs its name.
    """

    def __init__(self, path: Path) -> None:
        if not path.parent.exists():
            make_folder(path.parent)
        self.path = path
        self.size = 0
        self._closing = threading.Lock()
        self._closed = False
        self._name_is_synced = False
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)

    def append(self, stamp: int, frames: Sequence[bytes]) -> bytes:
        """Append ``frames`` as received at ``stamp``, in one write; return the bytes written."""
        prefix = b"%d\t" % stamp
        text = b"".join((prefix, (b"\n" + prefix).join(frames), b"\n"))
        # These scans run at memory speed and replace a test of each frame.
        if text.count(b"\n") != len(frames) or b"#" in text or b"\0" in text:
            text = b"".join(prefix + _escape(frame) + b"\n" for frame in frames)
        self._write(text)
        return text

    def append_mark(self, mark: Mark) -> None:
        """Append a mark."""
        facts = json.dumps(mark.facts, separators=(",", ":"))
        self._write(f"{mark.stamp}\t#{mark.name} {facts}\n".encode())

    def _write(self, text: bytes) -> None:
        try:
            write_all(self._fd, text)
        except OSError:
            # Half of a read must not stay on the tape, because no count includes it.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self.size)
            with disk_errors(self.path):
                raise
        self.size += len(text)

    def sync(self) -> None:
        """Wait until everything appended is on the disk."""
        with self._closing, disk_errors(self.path):
            if not self._closed:
                self._sync()

    def _sync(self) -> None:
        # First: without it, the bytes would be lost. A folder that was moved ends the capture.
        if not self._name_is_synced and self.path.parent.exists():
            sync_file(self.path.parent)
            self._name_is_synced = True
        sync(self._fd)

    def close(self) -> None:
        """Sync and close; do nothing if the tape is closed."""
        with self._closing, disk_errors(self.path):
            if not self._closed:
                self._closed = True
                try:
                    self._sync()
                finally:
                    os.close(self._fd)
                    self._fd = -1  # the number may soon be another file's


def _escape(frame: bytes) -> bytes:
    if b"\n" in frame or b"\0" in frame or frame.startswith(b"#"):
        return b"#raw " + base64.b64encode(frame)
    return frame


def parse_line(line: bytes) -> Mark | TapeFrames:
    """Parse one complete line (without its line feed).

    Raises:
        TapeError: the line does not follow the grammar.
    """
    stamp_text, tab, payload = line.partition(b"\t")
    if not tab or not stamp_text.isdigit() or len(stamp_text) > len(str(LATEST_NS)):
        raise TapeError(f"The line {line[:60]!r} does not begin with a receive time.")
    stamp = int(stamp_text)
    if stamp > LATEST_NS:  # one flipped bit turns the leading 1 of our times into a 9
        raise TapeError(f"The line {line[:60]!r} begins with a time after the year 2262.")
    if not payload.startswith(b"#"):
        return TapeFrames(stamp, (payload,))
    name, _, text = payload[1:].partition(b" ")
    try:
        if name == b"raw":
            return TapeFrames(stamp, (base64.b64decode(text, validate=True),))
        facts = json.loads(text)
        if isinstance(facts, dict):
            return parse_mark(stamp, name.decode(), facts)
    except (ValueError, RecursionError) as error:
        raise TapeError(f"The mark {line[:60]!r} cannot be read.") from error
    raise TapeError(f"The facts of the mark {line[:60]!r} are not a JSON object.")


# The bounds of the memory that reading a tape takes.
# zstandard expands 4 bytes to at most 128 KiB, so this to 32 MiB; larger pieces are not faster.
_COMPRESSED_BYTES = 1 << 10
# The pieces in which lines are looked for.
_CHUNK_BYTES = 1 << 20
# A line is longer than any frame that the socket accepts, in base64.
_MAX_LINE_BYTES = 1 << 27
# More frames with one stamp are split; one read of the socket has fewer.
_MAX_READ_BYTES = 1 << 24
_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(wbits=31),  # 31: the largest window, in gzip's envelope
    ".zst": lambda: zstandard.ZstdDecompressor().decompressobj(),
}
_UNREADABLE = (EOFError, zlib.error, zstandard.ZstdError)


def _decompressed(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a tape, decompressed according to its suffix, up to the first damage."""
    # The stream readers of both libraries discard their buffered bytes when the data ends early,
    # and zstandard's does not report it.
    make = _DECOMPRESSORS.get(path.suffix)
    with path.open("rb") as file:
        if make is None:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
            return
        decompressor = make()
        while piece := file.read(_COMPRESSED_BYTES):
            while piece:
                if decompressor.eof:
                    decompressor = make()
                data = decompressor.decompress(piece)
                for at in range(0, len(data), _CHUNK_BYTES):
                    yield data[at : at + _CHUNK_BYTES]
                piece = decompressor.unused_data
        if not decompressor.eof:
            raise EOFError("the compressed data ends too early")


@dataclass(slots=True)
class TapeReader:
    """Iterates over marks and frames in order; neighbouring frames with one stamp come together.

    The counts are final after the last entry: ``torn_bytes`` counts the bytes after the last line
    feed, ``invalid_lines`` the complete lines that do not follow the grammar, because of a hole or
    otherwise. ``damage`` says why reading ended early, if it did.
    """

    path: Path
    torn_bytes: int = 0
    invalid_lines: int = 0
    damage: str | None = None

    def __iter__(self) -> Iterator[Mark | TapeFrames]:
        stamp, frames = 0, list[bytes]()
        for lines in self._blocks():
            for line in lines:
                # A fast path for frames, which are nearly all lines of a tape.
                text, _, payload = line.partition(b"\t")
                if not (
                    payload
                    and payload[0] != 35  # "#"
                    and text.isdigit()
                    and len(text) <= 19  # bounds the time of int()
                    and (line_stamp := int(text)) <= LATEST_NS
                ):
                    try:
                        entry = parse_line(line)
                    except TapeError:
                        self.invalid_lines += 1
                        continue
                    if isinstance(entry, Mark):
                        if frames:
                            yield TapeFrames(stamp, frames)
                            frames = []
                        yield entry
                        continue
                    line_stamp = entry.stamp
                    (payload,) = entry.frames
                if line_stamp != stamp and frames:
                    yield TapeFrames(stamp, frames)
                    frames = []
                stamp = line_stamp
                frames.append(payload)
            if sum(map(len, frames)) > _MAX_READ_BYTES:
                yield TapeFrames(stamp, frames)
                frames = []
        if frames:
            yield TapeFrames(stamp, frames)

    def _blocks(self) -> Iterator[list[bytes]]:
        """Yield complete lines, those of a piece of the file together."""
        begun: list[bytes] = []
        size = 0
        try:
            for chunk in _decompressed(self.path):
                end, *lines = chunk.split(b"\n")
                begun.append(end)
                size += len(end)
                if size > _MAX_LINE_BYTES:
                    begun = [b"\0"]  # so that it is counted
                if lines:
                    last = lines.pop()
                    lines.insert(0, b"".join(begun))
                    begun, size = [last], len(last)
                    if b"\0" in chunk or b"\0" in lines[0]:
                        whole = [line for line in lines if b"\0" not in line]
                        self.invalid_lines += len(lines) - len(whole)
                        lines = whole
                    yield lines
        except _UNREADABLE as error:
            self.damage = str(error)
        self.torn_bytes = size


# On lines of JSON, level 1 makes smaller files than 3 in two thirds of the time. Level 9 saves a
# sixth of the size and takes ten times as long (docs/performance.md).
_LEVEL = 1


def archive_tape(tape: Path, archived: Path) -> None:
    """Compress a finished tape, compare the archive with it, and delete it.

    An existing archive is never replaced by a shorter one (``settle_tapes``).

    Raises:
        TapeError: the archive differs from the tape, which stays.
    """
    if archived.exists():
        settle_tapes(tape, archived)
        if not tape.exists():
            return
    with locked_temporary(archived) as temporary:
        with disk_errors(temporary), tape.open("rb") as source, temporary.open("wb") as sink:
            compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
            with compressor.stream_writer(sink, size=tape.stat().st_size, closefd=False) as out:
                while chunk := source.read(1 << 20):
                    out.write(chunk)
        with temporary.open("rb") as copy, tape.open("rb") as source:
            for chunk in zstandard.ZstdDecompressor().read_to_iter(copy):
                if source.read(len(chunk)) != chunk:
                    raise TapeError(f"{temporary} differs from {tape}.")
            if source.read(1):
                raise TapeError(f"{temporary} is shorter than {tape}.")
        publish_file(temporary, archived)
    tape.unlink()


def hash_tape(path: Path, length: int | None = None) -> tuple[int, str]:
    """Return the size and the SHA-256 of a tape, decompressed, or of its first ``length`` bytes.

    Raises:
        TapeError: it is damaged.
    """
    digest, size = hashlib.sha256(), 0
    try:
        for chunk in _decompressed(path):
            wanted = chunk if length is None else chunk[: length - size]
            digest.update(wanted)
            size += len(wanted)
    except _UNREADABLE as error:
        raise TapeError(f"{path} is damaged: {error}.") from error
    return size, digest.hexdigest()


def _choose_tape(tape: Path, archived: Path) -> tuple[Path, bool]:
    """Return the better tape of a window, and whether it has all bytes of the other one."""
    size, agree, damaged = 0, True, False
    with tape.open("rb") as plain:
        try:
            for chunk in _decompressed(archived):
                size += len(chunk)
                agree = agree and chunk.startswith(plain.read(len(chunk)))
        except _UNREADABLE:
            damaged = True
        plain_size = os.fstat(plain.fileno()).st_size
    if damaged:  # ``size`` counts what is readable
        return tape if plain_size >= size else archived, False
    if agree and plain_size > size:
        return tape, True
    return archived, agree


def better_tape(tape: Path, archived: Path) -> Path:
    """Return the better of a plain tape and the archive of the same window."""
    try:
        return _choose_tape(tape, archived)[0]
    except FileNotFoundError:  # it was archived in the meantime
        return archived


def settle_tapes(tape: Path, archived: Path) -> Path | None:
    """Choose between a plain tape and an archive of one window, so that no frame is lost.

    A data folder that was copied while it recorded, and again afterwards, has both. Returns the new
    path of the tape that was set aside, which readers ignore.

    - The archive is intact and begins with all bytes of the plain tape: the plain tape is deleted.
    - The archive is intact, and the plain tape begins with all its bytes and has more: both stay
      until ``archive_tape`` replaces the archive.
    - The archive is intact and they differ: the plain tape is set aside.
    - The archive is damaged: the shorter of the two is set aside.
    """
    better, has_all = _choose_tape(tape, archived)
    if not has_all:
        return set_aside(archived if better is tape else tape)
    if better is archived:
        sync_file(archived)  # it may have been copied without a sync
        sync_file(archived.parent)
        tape.unlink()
    return None


def is_foreign(tape: Path) -> bool:
    """Return whether a tape begins as that of another session or window than its name says."""
    entry = next(iter(TapeReader(tape)), None)
    return isinstance(entry, OpeningMark) and (
        entry.session not in ("", tape.parent.name)
        or not tape.name.startswith(compact_utc(entry.stamp))
    )


def set_aside(path: Path) -> Path:
    """Rename a tape so that readers ignore it, and return its new path."""
    names = (path.with_name(f"{path.name}.aside-{number}") for number in count(1))
    aside = next(name for name in names if not name.exists())
    path.rename(aside)
    sync_file(aside.parent)
    return aside
