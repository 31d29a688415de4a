"""Read the coverage: when each ticker was listened to, and the gaps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from stocktrace.intervals import TimeSpan, merge_spans
from stocktrace.query.gap_fills import GapKey, add_fill_states
from stocktrace.store.coverage import COVERAGE_SCHEMA, read_coverage_files
from stocktrace.store.dataset import retry_on_compaction
from stocktrace.store.source import DataSource, open_source
from stocktrace.units import MS_PER_SECOND, US_PER_MS, US_PER_SECOND, epoch_ms

#: Later than any time in epoch ms.
LATEST_MS = 2**62
Int64Array = npt.NDArray[np.int64]


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
        sessions that listened; both are empty otherwise · ``lag_s`` float64, how far the feed was
        behind: at most while it listened, and at the loss before a gap, which begins that much
        before the last receipt. An interval over midnight is cut there.

    Raises:
        StoreError: A file is damaged.
    """
    source = open_source(data_dir)
    names = [tickers] if isinstance(tickers, str) else list(tickers)
    tables = _read_tables(source, [date] if date else None, session)
    table = pa.concat_tables([COVERAGE_SCHEMA.empty_table(), *tables])
    if names:
        table = table.filter(pc.field("symbol").isin(pa.array(names, pa.string())))
    if session is not None:
        table = table.filter(pc.field("session") == session)
    order = [("start", "ascending"), ("symbol", "ascending")]
    frame: pd.DataFrame = table.sort_by(order).to_pandas()
    return frame


def _read_tables(
    source: DataSource, dates: Sequence[str] | None, session: str | None = None
) -> list[pa.Table]:
    return retry_on_compaction(
        lambda: [*read_coverage_files(source.coverage_files(dates, session), source.files)]
    )


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
        is_midnight = at.time() == time.min
        began = starts.pop((session, symbol, reason, at), at) if is_midnight else at
        starts[session, symbol, reason, end.to_pydatetime()] = began
    joined: dict[tuple[str, datetime, datetime, str], set[str]] = {}
    for (session, symbol, reason, end), start in starts.items():
        joined.setdefault((session, start, end, reason), set()).add(symbol)
    return joined


def read_all_gaps(data_dir: str | Path) -> list[GapKey]:
    """Return the gaps of all sessions that ended, by start."""
    frame = read_coverage(data_dir=data_dir)
    rows = frame[frame["state"] == "gap"]
    return list(zip(rows["session"], rows["symbol"], *_span_columns(rows), strict=True))


def listened_spans(
    data_dir: str | Path, tickers: Sequence[str], dates: Iterable[str | None] = (None,)
) -> dict[str, list[TimeSpan]]:
    """Return when ``tickers`` were listened to, by any session: merged spans in epoch us.

    Only UTC ``dates`` are read; default all.
    """
    spans: dict[str, list[TimeSpan]] = {}
    frame = pd.concat([read_coverage(tickers, date=date, data_dir=data_dir) for date in dates])
    rows = frame[frame["state"] == "listening"]
    for ticker, start, end in zip(rows["symbol"], *_span_columns(rows), strict=True):
        spans.setdefault(ticker, []).append((start, end))
    return {ticker: merge_spans(pieces) for ticker, pieces in spans.items()}


def _span_columns(coverage: pd.DataFrame) -> tuple[list[int], list[int]]:
    """Return the starts and the ends of some rows, in epoch us."""
    return coverage["start"].astype("int64").tolist(), coverage["end"].astype("int64").tolist()


# --- the gaps in bars --------------------------------------------------------------------------


def gap_seconds(
    source: DataSource,
    tickers: Sequence[str],
    bar_tickers: Int64Array,
    starts: Int64Array,
    ends: Int64Array,
) -> npt.NDArray[np.float64]:
    """Return how many seconds of each bar (epoch ms) no session listened to its ticker.

    ``bar_tickers`` are places in ``tickers``, in order. While a session is running, which writes
    its coverage when it ends, a gap after its start is nan.
    """
    seconds = np.zeros(len(starts))
    if not len(starts):
        return seconds
    begin, last = (
        datetime.fromtimestamp(int(ms) / MS_PER_SECOND, UTC)
        for ms in (starts.min(), ends.max() - 1)
    )
    days = [
        (begin.date() + timedelta(days=n)).isoformat()
        for n in range((last.date() - begin.date()).days + 1)
    ]
    tables = _read_tables(source, days)
    names = pa.array(tickers, pa.string())
    rows = pc.field("symbol").isin(names) & (pc.field("state") == "listening")
    empty = COVERAGE_SCHEMA.empty_table()
    listened = pa.concat_tables([empty, *(table.filter(rows) for table in tables)]).to_pandas()
    spans: dict[str, list[TimeSpan]] = {}
    for ticker, start, end in zip(listened["symbol"], *_span_columns(listened), strict=True):
        spans.setdefault(ticker, []).append((start, end))
    edges = np.searchsorted(bar_tickers, np.arange(len(tickers) + 1))
    for at, ticker in enumerate(tickers):
        bars = slice(edges[at], edges[at + 1])
        seconds[bars] = _listened_seconds(spans.get(ticker, []), starts[bars], ends[bars])
    seconds = np.maximum(np.round((ends - starts) / MS_PER_SECOND - seconds, 6), 0.0)
    if seconds.any():
        ended = {name for table in tables for name in table["session"].unique().to_pylist()}
        since = _earliest_begin(source.running_sessions(begin, last, ended))
        seconds[(ends > since) & (seconds > 0)] = np.nan
    return seconds


def _earliest_begin(sessions: Iterable[str]) -> int:
    """Return when the first of ``sessions`` began (epoch ms)."""
    names = (f"{session[:15]}+0000" for session in sessions)
    starts = (datetime.strptime(name, "%Y%m%dT%H%M%S%z") for name in names)
    return min(map(epoch_ms, starts), default=LATEST_MS)


def _listened_seconds(
    listened: Iterable[TimeSpan], starts: Int64Array, ends: Int64Array
) -> npt.NDArray[np.float64]:
    spans = merge_spans(listened)
    if not spans:
        return np.zeros(len(starts))
    edges = np.array(spans, np.int64).ravel()
    # Cumulated listened time grows between a start and its end, and is constant otherwise.
    lengths = np.diff(edges)
    lengths[1::2] = 0
    cumulated = np.concatenate(([0], np.cumsum(lengths)))
    at_starts, at_ends = (
        np.interp((times * US_PER_MS - edges[0]).astype(float), edges - edges[0], cumulated)
        for times in (starts, ends)
    )
    seconds: npt.NDArray[np.float64] = (at_ends - at_starts) / US_PER_SECOND
    return seconds
