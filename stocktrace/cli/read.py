"""``stocktrace trades``, ``bars``, ``gaps``, ``sessions`` and ``report``: what was recorded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from stocktrace.cli import output
from stocktrace.cli.output import FormatFlag
from stocktrace.cli.parameters import (
    DataDir,
    DataDirOrLake,
    Date,
    Duration,
    Integer,
    SessionId,
    Tickers,
    Time,
    find_source,
    open_layout,
)
from stocktrace.errors import SessionCrashed
from stocktrace.intervals import CONNECTING
from stocktrace.text import describe_gaps
from stocktrace.trade import parse_tickers

if TYPE_CHECKING:
    from stocktrace.store.layout import Layout

# As many trades as fit on a screen; the help of `trades` says the same.
_TABLE_ROWS = 20


def trades(
    *tickers: Tickers,
    date: Date | None = None,
    start: Time | None = None,
    end: Time | None = None,
    tail: Annotated[Integer | None, Parameter(validator=Number(gte=0))] = None,
    duplicates: Literal["keep", "mark", "drop"] = "keep",
    form: FormatFlag = None,
    data_dir: DataDirOrLake = None,
) -> int:
    """Print recorded trades of TICKERS.

    Exits 1 if a ticker was never recorded.

    $ stocktrace trades AAPL --date 2026-11-23
    $ stocktrace trades AAPL MSFT --start 2026-11-23T14:30Z --tail 100
    $ stocktrace trades BINANCE:BTCUSDT --parquet btc.parquet

    Args:
        date: The UTC date of receipt: 2026-11-23.
        start: From this trade time on: 2026-11-23T14:30Z.
        end: Up to this trade time, which is not included.
        tail: Only the last N; 0 means all. Defaults to 20 in a table, and to all for programs.
        duplicates: What to do with trades that the feed sent more than once.
    """
    root = find_source(data_dir)

    from stocktrace.query import export
    from stocktrace.query.criteria import TradeQuery
    from stocktrace.query.trades import read_last_trades, read_trades, scan
    from stocktrace.store.source import open_source

    if tail is None:
        tail = _TABLE_ROWS if form is None else 0
    if tail and duplicates == "keep":
        query = TradeQuery.of(tickers, start, end, date)
        rows = read_last_trades(open_source(root), query, tail).to_reader()
    elif duplicates == "keep":
        rows = export.rows_of_trades(scan(tickers, start, end, date=date, data_dir=root))
    else:
        rows = read_trades(
            tickers, start, end, date=date, duplicates=duplicates, backend="pyarrow", data_dir=root
        ).to_reader()
    seen: set[str] = set()
    rows = export.collect_tickers(rows, seen)
    return output.print_known(
        root, tickers, seen, lambda: output.print_rows(export.last_rows(rows, tail), form)
    )


def bars(
    *tickers: Tickers,
    every: Duration = "1m",
    date: Date | None = None,
    start: Time | None = None,
    end: Time | None = None,
    session: Literal["regular", "extended"] | None = None,
    empty: Literal["drop", "keep"] = "drop",
    duplicates: Literal["keep", "drop"] = "keep",
    form: FormatFlag = None,
    data_dir: DataDirOrLake = None,
) -> int:
    """Print recorded trades of TICKERS as bars.

    Each bar has the seconds of it that fall into a gap. Exits 1 if a ticker was never recorded.

    $ stocktrace bars AAPL --date 2026-11-23
    $ stocktrace bars AAPL --every 5m --session regular --date 2026-11-23
    $ stocktrace bars AAPL MSFT --every 1h --csv

    Args:
        every: Length of a bar: 30s, 5m or 1h; at most 1d.
        date: A UTC date, or with --session a date in New York: 2026-11-23.
        start: From this trade time on: 2026-11-23T14:30Z.
        end: Up to this trade time, which is not included.
        session: Only these hours of US stocks. Defaults to all.
        empty: What to do with bars without trades.
        duplicates: What to do with trades that the feed sent more than once.
    """
    root = find_source(data_dir)

    from stocktrace.query import export
    from stocktrace.query.bars import read_bars

    table = read_bars(
        tickers,
        every,
        start,
        end,
        date=date,
        session=session,
        empty=empty,
        duplicates=duplicates,
        backend="pyarrow",
        data_dir=root,
    )
    seen = export.traded_tickers(table)
    return output.print_known(
        root, tickers, seen, lambda: output.print_rows(table.to_reader(), form)
    )


def gaps(
    *tickers: Tickers,
    date: Date | None = None,
    session: SessionId | None = None,
    form: FormatFlag = None,
    data_dir: DataDirOrLake = None,
) -> int:
    """Print the gaps of TICKERS, or of all: when the recorder was not connected, and why.

    Exits 1 if a ticker was never recorded.

    $ stocktrace gaps
    $ stocktrace gaps AAPL --date 2026-11-23

    Args:
        date: A UTC date: 2026-11-23.
        session: Only this session.
    """
    root = find_source(data_dir)

    from stocktrace.query import export
    from stocktrace.query.coverage import join_midnight_gaps, read_gaps
    from stocktrace.query.criteria import parse_day
    from stocktrace.store.layout import Layout

    parse_day(date)
    names = parse_tickers(tickers) if tickers else ()
    table = read_gaps(names, date=date, session=session, data_dir=root)

    def show() -> None:
        if form is not None:
            output.print_rows(export.rows_of_frame(table), form)
            return
        seconds = (table["end"] - table["start"]).dt.total_seconds().round(3)
        shown = table.assign(seconds=seconds, repair=table["repair"].replace("open", "not yet"))
        shown = shown[["session", "symbol", "start", "end", "seconds", "reason", "repair"]]
        output.print_rows(export.rows_of_frame(shown), form)
        unlisted = _describe_open(Layout(root), session) if isinstance(root, Path) else []
        joined = join_midnight_gaps(table)
        if joined or not unlisted:
            total_s = sum((end - start).total_seconds() for _, start, end, _ in joined)
            connecting = sum(reason == CONNECTING for *_, reason in joined)
            note = "; one row per ticker" if joined else ""
            output.print_line(describe_gaps(len(joined), total_s, connecting) + note)
        output.print_error(*unlisted)

    return output.print_known(root, names, set(table["symbol"]), show)


def _describe_open(layout: Layout, session: str | None) -> list[str]:
    """Return a sentence for each open session, whose gaps are not listed yet."""
    from stocktrace.sessions.catalog import open_sessions

    return [
        str(SessionCrashed(report.session))
        if report.state == "crashed"
        else f"Session {report.session} is running. Its gaps are listed when it has ended; "
        "`stocktrace watch` counts them while it runs."
        for report in open_sessions(layout)
        if session in (None, report.session)
    ]


def sessions(*, form: FormatFlag = None, data_dir: DataDir = None) -> int:
    """List the sessions of a data folder. With --json, print their complete reports.

    Exits 1 if a report is damaged.

    $ stocktrace sessions
    $ stocktrace sessions --json --data-dir /srv/trades
    """
    layout = open_layout(data_dir)

    from stocktrace.sessions.catalog import read_session
    from stocktrace.sessions.summary import SessionSummary

    summaries, damaged, crashed = [], [], []
    for path in sorted(layout.sessions.glob("*.json")):
        try:
            report = read_session(layout, path.stem)
        except ValueError as error:
            damaged.append(f"{path} is not a session report: {error}.")
            continue
        summary = SessionSummary.of(layout, report)
        summaries.append(summary)
        if summary.state == "crashed":
            crashed.append(str(SessionCrashed(summary.session)))
            report.reason = report.reason or crashed[-1]
        if form is not None and form.json:
            output.print_json(report)
    if form is None and not summaries and not damaged:
        output.print_line(
            "no sessions yet: record one with `stocktrace capture` or `stocktrace demo`"
        )
    elif form is None or not form.json:
        output.print_sessions(summaries, form)
    output.print_error(*crashed, *damaged)
    return 1 if damaged else 0


def report(
    session: str, *, out: Path | None = None, svg: Path | None = None, data_dir: DataDir = None
) -> int:
    """Write a session as one HTML file that opens offline: books, charts, gaps, quarantine.

    For a running session, it shows the state so far.

    $ stocktrace report 20261123T142958Z_3f9a1c
    $ stocktrace report 20261123T142958Z_3f9a1c --out monday.html --svg monday.svg

    Args:
        session: Its name, as `stocktrace sessions` lists it.
        out: The HTML file. Defaults to SESSION.html.
        svg: Also write the picture to a file of its own.
    """
    layout = open_layout(data_dir)

    from stocktrace.show.page import render_page
    from stocktrace.show.picture import draw_picture
    from stocktrace.show.view import ReportView

    view = ReportView.read(layout, session)
    _write_file(out or Path(f"{session}.html"), render_page(view))
    if svg is not None:
        _write_file(svg, draw_picture(view))
    if view.summary.state == "crashed":
        output.print_error(str(SessionCrashed(session)))
    return 0


def _write_file(path: Path, text: str) -> None:
    """Write a file and print its name."""
    from stocktrace.store import files

    path.parent.mkdir(parents=True, exist_ok=True)
    with files.output(path) as file:
        file.write(text.encode())
    if not files.is_stdout(path):
        print(path)
