"""The sessions of a data folder, and published files that do not belong to any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from stocktrace.errors import ConversionError, LayoutError
from stocktrace.sessions.catalog import is_in_use
from stocktrace.store import parquet
from stocktrace.store.checksum import content_hash
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, is_day_file, is_session
from stocktrace.store.partition import partition_date, partition_ticker
from stocktrace.verify.day_files import misplaced_rows, sessions_in_days
from stocktrace.verify.finding import Finding


def dates_of_sessions(layout: Layout, sessions: Sequence[str] = ()) -> dict[str, set[str]]:
    """Return the sessions that are not running, each with the UTC dates under which it has files.

    If all ``sessions`` have a report or a tape, return only these, without dates and without
    reading the rest of the folder.
    """
    if sessions and all(is_session(name) and layout.has(name) for name in sessions):
        dates: dict[str, set[str]] = {name: set() for name in sessions}
    else:
        dates = _dates_of_all(layout)
    return {name: dates[name] for name in sorted(dates) if not is_in_use(layout, name)}


def _dates_of_all(layout: Layout) -> dict[str, set[str]]:
    dates: dict[str, set[str]] = {name: set() for name in layout.all_sessions()}
    files = {
        (path.name[: path.name.find("-")], partition_date(path.parent))
        for path in _parquet_files(layout)
    }
    for name, date in files | sessions_in_days(layout):
        if is_session(name):
            dates.setdefault(name, set()).add(date)
    for path in layout.root.glob("coverage/date=*/*.parquet"):
        if path.stem in dates:
            dates[path.stem].add(partition_date(path))
    return dates


def _parquet_files(layout: Layout) -> Iterator[Path]:
    for path in sorted(layout.dataset.rglob("*.parquet")):
        if not any(part.startswith(".") for part in path.relative_to(layout.dataset).parts):
            yield path


def unknown_files(layout: Layout) -> Iterator[Finding]:
    """Yield the published files that readers take for trades although no session wrote them."""
    for path in _parquet_files(layout):
        if path.parent == layout.anchor(partition_date(path.parent)).parent:
            if not _is_anchor(path):
                yield Finding("", path, "has rows in a place for files without rows: remove it")
            continue
        try:
            if is_day_file(path):
                yield from (Finding("", path, problem) for problem in misplaced_rows(layout, path))
                continue
            part = WindowId.parse(path)
            ticker = partition_ticker(path.parent)
        except LayoutError as error:
            yield Finding("", path, str(error))
            continue
        if path != layout.parquet(ticker, part):
            yield Finding(part.session, path, "is in the wrong folder: remove it")


def _is_anchor(path: Path) -> bool:
    try:
        return not content_hash(parquet.read_trade_file(path)).rows
    except ConversionError:
        return False
