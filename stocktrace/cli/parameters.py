"""The parameters that several commands share, and the data folder or lake that they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from stocktrace.addresses import is_lake_url
from stocktrace.errors import UsageError
from stocktrace.settings import Settings

if TYPE_CHECKING:
    from stocktrace.store.layout import Layout

# The values of parameters, as `--help` calls them.
Date = Annotated[str, Parameter(metavar="DATE")]
Duration = Annotated[str, Parameter(metavar="DURATION")]
Integer = Annotated[int, Parameter(metavar="N")]
SessionId = Annotated[str, Parameter(metavar="SESSION")]
Time = Annotated[str, Parameter(metavar="TIME")]
Url = Annotated[str, Parameter(metavar="URL")]

Tickers = Annotated[str, Parameter(help="Such as AAPL, BRK.B or BINANCE:BTCUSDT.")]
DryRun = Annotated[bool, Parameter(help="Say what would be done, and change nothing.")]
Json = Annotated[bool, Parameter(name="--json", help="Print JSON, for programs to read.")]
DataDirOrLake = Annotated[
    str | None,
    Parameter(
        metavar="PATH|URL",
        help="The data folder (also STOCKTRACE_DATA_DIR), or a lake: s3://bucket/prefix.",
    ),
]
DataDir = Annotated[
    Path | None, Parameter(metavar="PATH", help="The data folder (also STOCKTRACE_DATA_DIR).")
]


def open_layout(data_dir: Path | None, lake: str | None = None) -> Layout:
    """Return the layout of the data folder, which sends to ``lake``; it must exist (UsageError)."""
    from stocktrace.store.layout import Layout

    layout = Layout.from_settings(Settings.load(data_dir=data_dir, lake=lake))
    if not layout.root.is_dir():
        raise UsageError(f"No data folder {layout.root}. Name another one with --data-dir.")
    return layout


def find_source(data_dir: str | None) -> str | Path:
    """Return the data folder, or the lake, to read from; errors as in ``open_layout``."""
    if data_dir is not None and is_lake_url(data_dir):
        return data_dir
    return open_layout(None if data_dir is None else Path(data_dir)).root
