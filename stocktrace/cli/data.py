"""``stocktrace trades``, ``bars``, ``gaps`` and ``sessions``: what is on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from stocktrace.cli import output
from stocktrace.cli.folder import DataDir, Place, layout_of, place_of
from stocktrace.cli.output import AsForm
from stocktrace.cli.unknown import unknown_tickers
from stocktrace.errors import Died
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
    copies: Annotated[
        Literal["keep", "mark", "drop"], Parameter(help="What the feed sent more than once.")
    ] = "keep",
    form: AsForm = None,
    data_dir: Place = None,
) -> int:
    """Print published trades of TICKERS. Exits 1 if one of them was never recorded."""
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
    seen: set[str] = set()
    found = export.noting(found, seen)
    return _answer(place, tickers, seen, lambda: output.rows(export.last(found, tail), form))


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
    """Print published trades of TICKERS as bars; ``gap`` is the seconds nobody listened.

    Exits 1 if one of them was never recorded.
    """
    place = place_of(data_dir)

    from stocktrace.store import export
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
    seen = export.traded(table)
    return _answer(place, tickers, seen, lambda: output.rows(table.to_reader(), form))


def gaps(
    *tickers: str,
    date: Annotated[str | None, Parameter(help="A UTC date: 2026-11-23.")] = None,
    session: Annotated[str | None, Parameter(help="One session only.")] = None,
    form: AsForm = None,
    data_dir: Place = None,
) -> int:
    """Print when TICKERS (or all) were not listened to, and why.

    Exits 1 if one of them was never recorded.
    """
    place = place_of(data_dir)

    from stocktrace.store import export
    from stocktrace.store.coverage import read_gaps, whole_gaps
    from stocktrace.store.layout import Layout
    from stocktrace.store.query import parse_day

    parse_day(date)
    names = parse_tickers(tickers) if tickers else ()
    found = read_gaps(names, date=date, session=session, data_dir=place)

    def show() -> None:
        if form is not None:
            output.rows(export.of_frame(found), form)
            return
        seconds = (found["end"] - found["start"]).dt.total_seconds().round(3)
        shown = found.assign(seconds=seconds, repair=found["repair"].replace("open", "not yet"))
        shown = shown[["session", "symbol", "start", "end", "seconds", "reason", "repair"]]
        output.rows(export.of_frame(shown), form)
        unlisted = _unlisted(Layout(place), session) if isinstance(place, Path) else []
        if len(found) or not unlisted:
            output.gaps(whole_gaps(found))
        for sentence in unlisted:
            output.complain(sentence)

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
        output.complain(sentence)
    return 1 if unknown else 0


def _unlisted(layout: Layout, session: str | None) -> list[str]:
    """Of which sessions no gap is listed though there may be some, in words."""
    from stocktrace.summary import DEAD, not_ended

    return [
        str(Died(report.session))
        if report.state == DEAD
        else f"Session {report.session} runs: its gaps are listed when it has ended, and "
        "`stocktrace watch` counts them meanwhile."
        for report in not_ended(layout)
        if session in (None, report.session)
    ]


def sessions(*, form: AsForm = None, data_dir: DataDir = None) -> int:
    """List the captures of a data folder; --json prints their reports, whole."""
    layout = layout_of(data_dir)

    from stocktrace.report import Report
    from stocktrace.summary import DEAD, Summary

    found, failed, died = [], [], []
    for path in sorted(layout.sessions.glob("*.json")):
        try:
            report = Report.read(path)
        except ValueError as error:
            failed.append(f"{path} is no report: {error}.")
            continue
        one = Summary.of(layout, report)
        found.append(one)
        if one.state == DEAD:
            died.append(str(Died(one.session)))
        if form is not None and form.json:
            report.state = one.state
            report.reason = report.reason or (died[-1] if one.state == DEAD else "")
            output.json(report)
    if form is None and not found and not failed:
        output.line("no sessions yet: record one with `stocktrace capture` or `stocktrace demo`")
    elif form is None or not form.json:
        output.sessions(found, form)
    for sentence in (*died, *failed):
        output.complain(sentence)
    return 1 if failed else 0
