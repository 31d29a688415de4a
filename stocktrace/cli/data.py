"""``stocktrace trades``, ``gaps`` and ``sessions``: what is on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from stocktrace.cli import output
from stocktrace.cli.capturing import Json
from stocktrace.errors import UsageError
from stocktrace.settings import Settings

if TYPE_CHECKING:
    from stocktrace.report import Report
    from stocktrace.store.layout import Layout

Start = Annotated[str | None, Parameter(help="First trade time: 2026-11-23T14:30Z.")]
End = Annotated[str | None, Parameter(help="Trade time to stop before.")]
To = Annotated[
    Literal["table", "csv", "json", "parquet"], Parameter(help="JSON is one object a line.")
]
OutputFile = Annotated[Path | None, Parameter(name="--output", help="A file instead of stdout.")]
DataDir = Annotated[Path | None, Parameter(help="The data folder; also STOCKTRACE_DATA_DIR.")]


def layout_of(data_dir: Path | None) -> Layout:
    """The data folder that a command is about.

    Raises:
        UsageError: there is none.
    """
    from stocktrace.store.layout import Layout

    layout = Layout.of(Settings.load(data_dir=data_dir))
    if not layout.root.is_dir():
        raise UsageError(f"There is no data folder {layout.root}: give one with --data-dir.")
    return layout


def trades(
    *tickers: str,
    date: Annotated[str | None, Parameter(help="A UTC date of receipt: 2026-11-23.")] = None,
    start: Start = None,
    end: End = None,
    tail: Annotated[int, Parameter(help="How many of the last; 0: all.")] = 20,
    to: To = "table",
    output_file: OutputFile = None,
    data_dir: DataDir = None,
) -> int:
    """Print published trades of TICKERS."""
    layout = layout_of(data_dir)

    from stocktrace.store.dataset import read_trades

    frame = read_trades(tickers, start, end, date=date, data_dir=layout.root)
    if tail > 0:
        frame = frame.tail(tail)
    output.frame(frame, to, output_file)
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
    to: To = "table",
    output_file: OutputFile = None,
    data_dir: DataDir = None,
) -> int:
    """Print published trades of TICKERS as bars; ``gap`` is the seconds nobody listened."""
    layout = layout_of(data_dir)

    from stocktrace.store.bars import read_bars

    frame = read_bars(
        tickers, every, start, end, date=date, session=session, empty=empty, data_dir=layout.root
    )
    output.frame(frame, to, output_file)
    return 0


def gaps(
    *tickers: str,
    date: Annotated[str | None, Parameter(help="A UTC date: 2026-11-23.")] = None,
    session: Annotated[str | None, Parameter(help="One session only.")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> int:
    """Print when TICKERS (or all) were not listened to, and why."""
    layout = layout_of(data_dir)

    from stocktrace.store.coverage import read_gaps

    found = read_gaps(tickers, date=date, session=session, data_dir=layout.root)
    if as_json:
        text = found.to_json(orient="records", lines=True, date_format="iso", date_unit="us")
        output.to_stdout(text if len(found) else "")  # pandas writes an empty line for no row
        return 0
    shown = found.assign(
        seconds=(found["end"] - found["start"]).dt.total_seconds().round(3),
        start=found["start"].astype(str),
        end=found["end"].astype(str),
    )
    names = ["session", "symbol", "start", "end", "seconds", "reason"]
    output.table(names, shown[names].itertuples(index=False))
    return 0


def sessions(*, data_dir: DataDir = None, as_json: Json = False) -> int:
    """List the captures of a data folder."""
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
    if as_json:
        for report in reports:
            output.json(report)
    else:
        _list(reports)
    for sentence in failed:
        output.complain(sentence)
    return 1 if failed else 0


def _list(reports: list[Report]) -> None:
    output.table(
        ["session", "state", "started", "tickers", "trades", "gaps", "quarantined", "unpublished"],
        [
            (
                one.session,
                one.state,
                f"{one.started:%Y-%m-%d %H:%M:%S}",
                len(one.tickers),
                f"{one.books.trades:,}",
                len(one.outages),
                one.books.quarantined,
                len(one.unpublished),
            )
            for one in reports
        ],
    )
