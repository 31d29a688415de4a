"""The footer of a published file: which windows it holds, and the hashes of their rows.

- A window's file has the keys ``stocktrace.session``, ``.window``, ``.version`` and ``.content``,
  the hash of its rows.
- A compacted file of a day has ``.parts`` instead of the first two: its windows in the order of
  their rows, as ``{"<session>": {"<window>": [<rows>, "<hash of these rows>"]}}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from stocktrace._version import __version__
from stocktrace.errors import ConversionError
from stocktrace.store.names import WindowId, is_day_file
from stocktrace.store.parquet import UNREADABLE, open_parquet

_PREFIX = b"stocktrace."


def add_footer(writer: pq.ParquetWriter, **facts: str) -> None:
    """Write the key of each of ``facts``, and the version, into the footer."""
    facts["version"] = __version__
    writer.add_key_value_metadata({f"stocktrace.{key}": value for key, value in facts.items()})


def read_footer(path: Path) -> dict[str, str]:
    """Return ``parse_footer`` of a file; the errors are those of ``open_parquet``."""
    with open_parquet(path) as file:
        return parse_footer(file.metadata)


def parse_footer(metadata: pq.FileMetaData) -> dict[str, str]:
    """Return the keys of a published file, without their prefix, and ``rows``."""
    facts = {
        key.removeprefix(_PREFIX).decode(errors="replace"): value.decode(errors="replace")
        for key, value in (metadata.metadata or {}).items()
        if key.startswith(_PREFIX)
    }
    return {**facts, "rows": str(metadata.num_rows)}


def has_wrong_statistics(path: Path) -> bool:
    """Return whether a readable file has minima or maxima in its footer that its rows do not have.

    No checksum covers the footer, and readers with a filter skip rows because of it.
    """
    try:
        with open_parquet(path) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, use_threads=False)
                group_facts = file.metadata.row_group(group)
                for at, values in enumerate(table.columns):
                    column = group_facts.column(at)
                    if column.physical_type != file.schema.column(at).physical_type:
                        return True  # pyarrow 26 would abort if it were asked for the statistics
                    limits = pc.min_max(values).as_py()
                    statistics = column.statistics
                    if group_facts.num_rows != len(values) or column.num_values != len(values):
                        return True
                    if statistics is None:
                        continue  # then readers skip no rows
                    if statistics.null_count:
                        return True
                    if statistics.has_min_max and limits != {
                        "min": statistics.min,
                        "max": statistics.max,
                    }:
                        return True
    except (ConversionError, *UNREADABLE, ValueError, OverflowError):
        return True
    return False


def list_windows(path: Path, footer: dict[str, str]) -> list[tuple[WindowId, int, str]]:
    """Return ``(window, rows, hash)`` of the windows in a published file, in the order of its rows.

    Raises:
        ConversionError: The footer of a day's file does not name the windows of all rows.
        LayoutError: The name of the file is not one of stocktrace's.
    """
    rows = int(footer["rows"])
    if not is_day_file(path):
        return [(WindowId.parse(path), rows, footer.get("content", ""))]
    try:
        windows = parse_windows(footer["parts"])
    except (KeyError, ValueError) as error:
        raise ConversionError(
            f"The footer of {path} does not list its windows: {error}."
        ) from error
    if sum(count for _, count, _ in windows) != rows:
        raise ConversionError(f"{path} has {rows} rows, but its footer lists another number.")
    return windows


def format_windows(windows: Iterable[tuple[WindowId, int, str]]) -> str:
    """Return ``.parts`` of a day's file from ``(window, rows, hash)``, grouped by session."""
    sessions: dict[str, dict[str, tuple[int, str]]] = {}
    for window, rows, content in windows:
        sessions.setdefault(window.session, {})[window.window] = (rows, content)
    return json.dumps(sessions, separators=(",", ":"))


def parse_windows(text: str) -> list[tuple[WindowId, int, str]]:
    """The inverse of ``format_windows``; ``ValueError`` if ``text`` is not valid."""
    sessions: Any = json.loads(text)
    try:
        return [
            (WindowId(session, window), int(rows), str(content))
            for session, windows in sessions.items()
            for window, (rows, content) in windows.items()
        ]
    except (AttributeError, TypeError) as error:
        raise ValueError(f"not a list of windows: {error}") from error
