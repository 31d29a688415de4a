"""What the footer of a published file says of it.

Keys of a window's file: ``stocktrace.session``, ``.window``, ``.version`` and ``.content``, the
hash of its rows. A day's file has ``.parts`` instead of the first two: the windows it is made of,
in the order of their rows, as ``{"<session>": {"<window>": [<rows>, "<hash of these rows>"]}}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stocktrace.errors import ConversionError
from stocktrace.store.names import WindowId

_METADATA = b"stocktrace."
#: What pyarrow raises for a damaged file; a UnicodeDecodeError, too, for a name in the footer.
UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError)


def read_footer(path: Path) -> dict[str, str]:
    """What the footer of a published file says of it, and ``rows``.

    Raises:
        ConversionError: it has no footer.
        FileNotFoundError: there is no such file (any more).
    """
    try:
        footer = pq.read_metadata(path)
    except FileNotFoundError:
        raise
    except UNREADABLE as error:
        raise ConversionError(f"{path} cannot be read: {error}.") from error
    facts = {
        key.removeprefix(_METADATA).decode(errors="replace"): value.decode(errors="replace")
        for key, value in (footer.metadata or {}).items()
        if key.startswith(_METADATA)
    }
    return {**facts, "rows": str(footer.num_rows)}


def has_wrong_statistics(path: Path) -> bool:
    """Whether the footer of a file that can be read tells limits that its rows do not have.

    No checksum covers the footer, and readers with a filter pass over rows by its word.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, use_threads=False)
                facts = file.metadata.row_group(group)
                for at, values in enumerate(table.columns):
                    column = facts.column(at)
                    if column.physical_type != file.schema.column(at).physical_type:
                        return True  # asked for its statistics, pyarrow 26 would abort
                    limits = pc.min_max(values).as_py()
                    found = column.statistics
                    if facts.num_rows != len(values) or column.num_values != len(values):
                        return True
                    if found is None:
                        continue  # then no row is passed over
                    if found.null_count:
                        return True
                    if found.has_min_max and {"min": found.min, "max": found.max} != limits:
                        return True
    except (*UNREADABLE, ValueError, OverflowError):
        return True
    return False


def format_windows(parts: Iterable[tuple[WindowId, int, str]]) -> str:
    """``.parts`` of a day's file made of ``(part, rows, hash)``, grouped by session."""
    sessions: dict[str, dict[str, tuple[int, str]]] = {}
    for part, rows, content in parts:
        sessions.setdefault(part.session, {})[part.window] = (rows, content)
    return json.dumps(sessions, separators=(",", ":"))


def parse_windows(text: str) -> list[tuple[WindowId, int, str]]:
    """The inverse of ``parts_text``.

    Raises:
        ValueError: it is none.
    """
    sessions: Any = json.loads(text)
    try:
        return [
            (WindowId(session, window), int(rows), str(content))
            for session, windows in sessions.items()
            for window, (rows, content) in windows.items()
        ]
    except (AttributeError, TypeError) as error:
        raise ValueError(f"no list of windows: {error}") from error
