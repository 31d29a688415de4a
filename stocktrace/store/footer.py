"""The footer of a published file: which windows its rows are from, and the hashes of their rows.

- ``stocktrace.windows`` is ``{"<session>": {"<window>": [<rows>, "<hash>"]}}``. A window's file has
  one window; each file of a compacted date lists all windows of the date.
- ``stocktrace.version`` is the version that wrote the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from stocktrace._version import __version__
from stocktrace.errors import ConversionError, LayoutError
from stocktrace.store.checksum import Content
from stocktrace.store.names import WindowId
from stocktrace.store.parquet import UNREADABLE, open_parquet

_WINDOWS, _VERSION = b"stocktrace.windows", b"stocktrace.version"


Windows = Mapping[WindowId, Content]


def add_footer(writer: pq.ParquetWriter, windows: Windows) -> None:
    """Write the windows of a file, and our version, into its footer."""
    sessions: dict[str, dict[str, tuple[int, str]]] = {}
    for window, content in windows.items():
        sessions.setdefault(window.session, {})[window.window] = content.rows, content.hash
    text = json.dumps(sessions, separators=(",", ":")).encode()
    writer.add_key_value_metadata({_WINDOWS: text, _VERSION: __version__.encode()})


def read_windows(
    path: Path | str, filesystem: pafs.FileSystem | None = None, size: int | None = None
) -> dict[WindowId, Content]:
    """Return the windows in a published file.

    Raises:
        ConversionError: The footer cannot be read, or does not list windows.
        FileNotFoundError: The file does not exist (any more).
    """
    with open_parquet(path, None, filesystem, size=size) as file:
        metadata: Mapping[bytes, bytes] = file.metadata.metadata or {}
    try:
        sessions: Any = json.loads(metadata[_WINDOWS])
        return {
            WindowId.parse(Path(f"{session}-{window}.parquet")): Content(int(rows), str(content))
            for session, windows in sessions.items()
            for window, (rows, content) in windows.items()
        }
    except (KeyError, ValueError, AttributeError, TypeError, LayoutError) as error:
        raise ConversionError(
            f"The footer of {path} does not list its windows: {error}."
        ) from error


def has_wrong_statistics(path: Path) -> bool:
    """Return whether a readable file has minima or maxima in its footer that its rows do not have.

    No checksum covers the footer, and readers with a filter skip rows because of it.
    """
    try:
        with open_parquet(path) as file:
            return any(_has_wrong_statistics(file, group) for group in range(file.num_row_groups))
    except (ConversionError, *UNREADABLE, ValueError, OverflowError):
        return True


def _has_wrong_statistics(file: pq.ParquetFile, group: int) -> bool:
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
        if statistics is None and at == 0:
            return True  # ``TradeFileReader`` needs those of ``symbol``
        if statistics is None:
            continue  # then readers skip no rows
        if statistics.null_count:
            return True
        if statistics.has_min_max and limits != {"min": statistics.min, "max": statistics.max}:
            return True
    return False
