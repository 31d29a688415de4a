"""Segments: the validated trades of one ticker and window, as CSV.

    .csv.open ──seal: rename──▶ .csv ──convert──▶ .parquet

They are not synced: until the tape is archived, which is after their rows are published, a power
cut may leave any part of them, and ``recover`` writes them again from the tape.

Times are written as ``2026-11-23 14:30:00.123Z`` (ms) and ``…00.123456Z`` (µs), numbers as the
shortest text of the same float64, without quotes: no text in a row can hold a comma, a quote or a
line feed (``is_ticker``, ``batch``), so a row is a line.

When a segment is read, every type is declared and nothing is guessed. What is not a segment is a
``ConversionError``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pcsv

from stocktrace.errors import ConversionError
from stocktrace.latency import LatencyHistogram
from stocktrace.store import files, validation
from stocktrace.store.arrow_schema import TRADE_SCHEMA
from stocktrace.store.batch import Batch, BatchColumns
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.quarantine import QuarantinedRow, QuarantineWriter
from stocktrace.trade import COLUMNS
from stocktrace.units import US_PER_MS

HEADER = (",".join(COLUMNS) + "\n").encode()
# The first batch of a window creates all: on a busy disk, one after another would take seconds.
_MANY_SEGMENTS = 100
# Descriptors below are left to the rest of the process: ``select`` cannot wait for higher ones.
_FIRST_DESCRIPTOR = 1024
# Enough for any watch-list. Where the hard limit is "unlimited", the table of files would be huge.
_MAX_DESCRIPTORS = 1 << 16


def make_folders_ahead(layout: Layout, tickers: Iterable[str]) -> threading.Thread:
    """Make the folders of segments on a thread, which is returned, before the first batch comes.

    5,000 folders can take seconds, in which the recorder's queues fill up. It makes what is still
    missing, and raises what is wrong.
    """

    def make_folders() -> None:
        with contextlib.suppress(OSError):
            for ticker in tickers:
                layout.csv_folder(ticker).mkdir(parents=True, exist_ok=True)

    thread = threading.Thread(target=make_folders, name="stocktrace-folders", daemon=True)
    thread.start()
    return thread


@dataclass(slots=True)
class TickerCounts:
    """How many trades of one ticker in one window were recorded and quarantined."""

    recorded: int = 0
    quarantined: int = 0


@cache
def _free_descriptors() -> threading.Semaphore:
    """Raise the process's limit of open files; return how many may be kept open, for all writers.

    The soft limit is 1024 on most systems, for the sake of programs that use ``select``. It stays
    raised: another capture of the process may still depend on it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = [_MAX_DESCRIPTORS if each == resource.RLIM_INFINITY else each for each in (soft, hard)]
    limit = max(limits[0], min(limits[1], _MAX_DESCRIPTORS))
    if limit > limits[0]:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (OSError, ValueError):  # macOS has another maximum, which it does not say
            limit = limits[0]
    return threading.Semaphore(max(0, limit - _FIRST_DESCRIPTOR))


