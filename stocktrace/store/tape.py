r"""The tape: one append-only file per roll window, the truth that everything else is rebuilt from.

Invariants:

- A line is ``<receive time, UTC epoch ns>\\t<payload>\n``. The payload is a frame as received, or
  begins with ``#`` and is ours: ``#<mark> <json>``.
- A frame that cannot stand verbatim (it holds a line feed, begins with ``#``, or was binary)
  stands as ``#raw <base64>``, so that every frame can be had back byte for byte.
- A line is complete exactly when its ``\n`` is there; what follows the last one is torn.
- One thread appends, one write a read of the socket; the data is with the operating system when
  ``append`` returns.

A sealed tape is ``.tape`` or, compressed, ``.tape.zst``; recordings of others may be ``.tape.gz``.
One that was set aside (``settle``) ends in ``.aside-<n>``.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Protocol, Self

import zstandard

from stocktrace.errors import TapeError
from stocktrace.store.files import disk_errors, locked_temporary, publish_file, sync_file, write_all

RAW = "raw"
#: The last receive time that fits into an int64, in the year 2262.
LATEST_NS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class TapeMark:
    """A line of ours: what happened to the connection, at ``stamp`` (UTC epoch ns)."""

    stamp: int
    name: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TapeFrames:
    """Consecutive frames of one receive time, ``stamp`` (UTC epoch ns): a read of the socket."""

    stamp: int
    frames: Sequence[bytes]


class TapeWriter:
    """Appends to one tape.

    ``append`` and ``mark`` belong to the feed's thread and take no lock: a write beside an fsync is
    the system's to order, and ``close`` comes only after the last append. ``sync`` and ``close``
    belong to two other threads; their lock keeps a sync off a closed (and reused) descriptor.
    """

    def __init__(self, path: Path) -> None:
        """Create the tape; an existing file is never touched (``FileExistsError``)."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.size = 0
        self._closing = threading.Lock()
        self._closed = False
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)

    def append(self, stamp: int, frames: Sequence[bytes]) -> bytes:
        """Append ``frames`` as received at ``stamp``, in one write; gives what was written."""
        prefix = b"%d\t" % stamp
        text = b"".join((prefix, (b"\n" + prefix).join(frames), b"\n"))
        # Two scans at memory speed spare a look at each frame; what they find is rare.
        if text.count(b"\n") != len(frames) or b"#" in text:
            text = b"".join(prefix + _escape(frame) + b"\n" for frame in frames)
        self._write(text)
        return text

    def mark(self, mark: TapeMark) -> None:
        """Append a line of ours."""
        facts = json.dumps(mark.facts, separators=(",", ":"))
        self._write(f"{mark.stamp}\t#{mark.name} {facts}\n".encode())

    def _write(self, text: bytes) -> None:
        try:
            write_all(self._fd, text)
        except OSError:
            # Lines of a read that was not taken in whole would be on the tape and in no books.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self.size)
            with disk_errors(self.path):
                raise
        self.size += len(text)

    def sync(self) -> None:
        """Wait until all that was appended is on the disk."""
        with self._closing, disk_errors(self.path):
            if not self._closed:
                os.fsync(self._fd)

    def close(self) -> None:
        """Sync and close; the second time nothing."""
        with self._closing, disk_errors(self.path):
            if not self._closed:
                self._closed = True
                try:
                    os.fsync(self._fd)
                finally:
                    os.close(self._fd)
                    self._fd = -1  # the number may soon be another file's


def _escape(frame: bytes) -> bytes:
    if b"\n" in frame or frame.startswith(b"#"):
        return b"#raw " + base64.b64encode(frame)
    return frame


def parse_line(line: bytes) -> TapeMark | TapeFrames:
    """The meaning of one complete line (without its line feed).

    Raises:
        TapeError: the line is not of the grammar.
    """
    stamp_text, tab, payload = line.partition(b"\t")
    if not tab or not stamp_text.isdigit() or len(stamp_text) > len(str(LATEST_NS)):
        raise TapeError(f"no receive time at the start of the line {line[:60]!r}")
    stamp = int(stamp_text)
    if stamp > LATEST_NS:  # one flipped bit makes a 9 of the 1 that our times begin with
        raise TapeError(f"no time of this age at the start of the line {line[:60]!r}")
    if not payload.startswith(b"#"):
        return TapeFrames(stamp, (payload,))
    name, _, facts = payload[1:].partition(b" ")
    try:
        if name == RAW.encode():
            return TapeFrames(stamp, (base64.b64decode(facts, validate=True),))
        mark = TapeMark(stamp, name.decode(), json.loads(facts))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise TapeError(f"unreadable line of ours {line[:60]!r}") from error
    if not isinstance(mark.facts, dict):
        raise TapeError(f"a line of ours without facts {line[:60]!r}")
    return mark


