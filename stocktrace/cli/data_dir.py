"""The data folder, or the lake, that a command is about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from stocktrace.errors import UsageError
from stocktrace.settings import Settings, is_lake_url

if TYPE_CHECKING:
    from stocktrace.store.layout import Layout

DataDirOrLake = Annotated[
    str | None,
    Parameter(help="The data folder, also STOCKTRACE_DATA_DIR; or a lake: s3://bucket/prefix."),
]
DataDir = Annotated[Path | None, Parameter(help="The data folder; also STOCKTRACE_DATA_DIR.")]


def open_layout(data_dir: Path | None, lake: str | None = None) -> Layout:
    """The data folder that a command is about, and the lake that it sends to.

    Raises:
        UsageError: there is none.
    """
    from stocktrace.store.layout import Layout

    layout = Layout.from_settings(Settings.load(data_dir=data_dir, lake=lake))
    if not layout.root.is_dir():
        raise UsageError(f"There is no data folder {layout.root}: give one with --data-dir.")
    return layout


def find_source(data_dir: str | None) -> str | Path:
    """The data folder to read from, or the lake.

    Raises:
        UsageError: there is no such folder.
    """
    if data_dir is not None and is_lake_url(data_dir):
        return data_dir
    return open_layout(None if data_dir is None else Path(data_dir)).root
