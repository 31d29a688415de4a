"""Coverage on disk: ``coverage/date=<UTC date>/<session>.parquet``, one row an interval.

Columns: ``session``, ``symbol``, ``start`` and ``end`` (UTC, us; end exclusive), ``state``
(``listening`` or ``gap``), ``reason`` (of a gap; of a stretch of a merge, the sessions that
listened). An interval over midnight is cut there, so that a day can be read by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, time
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from stocktrace.errors import ConversionError
from stocktrace.gap import Interval
from stocktrace.store import files, outbox
from stocktrace.store.layout import Layout
from stocktrace.store.repairs import Gap, add_states
from stocktrace.store.shelf import shelf_of
from stocktrace.store.window import NS_PER_DAY, utc_date

COVERAGE = pa.schema(
    [
        pa.field("session", pa.string(), nullable=False),
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("start", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("end", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)


def read_coverage(
    tickers: str | Sequence[str] = (),
    *,
    date: str | None = None,
    session: str | None = None,
    data_dir: str | Path | None = None,
) -> pd.DataFrame:
    """When ``tickers`` (default all) were listened to and when not, by start.

    Args:
        tickers: One or more Finnhub symbols.
        date: One UTC date; default all.
        session: One session; default all.
        data_dir: The data folder, default as in the settings; or the URL of a lake.

    Returns:
        ``session``, ``symbol`` str · ``start``, ``end`` (exclusive) datetime64[us, UTC] · ``state``
        str, ``listening`` or ``gap`` · ``reason`` str, of a gap; of a stretch of a merge, the
        sessions that listened. An interval over midnight is cut there.

    Raises:
        StoreError: a file is damaged.
    """
    shelf = shelf_of(data_dir)
    wanted = [tickers] if isinstance(tickers, str) else list(tickers)
    tables = []
    for path in shelf.coverage(date, session):
        table = read_file(path, shelf.files)
        tables.append(
            table.filter(pc.is_in(table["symbol"], pa.array(wanted, pa.string())))
            if wanted
            else table
        )
    table = pa.concat_tables(tables) if tables else COVERAGE.empty_table()
    frame: pd.DataFrame = table.sort_by(
        [("start", "ascending"), ("symbol", "ascending")]
    ).to_pandas()
    return frame


def read_file(path: str | Path, files: pafs.FileSystem | None = None) -> pa.Table:
    """The rows of one file, page checksums verified.

    Raises:
        ConversionError: it is damaged, or not a file of ours.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, filesystem=files) as file:
            table = file.read(use_threads=False)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ConversionError(f"{path} cannot be read: {error}.") from error
    if not table.schema.equals(COVERAGE):
        raise ConversionError(f"{path} has other columns than ours: {table.schema}.")
    return table


def read_gaps(
    tickers: str | Sequence[str] = (),
    *,
    date: str | None = None,
    session: str | None = None,
    data_dir: str | Path | None = None,
) -> pd.DataFrame:
    """The gaps of ``tickers`` (default all), by start; arguments as of ``read_coverage``.

    Returns:
        The columns of ``read_coverage``, and what became of each gap: ``repair`` str, ``repaired``,
        ``unneeded``, ``unavailable`` or ``open`` · ``repair_reason`` str, why.

    Raises:
        StoreError: a file is damaged.
    """
    coverage = read_coverage(tickers, date=date, session=session, data_dir=data_dir)
    gaps = coverage[coverage["state"] == "gap"].reset_index(drop=True)
    return add_states(gaps, shelf_of(data_dir))


def whole_gaps(gaps: pd.DataFrame) -> dict[tuple[str, datetime, datetime, str], set[str]]:
    """The tickers of each gap: its session, start, end and reason, not cut at midnight.

    ``gaps`` is what ``read_gaps`` gave.
    """
    ending: dict[tuple[str, str, str, datetime], datetime] = {}  # with the start of each
    names = ["session", "symbol", "reason", "start", "end"]
    for session, symbol, reason, start, end in gaps[names].itertuples(index=False):
        at = start.to_pydatetime()
        began = ending.pop((session, symbol, reason, at), at) if _is_midnight(at) else at
        ending[session, symbol, reason, end.to_pydatetime()] = began
    found: dict[tuple[str, datetime, datetime, str], set[str]] = {}
    for (session, symbol, reason, end), start in ending.items():
        found.setdefault((session, start, end, reason), set()).add(symbol)
    return found


def _is_midnight(when: datetime) -> bool:
    return when.time() == time.min


def gaps_in(data_dir: str | Path) -> list[Gap]:
    """The gaps of all sessions that ended, by start."""
    frame = read_coverage(data_dir=data_dir)
    rows = frame[frame["state"] == "gap"]
    times = (rows[name].astype("int64").tolist() for name in ("start", "end"))  # they are in us
    return list(zip(rows["session"], rows["symbol"], *times, strict=True))


def listened(
    data_dir: str | Path, tickers: Sequence[str], dates: Iterable[str | None] = (None,)
) -> dict[str, list[tuple[int, int]]]:
    """When ``tickers`` were listened to, by any session: ``(start, end)`` in epoch ns, by start.

    Of UTC ``dates``, sorted; default all.
    """
    found: dict[str, list[tuple[int, int]]] = {}
    frame = pd.concat([read_coverage(tickers, date=each, data_dir=data_dir) for each in dates])
    rows = frame[frame["state"] == "listening"]
    times = (rows[name].astype("int64") * 1000 for name in ("start", "end"))  # they are in us
    for ticker, start, end in zip(rows["symbol"], *times, strict=True):
        found.setdefault(ticker, []).append((start, end))
    return found


def write_coverage(layout: Layout, session: str, intervals: Iterable[Interval]) -> list[Path]:
    """Publish the coverage of a session, a file a day; writing it again replaces it.

    Returns:
        The files.
    """
    written: list[Path] = []
    days: dict[str, list[Interval]] = {}
    for interval in intervals:
        for piece in cut(interval):
            days.setdefault(utc_date(piece.start), []).append(piece)
    for day, pieces in days.items():
        path = layout.coverage(session, day)
        path.parent.mkdir(parents=True, exist_ok=True)
        layout.converting.mkdir(parents=True, exist_ok=True)
        with files.locked_temporary(layout.converting / f"{session}-{day}.parquet") as temporary:
            with files.telling(temporary):
                pq.write_table(
                    _table(session, pieces), temporary, compression="zstd", write_page_checksum=True
                )
            files.publish(temporary, path)
        if layout.lake:
            outbox.put(layout, session, path)
        written.append(path)
    return written


def cut(interval: Interval) -> Iterator[Interval]:
    """``interval`` in pieces of one UTC day each."""
    start = interval.start
    while start < interval.end:
        midnight = start - start % NS_PER_DAY + NS_PER_DAY
        end = min(midnight, interval.end)
        yield replace(interval, start=start, end=end)
        start = end


def _table(session: str, pieces: list[Interval]) -> pa.Table:
    pieces = sorted(pieces, key=lambda piece: (piece.ticker, piece.start))
    return pa.table(
        [
            pa.array([session] * len(pieces), pa.string()),
            pa.array([piece.ticker for piece in pieces], pa.string()),
            pa.array([piece.start // 1000 for piece in pieces], pa.timestamp("us", "UTC")),
            pa.array([piece.end // 1000 for piece in pieces], pa.timestamp("us", "UTC")),
            pa.array(["gap" if piece.reason else "listening" for piece in pieces], pa.string()),
            pa.array([piece.reason or piece.by for piece in pieces], pa.string()),
        ],
        schema=COVERAGE,
    )
