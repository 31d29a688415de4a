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
    shelf = open_source(data_dir)
    wanted = [tickers] if isinstance(tickers, str) else list(tickers)
    tables = []
    for path in shelf.coverage_files(date, session):
        table = read_coverage_file(path, shelf.files)
        tables.append(
            table.filter(pc.is_in(table["symbol"], pa.array(wanted, pa.string())))
            if wanted
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
    """The gaps of ``tickers`` (default all), by start; arguments as of ``read_coverage``.

    Returns:
        The columns of ``read_coverage``, and what became of each gap: ``repair`` str, ``repaired``,
        ``unneeded``, ``unavailable`` or ``open`` · ``repair_reason`` str, why.

    Raises:
        StoreError: a file is damaged.
    """
    coverage = read_coverage(tickers, date=date, session=session, data_dir=data_dir)
    gaps = coverage[coverage["state"] == "gap"].reset_index(drop=True)
    return add_fill_states(gaps, open_source(data_dir))


def join_midnight_gaps(gaps: pd.DataFrame) -> dict[tuple[str, datetime, datetime, str], set[str]]:
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


def read_all_gaps(data_dir: str | Path) -> list[GapKey]:
    """The gaps of all sessions that ended, by start."""
    frame = read_coverage(data_dir=data_dir)
    rows = frame[frame["state"] == "gap"]
    times = (rows[name].astype("int64").tolist() for name in ("start", "end"))  # they are in us
    return list(zip(rows["session"], rows["symbol"], *times, strict=True))


def listened_spans(
    data_dir: str | Path, tickers: Sequence[str], dates: Iterable[str | None] = (None,)
) -> dict[str, list[TimeSpan]]:
    """When ``tickers`` were listened to, by any session: merged spans in epoch us.

    Of UTC ``dates``, sorted; default all.
    """
    found: dict[str, list[TimeSpan]] = {}
    frame = pd.concat([read_coverage(tickers, date=each, data_dir=data_dir) for each in dates])
    rows = frame[frame["state"] == "listening"]
    times = (rows[name].astype("int64") for name in ("start", "end"))  # they are in us
    for ticker, start, end in zip(rows["symbol"], *times, strict=True):
        found.setdefault(ticker, []).append((start, end))
    return {ticker: merge_spans(spans) for ticker, spans in found.items()}