class _Decompressor(Protocol):
    """Of zlib or zstandard, for one member or frame."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


# What bounds the memory: zlib makes at most a thousand times as much of it.
_COMPRESSED_BYTES = 1 << 16
_DECOMPRESSORS: dict[str, Callable[[], _Decompressor]] = {
    ".gz": lambda: zlib.decompressobj(wbits=31),  # 31: the largest window, in gzip's envelope
    ".zst": lambda: zstandard.ZstdDecompressor().decompressobj(),
}
_UNREADABLE = (EOFError, zlib.error, zstandard.ZstdError)


def _decompressed(path: Path) -> Iterator[bytes]:
    """The bytes of a tape, decompressed by the end of its name, as far as they can be had.

    The stream readers of both libraries keep back what they hold when the data ends too early,
    and that of zstandard does not even tell.
    """
    make = _DECOMPRESSORS.get(path.suffix)
    with path.open("rb") as file:
        if make is None:
            while chunk := file.read(1 << 20):
                yield chunk
            return
        decompressor = make()
        while piece := file.read(_COMPRESSED_BYTES):
            while piece:
                if decompressor.eof:
                    decompressor = make()
                yield decompressor.decompress(piece)
                piece = decompressor.unused_data
        if not decompressor.eof:
            raise EOFError("the compressed data ends too early")


@dataclass(slots=True)
class TapeReader:
    """Reads a tape, keeping every complete line; after the last one its counts are final.

    ``torn_bytes`` counts what followed the last line feed, ``bad_lines`` the complete lines that
    are not of the grammar, ``broken`` says why reading ended early, if it did.
    """

    path: Path
    torn_bytes: int = 0
    invalid_lines: int = 0
    damage: str | None = None

    def __iter__(self) -> Iterator[TapeMark | TapeFrames]:
        """The tape's marks and frames in their order; neighbours with one stamp come together."""
        stamp, frames = 0, list[bytes]()
        for line in self._lines():
            # The grammar's fast path, for the lines that are nearly all of a tape.
            text, _, payload = line.partition(b"\t")
            if (
                payload
                and payload[0] != 35  # "#"
                and text.isdigit()
                and len(text) <= 19  # a number of any length takes any time to read
                and (line_stamp := int(text)) <= LATEST_NS
            ):
                if line_stamp != stamp and frames:
                    yield TapeFrames(stamp, frames)
                    frames = []
                stamp = line_stamp
                frames.append(payload)
                continue
            try:
                entry = parse_line(line)
            except TapeError:
                self.invalid_lines += 1
                continue
            if isinstance(entry, TapeFrames) and entry.stamp == stamp:
                frames.extend(entry.frames)
                continue
            if frames:
                yield TapeFrames(stamp, frames)
                frames = []
            if isinstance(entry, TapeFrames):
                stamp = entry.stamp
                frames.extend(entry.frames)
            else:
                yield entry
        if frames:
            yield TapeFrames(stamp, frames)

    def _lines(self) -> Iterator[bytes]:
        rest = b""
        try:
            for chunk in _decompressed(self.path):
                lines = (rest + chunk).split(b"\n")
                rest = lines.pop()
                yield from lines
        except _UNREADABLE as error:
            self.damage = str(error)
        self.torn_bytes = len(rest)


# On lines of JSON, level 1 is smaller than 3 and takes two thirds of the time; 9 gains a sixth for
# ten times that (docs/performance.md).
_LEVEL = 1


def archive_tape(tape: Path, archived: Path) -> None:
    """Compress a tape that gets no more lines; the original goes only when the copy was re-read.

    An archive that exists already is never replaced by less (``settle``).

    Raises:
        TapeError: what was written is not what was read; the tape stays.
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
                    raise TapeError(f"{temporary} does not hold what {tape} does.")
            if source.read(1):
                raise TapeError(f"{temporary} does not hold all that {tape} does.")
        publish_file(temporary, archived)
    tape.unlink()


@dataclass(frozen=True, slots=True)
class _TapePair:
    """A plain tape and an archive of one window, in bytes of their contents.

    ``plain`` is the size of the one, ``archived`` what can be read of the other: not all of it, or
    not what was written, if it is ``broken``. ``agree``: the longer one begins with the other.
    """

    plain: int
    archived: int
    agree: bool
    broken: bool

    @classmethod
    def of(cls, tape: Path, archived: Path) -> Self:
        size, agree, broken = 0, True, False
        with tape.open("rb") as plain:
            try:
                for chunk in _decompressed(archived):
                    size += len(chunk)
                    agree = agree and chunk.startswith(plain.read(len(chunk)))
            except _UNREADABLE:
                broken = True
            return cls(os.fstat(plain.fileno()).st_size, size, agree, broken)

    @property
    def plain_is_better(self) -> bool:
        """Whether the plain tape is to be kept; an archive that is whole yields only to more."""
        if self.broken:
            return self.plain >= self.archived
        return self.agree and self.plain > self.archived

    @property
    def plain_adds_nothing(self) -> bool:
        """Whether an archive that is whole has every byte of the plain tape."""
        return not self.broken and self.agree and self.plain <= self.archived


def better_tape(tape: Path, archived: Path) -> Path:
    """Return the better one of a plain tape and the archive of the same window."""
    try:
        return tape if _TapePair.of(tape, archived).plain_is_better else archived
    except FileNotFoundError:  # it was archived while we looked
        return archived


def settle_tapes(tape: Path, archived: Path) -> Path | None:
    """Decide between a plain tape and an archive of one window, so that no frame is lost.

    A copy of a data folder that was made while it recorded, and once more afterwards, has both.

    - The archive is whole and begins with all bytes of the plain tape: the plain tape is deleted.
    - The archive is whole and the plain tape begins with all its bytes and has more: both stay,
      until ``archive`` replaces the archive by more.
    - The archive is whole and they differ: the plain tape is set aside.
    - The archive is broken: the shorter of the two is set aside.

    Returns:
        The new path of the one that was set aside; no reader takes it for a tape.
    """
    pair = _TapePair.of(tape, archived)
    if pair.plain_is_better:
        return set_aside(archived) if pair.broken else None
    if not pair.plain_adds_nothing:
        return set_aside(tape)
    sync_file(archived)  # whoever copied it may not have waited for the disk
    sync_file(archived.parent)
    tape.unlink()
    return None


def set_aside(path: Path) -> Path:
    """Give a tape a name that no reader takes for one; returns it."""
    names = (path.with_name(f"{path.name}.aside-{number}") for number in count(1))
    aside = next(name for name in names if not name.exists())
    path.rename(aside)
    sync_file(aside.parent)
    return aside
