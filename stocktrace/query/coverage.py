"""Read the coverage: when each ticker was listened to, and the gaps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, time
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from stocktrace.intervals import TimeSpan, merge_spans
from stocktrace.store.coverage import COVERAGE_SCHEMA, read_coverage_file
from stocktrace.store.gap_fills import GapKey, add_fill_states
from stocktrace.store.source import open_source


def read_coverage(
    tickers: str | Sequence[str] = (),
    *,
    date: str | None = None,
    session: str | None = None,
    data_dir: str | Path | None = None,
) -> pd.DataFrame:
    """Read when ``tickers`` (default all) were listened to and when not, by start.

    Args:
        tickers: One or more Finnhub symbols.
        date: One UTC date; default all.
        session: One session; default all.
        data_dir: The data folder, default as in the settings; or the URL of a lake.

    Returns:
        ``session``, ``symbol`` str · ``start``, ``end`` (exclusive) datetime64[us, UTC] · ``state``
        str, ``listening`` or ``gap`` · ``reason`` str, of a gap · ``sources`` str, in a merge the
        sessions that listened. Both are empty otherwise. An interval over midnight is cut there.

    Raises:
        StoreError: A file is damaged.
    """
    source = open_source(data_dir)
    names = [tickers] if isinstance(tickers, str) else list(tickers)
    tables = []
    for path in source.coverage_files(date, session):
        table = read_coverage_file(path, source.files)
        tables.append(
            table.filter(pc.is_in(table["symbol"], pa.array(names, pa.string())))
            if names
            else table
        )
    table = pa.concat_tables(tables) if tables else COVERAGE_SCHEMA.empty_table()
    frame: pd.DataFrame = table.sort_by(
        [("start", "ascending"), ("symbol", "ascending")]
    ).to_pandas()
    return frame


def read_gaps(
    tickers: str | Sequence[str] = (),
    *,
    date: str | None = None,
    session: str | None = None,
    data_dir: str | Path | None = None,
) -> pd.DataFrame:
    """Read the gaps of ``tickers`` (default all), by start; arguments as for ``read_coverage``.

    Returns:
        The columns of ``read_coverage`` without ``sources``, and whether each gap was filled:
        ``repair`` str, ``repaired``, ``unneeded``, ``unavailable`` or ``open`` · ``repair_reason``
        str, why.

    Raises:
        StoreError: A file is damaged.
    """
    coverage = read_coverage(tickers, date=date, session=session, data_dir=data_dir)
    gaps = coverage[coverage["state"] == "gap"].drop(columns="sources").reset_index(drop=True)
    return add_fill_states(gaps, open_source(data_dir))


def join_midnight_gaps(gaps: pd.DataFrame) -> dict[tuple[str, datetime, datetime, str], set[str]]:
    """Return the tickers of each gap: ``(session, start, end, reason)``, not cut at midnight.

    ``gaps`` come from ``read_gaps``.
    """
    starts: dict[tuple[str, str, str, datetime], datetime] = {}  # by end
    names = ["session", "symbol", "reason", "start", "end"]
    for session, symbol, reason, start, end in gaps[names].itertuples(index=False):
        at = start.to_pydatetime()
        began = starts.pop((session, symbol, reason, at), at) if _is_midnight(at) else at
        starts[session, symbol, reason, end.to_pydatetime()] = began
    joined: dict[tuple[str, datetime, datetime, str], set[str]] = {}
    for (session, symbol, reason, end), start in starts.items():
        joined.setdefault((session, start, end, reason), set()).add(symbol)
    return joined


def _is_midnight(when: datetime) -> bool:
    return when.time() == time.min


def read_all_gaps(data_dir: str | Path) -> list[GapKey]:
    """Return the gaps of all sessions that ended, by start."""
    frame = read_coverage(data_dir=data_dir)
    rows = frame[frame["state"] == "gap"]
    times = (rows[name].astype("int64").tolist() for name in ("start", "end"))
    return list(zip(rows["session"], rows["symbol"], *times, strict=True))


def listened_spans(
    data_dir: str | Path, tickers: Sequence[str], dates: Iterable[str | None] = (None,)
) -> dict[str, list[TimeSpan]]:
    """Return when ``tickers`` were listened to, by any session: merged spans in epoch us.

    Only UTC ``dates`` are read; default all.
    """
    spans: dict[str, list[TimeSpan]] = {}
    frame = pd.concat([read_coverage(tickers, date=date, data_dir=data_dir) for date in dates])
    rows = frame[frame["state"] == "listening"]
    times = (rows[name].astype("int64") for name in ("start", "end"))
    for ticker, start, end in zip(rows["symbol"], *times, strict=True):
        spans.setdefault(ticker, []).append((start, end))
    return {ticker: merge_spans(pieces) for ticker, pieces in spans.items()}