@dataclass(slots=True)
class Appender:
    """Files that one thread creates and appends to; as many stay open as the process may have.

    Opening and closing a file costs four times as much as writing to it. ``close`` them at the end.
    """

    _descriptors: dict[str, int] = field(default_factory=dict)

    def create(self, path: str, data: bytes) -> None:
        """Create a file with its first data; ``FileExistsError`` if it exists."""
        try:
            descriptor = os.open(path, files.APPEND | os.O_EXCL, 0o666)
            try:
                files.write_all(descriptor, data)
                self._keep(path, descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            files.raise_disk_error(Path(path), error)

    def append(self, path: str, data: memoryview) -> None:
        """Append to a file that was created."""
        descriptor = self._descriptors.get(path)
        if descriptor is None:
            files.append(path, data)
            return
        try:
            files.write_all(descriptor, data)
        except OSError as error:
            files.raise_disk_error(Path(path), error)

    def close(self) -> None:
        """Close all files."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])
            _free_descriptors().release()

    def _keep(self, path: str, descriptor: int) -> None:
        """Keep a file open under another descriptor, if one is free."""
        if not _free_descriptors().acquire(blocking=False):
            return
        try:
            kept = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_DESCRIPTOR)
        except OSError:  # the rest of the process has taken them
            _free_descriptors().release()
        else:
            self._descriptors[path] = kept


@dataclass(slots=True)
class SegmentWriter:
    """Writes the segments and the quarantine of one window, batch by batch, then seals them.

    If a ticker ``is_published``, its rows are validated and counted, but not written: that is so
    when a window is rebuilt after a crash.
    """

    layout: Layout
    window: WindowId
    is_published: Callable[[str], bool] = lambda _: False
    counts: dict[str, TickerCounts] = field(default_factory=dict)
    lags: LatencyHistogram = field(default_factory=LatencyHistogram)
    latest_lag_ms: float = 0.0
    #: As text: a ``Path`` costs 1 µs more each time.
    _paths: dict[str, str] = field(default_factory=dict)
    _appender: Appender = field(default_factory=Appender)
    _quarantine: QuarantineWriter = field(init=False)

    def __post_init__(self) -> None:
        self._quarantine = QuarantineWriter(self.layout.quarantine(self.window))

    @property
    def tickers(self) -> Collection[str]:
        """The tickers that have a segment."""
        return self._paths.keys()

    def quarantine(self, rows: Iterable[QuarantinedRow]) -> None:
        """Quarantine rows that could not be decoded."""
        self._quarantine.add(rows)

    def write(self, batch: Batch) -> None:
        """Validate and append a batch."""
        columns = BatchColumns(batch)
        valid = np.ones(len(columns.price), np.bool_)
        failures = validation.find_failures(columns.frame())
        if failures:
            valid[list(failures)] = False
            self._quarantine.add(columns.quarantine_rows(failures))
        # Only of valid rows: a wrong time may be why a row is invalid.
        lags_ms = (columns.ts_recv - columns.ts_event)[valid].view(np.int64) / US_PER_MS
        self.lags.add(lags_ms)
        if len(lags_ms):
            middle = len(lags_ms) // 2
            self.latest_lag_ms = float(np.partition(lags_ms, middle)[middle])
        ends = np.cumsum(columns.counts)
        valid_ends = np.concatenate(([0], np.cumsum(valid)))[ends]
        self._append(columns.symbols, valid_ends, columns.lines(valid))
        for ticker, count, recorded in zip(
            columns.symbols, columns.counts, np.diff(valid_ends, prepend=0).tolist(), strict=True
        ):
            ticker_counts = self.counts.get(ticker)
            if ticker_counts is None:
                ticker_counts = self.counts[ticker] = TickerCounts()
            ticker_counts.recorded += recorded
            ticker_counts.quarantined += count - recorded

    def _append(
        self, tickers: Sequence[str], ends: npt.NDArray[np.int64], lines: pa.StringArray
    ) -> None:
        """Append to each ticker's segment its ``lines``: those up to ``ends[i]``."""
        _, offsets, text = lines.buffers()
        if not len(lines):
            return
        stops = np.frombuffer(offsets, np.int32)[ends]
        view, begin = memoryview(text), 0
        new: list[tuple[str, memoryview]] = []
        for ticker, stop in zip(tickers, stops.tolist(), strict=True):
            if stop > begin:
                if path := self._paths.get(ticker):
                    self._appender.append(path, view[begin:stop])
                elif not self.is_published(ticker):
                    new.append((ticker, view[begin:stop]))
            begin = stop
        if len(new) < _MANY_SEGMENTS:
            for segment in new:
                self._begin_segment(segment)
        else:
            files.do_at_once(self._begin_segment, new)

    def _begin_segment(self, segment: tuple[str, memoryview]) -> None:
        """Create the segment of a ticker with its first lines."""
        ticker, lines = segment
        path = self.layout.open_csv(ticker, self.window)
        first = HEADER + lines
        try:
            self._appender.create(str(path), first)
        except FileNotFoundError:  # ``make_folders_ahead`` has not come to it yet
            # Not the data folder itself: it may have been moved.
            path.parent.parent.mkdir(exist_ok=True)
            path.parent.mkdir(exist_ok=True)
            self._appender.create(str(path), first)
        except FileExistsError:  # left by a crashed attempt
            path.unlink()
            self._appender.create(str(path), first)
        self._paths[ticker] = str(path)

    def seal(self, except_tickers: Iterable[str] = ()) -> None:
        """Rename the segments, except those of some tickers, and the quarantine."""
        self.close()
        for ticker in self._paths.keys() - set(except_tickers):
            path = Path(self._paths[ticker])
            path.rename(path.with_suffix(""))  # without ``OPEN``
        self._quarantine.seal()

    def close(self) -> None:
        """Close the segments; after an error, they stay open for ``recover``."""
        self._appender.close()


# So much CSV is parsed at a time: small segments together, a large one in pieces.
_BLOCK_BYTES = 1 << 23
_PARSE_OPTIONS = pcsv.ParseOptions(quote_char=False)
_CONVERT_OPTIONS = pcsv.ConvertOptions(
    column_types=TRADE_SCHEMA, null_values=[], strings_can_be_null=False
)


def read_segments(paths: Iterable[Path]) -> Iterator[pa.Table]:
    """Yield the rows of sealed segments (``TRADE_SCHEMA``), in the order of ``paths``.

    Raises:
        ConversionError: A segment is truncated, or a file is not a segment.
    """
    blocks: list[bytes] = []
    size = 0
    for path in paths:
        for lines in _read_lines(path):
            blocks.append(lines)
            size += len(lines)
            if size >= _BLOCK_BYTES:
                yield parse_lines(b"".join(blocks), path)
                blocks, size = [], 0
    if blocks:
        yield parse_lines(b"".join(blocks), path)


def _read_lines(path: Path) -> Iterator[bytes]:
    """Yield a segment without its header, in blocks of complete lines."""
    with path.open("rb") as file:
        if file.readline() != HEADER:
            raise ConversionError(f"{path} does not begin with the header of a segment.")
        rest = b""
        while block := file.read(_BLOCK_BYTES):
            end = block.rfind(b"\n") + 1
            if end:
                yield rest + block[:end]
            rest = block[end:] if end else rest + block
    # A number that was cut off still parses: a row is complete only with its line feed.
    if rest:
        raise ConversionError(f"{path} is truncated: the last line is incomplete.")


def read_first_rows(path: Path, count: int) -> pa.Table:
    """Read the first rows of a sealed segment; the errors are those of ``read_segments``."""
    return pa.concat_tables([TRADE_SCHEMA.empty_table(), *read_segments([path])]).slice(0, count)


def read_open_segment(path: Path) -> pa.Table:
    """Read a segment that may still be appended to: the rows of its complete lines.

    Raises:
        ConversionError: The file is not a segment.
        FileNotFoundError: The file does not exist (any more).
    """
    data = path.read_bytes()
    lines = data[: data.rfind(b"\n") + 1]
    if not HEADER.startswith(lines[: len(HEADER)]):
        raise ConversionError(f"{path} does not begin with the header of a segment.")
    return parse_lines(lines[len(HEADER) :], path)


def parse_lines(lines: bytes, path: Path | str = "A segment") -> pa.Table:
    """Parse complete lines without a header, of segments up to ``path``, in their order."""
    if not lines:
        return TRADE_SCHEMA.empty_table()
    options = pcsv.ReadOptions(
        use_threads=False, column_names=list(COLUMNS), block_size=len(lines) + 1
    )
    try:
        table = pcsv.read_csv(pa.BufferReader(lines), options, _PARSE_OPTIONS, _CONVERT_OPTIONS)
        return table.cast(TRADE_SCHEMA)
    except pa.ArrowInvalid as error:
        raise ConversionError(f"{path} is not a segment: {error}.") from error
