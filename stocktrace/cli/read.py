"""``stocktrace trades``, ``bars``, ``gaps`` and ``sessions``: what is on disk."""
# MERGED """``stocktrace report``: a session as a page, and as a picture."""
# MERGED """Tickers that were asked for and never recorded, in a sentence with those that were."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from stocktrace.cli import output
from stocktrace.cli.data_dir import DataDir, DataDirOrLake, find_source, open_layout
from stocktrace.cli.output import FormatFlag
from stocktrace.errors import SessionCrashed
from stocktrace.trade import parse_tickers

if TYPE_CHECKING:
    from stocktrace.store.layout import Layout

# What of a table of trades fits a screen.
_TAIL = 20

Start = Annotated[str | None, Parameter(help="First trade time: 2026-11-23T14:30Z.")]
End = Annotated[str | None, Parameter(help="Trade time to stop before.")]


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
    duplicates: Annotated[
        Literal["keep", "mark", "drop"], Parameter(help="What the feed sent more than once.")
    ] = "keep",
    form: FormatFlag = None,
    data_dir: DataDirOrLake = None,
) -> int:
    """Print published trades of TICKERS. Exits 1 if one of them was never recorded."""
    place = find_source(data_dir)

    from stocktrace.query import export
    from stocktrace.query.trades import read_trades, scan

    if tail is None:
        tail = _TAIL if form is None else 0
    if duplicates == "keep":
        found = export.rows_of_trades(scan(tickers, start, end, date=date, data_dir=place))
    else:
        found = read_trades(
            tickers, start, end, date=date, duplicates=duplicates, backend="pyarrow", data_dir=place
        ).to_reader()
    seen: set[str] = set()
    found = export.collect_tickers(found, seen)
    return _answer(
        place, tickers, seen, lambda: output.print_rows(export.last_rows(found, tail), form)
    )


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
    duplicates: Annotated[
        Literal["keep", "drop"], Parameter(help="What the feed sent more than once.")
    ] = "keep",
    form: FormatFlag = None,
    data_dir: DataDirOrLake = None,
) -> int:
    """Print published trades of TICKERS as bars; ``gap_seconds`` counts time not listened to.

    Exits 1 if one of them was never recorded.
    """
    place = find_source(data_dir)

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
        data_dir=place,
    )
    seen = export.traded_tickers(table)
    return _answer(place, tickers, seen, lambda: output.print_rows(table.to_reader(), form))


def gaps(
    *tickers: str,
    date: Annotated[str | None, Parameter(help="A UTC date: 2026-11-23.")] = None,
    session: Annotated[str | None, Parameter(help="One session only.")] = None,
    form: FormatFlag = None,
    data_dir: DataDirOrLake = None,
) -> int:
    """Print when TICKERS (or all) were not listened to, and why.

    Exits 1 if one of them was never recorded.
    """
    place = find_source(data_dir)

    from stocktrace.query import export
    from stocktrace.query.coverage import join_midnight_gaps, read_gaps
    from stocktrace.query.criteria import parse_day
    from stocktrace.store.layout import Layout

    parse_day(date)
    names = parse_tickers(tickers) if tickers else ()
    found = read_gaps(names, date=date, session=session, data_dir=place)

    def show() -> None:
        if form is not None:
            output.print_rows(export.rows_of_frame(found), form)
            return
        seconds = (found["end"] - found["start"]).dt.total_seconds().round(3)
        shown = found.assign(seconds=seconds, repair=found["repair"].replace("open", "not yet"))
        shown = shown[["session", "symbol", "start", "end", "seconds", "reason", "repair"]]
        output.print_rows(export.rows_of_frame(shown), form)
        unlisted = _unlisted(Layout(place), session) if isinstance(place, Path) else []
        if len(found) or not unlisted:
            output.print_gaps(join_midnight_gaps(found))
        for sentence in unlisted:
            output.print_error(sentence)

    return _answer(place, names, set(found["symbol"]), show)


def _answer(
    place: str | Path, tickers: Sequence[str], seen: set[str], show: Callable[[], None]
) -> int:
    """Show what was found, and report tickers that were never recorded; status 1 if there are any.

    ``seen`` has the tickers of what is shown, once it is; it is empty before if nothing will be.
    If none of the tickers was ever recorded, nothing is shown: no file is replaced by an empty one.
    """
    names = parse_tickers(tickers) if tickers else ()
    unknown, sentence = ([], "") if seen else unknown_tickers(place, names)
    if not names or len(unknown) < len(names):
        show()
        unknown, sentence = unknown_tickers(place, [name for name in names if name not in seen])
    if sentence:
        output.print_error(sentence)
    return 1 if unknown else 0


