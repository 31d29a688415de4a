"""``stocktrace trades``, ``bars``, ``gaps`` and ``sessions``: what is on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from stocktrace.cli import output
from stocktrace.cli.output import AsForm
from stocktrace.errors import UsageError
from stocktrace.lake_url import is_lake
from stocktrace.settings import Settings

if TYPE_CHECKING:
    from stocktrace.store.layout import Layout

# What of a table of trades fits a screen.
_TAIL = 20

Start = Annotated[str | None, Parameter(help="First trade time: 2026-11-23T14:30Z.")]
End = Annotated[str | None, Parameter(help="Trade time to stop before.")]
Place = Annotated[
    str | None,
    Parameter(help="The data folder, also STOCKTRACE_DATA_DIR; or a lake: s3://bucket/prefix."),
]
DataDir = Annotated[Path | None, Parameter(help="The data folder; also STOCKTRACE_DATA_DIR.")]


def layout_of(data_dir: Path | None, lake: str | None = None) -> Layout:
    """The data folder that a command is about, and the lake that it sends to.

    Raises:
        UsageError: there is none.
    """
    from stocktrace.store.layout import Layout

    layout = Layout.of(Settings.load(data_dir=data_dir, lake=lake))
    if not layout.root.is_dir():
        raise UsageError(f"There is no data folder {layout.root}: give one with --data-dir.")
    return layout


def place_of(data_dir: str | None) -> str | Path:
    """The data folder to read from, or the lake.

    Raises:
        UsageError: there is no such folder.
    """
    if data_dir is not None and is_lake(data_dir):
        return data_dir
    return layout_of(None if data_dir is None else Path(data_dir)).root


def trades(
    *tickers: str,
    date: Annotated[str | None, Parameter(help="A UTC date of receipt: 2026-11-23.")] = None,
    start: Start = None,
    end: End = None,
    tail: Annotated[
        int | None,
        Parameter(
            validator=Number(gte=0),
            help=f"How many of the last; 0: all. Default: {_TAIL} in a table, else all.",
        ),
    ] = None,
    copies: Annotated[
        Literal["keep", "mark", "drop"], Parameter(help="What the feed sent more than once.")
    ] = "keep",
    form: AsForm = None,
    data_dir: Place = None,
) -> int:
    """Print published trades of TICKERS."""
    place = place_of(data_dir)

    from stocktrace.store import export
    from stocktrace.store.dataset import read_trades, scan

    if tail is None:
        tail = _TAIL if form is None else 0
    if copies == "keep":
        found = export.of_trades(scan(tickers, start, end, date=date, data_dir=place))
    else:
        found = read_trades(
            tickers, start, end, date=date, copies=copies, backend="pyarrow", data_dir=place
        ).to_reader()
    output.rows(export.last(found, tail), form)
    return 0


def bars(
    *tickers: str,
    every: Annotated[str, Parameter(help="Length of a bar: 30s, 5m, 1h; at most 1d.")] = "1m",
    date: Annotated[
        str | None, Parameter(help="A UTC date; with --session of New York: 2026-11-23.")
    ] = None,
    start: Start = None,
    end: End = None,
    session: Annotated[
        Literal["regular", "extended"] | None, Parameter(help="Hours of US stocks; default all.")
    ] = None,
    empty: Annotated[
        Literal["drop", "keep"], Parameter(help="What becomes of bars without trades.")
    ] = "drop",
    copies: Annotated[
        Literal["keep", "drop"], Parameter(help="What the feed sent more than once.")
    ] = "keep",
    form: AsForm = None,
    data_dir: Place = None,
) -> int:
    """Print published trades of TICKERS as bars; ``gap`` is the seconds nobody listened."""
    place = place_of(data_dir)

    from stocktrace.store.bars import read_bars

    table = read_bars(
        tickers,
        every,
        start,
        end,
        date=date,
        session=session,
        empty=empty,
        copies=copies,
        backend="pyarrow",
        data_dir=place,
    )
    output.rows(table.to_reader(), form)
    return 0


def gaps(
    *tickers: str,
    date: Annotated[str | None, Parameter(help="A UTC date: 2026-11-23.")] = None,
    session: Annotated[str | None, Parameter(help="One session only.")] = None,
    form: AsForm = None,
    data_dir: Place = None,
) -> int:
    """Print when TICKERS (or all) were not listened to, and why."""
    place = place_of(data_dir)

    from stocktrace.store import export
    from stocktrace.store.coverage import read_gaps
    from stocktrace.store.query import parse_day

    parse_day(date)
    found = read_gaps(tickers, date=date, session=session, data_dir=place)
    if form is None:
        found["seconds"] = (found["end"] - found["start"]).dt.total_seconds().round(3)
        found = found[["session", "symbol", "start", "end", "seconds", "reason", "repair"]]
    output.rows(export.of_frame(found), form)
    return 0


def sessions(*, form: AsForm = None, data_dir: DataDir = None) -> int:
    """List the captures of a data folder; --json prints their reports, whole."""
    layout = layout_of(data_dir)

    from stocktrace.report import Report
    from stocktrace.store import lock

    reports, failed = [], []
    for path in sorted(layout.sessions.glob("*.json")):
        try:
            reports.append(Report.read(path))
        except ValueError as error:
            failed.append(f"{path} is no report: {error}.")
    for report in reports:
        if report.state == "running" and not lock.is_held(layout.lock(report.session)):
            report.state = "dead"
    output.sessions(reports, form)
    for sentence in failed:
        output.complain(sentence)
    return 1 if failed else 0
