"""``stocktrace trades``, ``bars``, ``gaps``, ``sessions`` and ``report``: what was recorded."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from stocktrace.cli import output
from stocktrace.cli.data_dir import DataDir, DataDirOrLake, find_source, open_layout
from stocktrace.cli.help import Date, Duration, Integer, SessionId, Tickers, Time
from stocktrace.cli.output import FormatFlag
from stocktrace.errors import SessionCrashed
from stocktrace.trade import parse_tickers

if TYPE_CHECKING:
    from stocktrace.store.layout import Layout

# As many trades as fit on a screen; the help of `trades` says the same.
_TABLE_ROWS = 20
# Most names in a sentence: of the recorded tickers, and of those that one may be meant for.
_MOST_NAMES = 10
_MOST_NEAR = 3


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
    source = find_source(data_dir)

    from stocktrace.query import export
    from stocktrace.query.trades import read_trades, scan

    if tail is None:
        tail = _TABLE_ROWS if form is None else 0
    if duplicates == "keep":
        rows = export.rows_of_trades(scan(tickers, start, end, date=date, data_dir=source))
    else:
        rows = read_trades(
            tickers,
            start,
            end,
            date=date,
            duplicates=duplicates,
            backend="pyarrow",
            data_dir=source,
        ).to_reader()
    seen: set[str] = set()
    rows = export.collect_tickers(rows, seen)
    return _print_known(
        source, tickers, seen, lambda: output.print_rows(export.last_rows(rows, tail), form)
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
    source = find_source(data_dir)

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
        data_dir=source,
    )
    seen = export.traded_tickers(table)
    return _print_known(source, tickers, seen, lambda: output.print_rows(table.to_reader(), form))


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
    source = find_source(data_dir)

    from stocktrace.query import export
    from stocktrace.query.coverage import join_midnight_gaps, read_gaps
    from stocktrace.query.criteria import parse_day
    from stocktrace.store.layout import Layout

    parse_day(date)
    names = parse_tickers(tickers) if tickers else ()
    table = read_gaps(names, date=date, session=session, data_dir=source)

    def show() -> None:
        if form is not None:
            output.print_rows(export.rows_of_frame(table), form)
            return
        seconds = (table["end"] - table["start"]).dt.total_seconds().round(3)
        shown = table.assign(seconds=seconds, repair=table["repair"].replace("open", "not yet"))
        shown = shown[["session", "symbol", "start", "end", "seconds", "reason", "repair"]]
        output.print_rows(export.rows_of_frame(shown), form)
        unlisted = (
            _sessions_without_gaps(Layout(source), session) if isinstance(source, Path) else []
        )
        if len(table) or not unlisted:
            output.print_gaps(join_midnight_gaps(table))
        for sentence in unlisted:
            output.print_error(sentence)

    return _print_known(source, names, set(table["symbol"]), show)


def _sessions_without_gaps(layout: Layout, session: str | None) -> list[str]:
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


def _print_known(
    source: str | Path, tickers: Sequence[str], seen: set[str], show: Callable[[], None]
) -> int:
    """Call ``show``, and report tickers that were never recorded; status 1 if there are any.

    ``seen`` holds the tickers of the rows that were shown; before ``show``, it is empty only if
    nothing will be shown. If none of the tickers was recorded, ``show`` is not called: an empty
    result does not replace a file.
    """
    names = parse_tickers(tickers) if tickers else ()
    unknown, sentence = ([], "") if seen else _unknown_tickers(source, names)
    if not names or len(unknown) < len(names):
        show()
        unknown, sentence = _unknown_tickers(source, [name for name in names if name not in seen])
    if sentence:
        output.print_error(sentence)
    return 1 if unknown else 0


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
        if form is not None and form.json:
            report.reason = report.reason or (crashed[-1] if summary.state == "crashed" else "")
            output.print_json(report)
    if form is None and not summaries and not damaged:
        output.print_line(
            "no sessions yet: record one with `stocktrace capture` or `stocktrace demo`"
        )
    elif form is None or not form.json:
        output.print_sessions(summaries, form)
    for sentence in (*crashed, *damaged):
        output.print_error(sentence)
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
    if view.state == "crashed":
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


def _unknown_tickers(source: str | Path, tickers: Sequence[str]) -> tuple[list[str], str]:
    """Return which of ``tickers`` were never recorded at ``source``, and a sentence about them.

    This reads what was recorded, so it should be asked only about tickers without any rows.
    """
    if not tickers:
        return [], ""

    from stocktrace.sessions.summary import find_unrecorded
    from stocktrace.store.source import open_source

    unknown, recorded = find_unrecorded(open_source(source), tickers)
    if not unknown:
        return [], ""
    sentences = [f"Unknown ticker{'s' if len(unknown) > 1 else ''} {_join(map(repr, unknown))}."]
    sentences.append(
        f"Recorded tickers: {_join(sorted(recorded))}."
        if recorded
        else f"Nothing was recorded in {source} yet."
    )
    near = dict.fromkeys(name for ticker in unknown for name in _near_names(ticker, recorded))
    if near:
        sentences.append(f"Did you mean {', '.join(list(near)[:_MOST_NAMES])}?")
    return unknown, " ".join(sentences)


def _near_names(ticker: str, recorded: Collection[str]) -> list[str]:
    """Return the tickers that ``ticker`` may be meant for, the nearest first.

    Case does not matter, and BTCUSDT may mean BINANCE:BTCUSDT.
    """
    wanted = ticker.upper()
    names: dict[str, list[str]] = {}
    for name in sorted(recorded):
        names.setdefault(name.upper(), []).append(name)
    same = [name for name in names if wanted in (name, name.rpartition(":")[2])]
    similar = difflib.get_close_matches(wanted, names, _MOST_NEAR)
    nearest = [name for upper in dict.fromkeys([*same, *similar]) for name in names[upper]]
    return nearest[:_MOST_NEAR]


def _join(names: Iterable[str]) -> str:
    first, more = list(names), 0
    if len(first) > _MOST_NAMES:
        first, more = first[:_MOST_NAMES], len(first) - _MOST_NAMES
    return ", ".join(first) + (f" and {more:,} more" if more else "")