def _unlisted(layout: Layout, session: str | None) -> list[str]:
    """Of which sessions no gap is listed though there may be some, in words."""
    from stocktrace.sessions.catalog import open_sessions

    return [
        str(SessionCrashed(report.session))
        if report.state == "crashed"
        else f"Session {report.session} runs: its gaps are listed when it has ended, and "
        "`stocktrace watch` counts them meanwhile."
        for report in open_sessions(layout)
        if session in (None, report.session)
    ]


def sessions(*, form: FormatFlag = None, data_dir: DataDir = None) -> int:
    """List the captures of a data folder; --json prints their reports, whole."""
    layout = open_layout(data_dir)

    from stocktrace.sessions.catalog import read_session
    from stocktrace.sessions.summary import SessionSummary

    found, failed, died = [], [], []
    for path in sorted(layout.sessions.glob("*.json")):
        try:
            report = read_session(layout, path.stem)
        except ValueError as error:
            failed.append(f"{path} is no report: {error}.")
            continue
        one = SessionSummary.of(layout, report)
        found.append(one)
        if one.state == "crashed":
            died.append(str(SessionCrashed(one.session)))
        if form is not None and form.json:
            report.reason = report.reason or (died[-1] if one.state == "crashed" else "")
            output.print_json(report)
    if form is None and not found and not failed:
        output.print_line(
            "no sessions yet: record one with `stocktrace capture` or `stocktrace demo`"
        )
    elif form is None or not form.json:
        output.print_sessions(found, form)
    for sentence in (*died, *failed):
        output.print_error(sentence)
    return 1 if failed else 0


def report(
    session: Annotated[str, Parameter(help="Its name, as `stocktrace sessions` lists it.")],
    *,
    out: Annotated[Path | None, Parameter(help="The HTML file; default: SESSION.html.")] = None,
    svg: Annotated[Path | None, Parameter(help="Write the picture alone as well.")] = None,
    data_dir: DataDir = None,
) -> int:
    """Write a session as one HTML file that opens offline: books, charts, gaps, quarantine.

    Of one that runs, it shows how it stands now.
    """
    layout = open_layout(data_dir)

    from stocktrace.show.page import render_page
    from stocktrace.show.picture import draw_picture
    from stocktrace.show.view import ReportView

    view = ReportView.of(layout, session)
    page = out or Path(f"{session}.html")
    _write(page, render_page(view))
    if svg is not None:
        _write(svg, draw_picture(view))
    if view.state == "crashed":
        output.print_error(str(SessionCrashed(session)))
    return 0


def _write(path: Path, text: str) -> None:
    """Write a file and print its name."""
    from stocktrace.store import files

    path.parent.mkdir(parents=True, exist_ok=True)
    with files.output(path) as file:
        file.write(text.encode())
    if not files.is_stdout(path):
        print(path)


# Names in a sentence, at most: of what was recorded, and of what is meant perhaps.
_LISTED = 10
_NEAR = 3


def unknown_tickers(place: str | Path, tickers: Sequence[str]) -> tuple[list[str], str]:
    """Those of ``tickers`` that were never recorded at ``place``, and the sentence that says so.

    Give only tickers of which nothing was found: what was recorded is looked at for them.
    """
    if not tickers:
        return [], ""

    from stocktrace.sessions.summary import never_recorded
    from stocktrace.store.source import open_source

    unknown, known = never_recorded(open_source(place), tickers)
    if not unknown:
        return [], ""
    words = [f"Unknown ticker{'s' if len(unknown) > 1 else ''} {_listed(map(repr, unknown))}."]
    words.append(
        f"Recorded tickers: {_listed(sorted(known))}."
        if known
        else f"Nothing was recorded in {place} yet."
    )
    near = dict.fromkeys(name for ticker in unknown for name in near_names(ticker, known))
    if near:
        words.append(f"Did you mean {', '.join(list(near)[:_LISTED])}?")
    return unknown, " ".join(words)


def near_names(ticker: str, known: Collection[str]) -> list[str]:
    """Which of ``known`` may be meant by ``ticker``, the nearest first.

    Case does not matter, and BTCUSDT may mean BINANCE:BTCUSDT.
    """
    asked = ticker.upper()
    names: dict[str, list[str]] = {}
    for name in sorted(known):
        names.setdefault(name.upper(), []).append(name)
    same = [name for name in names if asked in (name, name.rpartition(":")[2])]
    like = difflib.get_close_matches(asked, names, _NEAR)
    return [each for name in dict.fromkeys([*same, *like]) for each in names[name]][:_NEAR]


def _listed(names: Iterable[str]) -> str:
    first, more = list(names), 0
    if len(first) > _LISTED:
        first, more = first[:_LISTED], len(first) - _LISTED
    return ", ".join(first) + (f" and {more:,} more" if more else "")
