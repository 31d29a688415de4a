"""What a data folder has: its sessions, and files among the published ones that are nobody's."""

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


def sessions_to_verify(layout: Layout) -> list[str]:
    """All sessions of a data folder that are not alive."""
    return list(dates_of_sessions(layout))


def dates_of_sessions(layout: Layout, sessions: Sequence[str] = ()) -> dict[str, set[str]]:
    """The sessions that are not alive, each with the UTC dates under which files of it lie.

    Given ``sessions`` that have a report or a tape, only these, without dates: nothing else of the
    folder is looked at then.
    """
    if sessions and all(is_session(name) and layout.has(name) for name in sessions):
        found: dict[str, set[str]] = {name: set() for name in sessions}
    else:
        found = _all_of(layout)
    return {name: found[name] for name in sorted(found) if not is_in_use(layout, name)}


def _all_of(layout: Layout) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {name: set() for name in layout.all_sessions()}
    lying = {
        (path.name[: path.name.find("-")], partition_date(path.parent))
        for path in _parquet_files(layout)
    }
    for name, date in lying | sessions_in_days(layout):
        if is_session(name):
            found.setdefault(name, set()).add(date)
    for path in layout.root.glob("coverage/date=*/*.parquet"):
        if path.stem in found:
            found[path.stem].add(partition_date(path))
    return found


def _parquet_files(layout: Layout) -> Iterator[Path]:
    for path in sorted(layout.dataset.rglob("*.parquet")):
        if not any(part.startswith(".") for part in path.relative_to(layout.dataset).parts):
            yield path


def unknown_files(layout: Layout) -> Iterator[Finding]:
    """Files among the published ones that readers take for trades and no session put there."""
    for path in _parquet_files(layout):
        if path.parent == layout.anchor(partition_date(path.parent)).parent:
            if not _is_anchor(path):
                yield Finding("", path, "is no file without rows: remove it")
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
            yield Finding(part.session, path, "is not where it belongs: remove it")


def _is_anchor(path: Path) -> bool:
    try:
        return not content_hash(parquet.read_trade_file(path)).rows
    except ConversionError:
        return False
