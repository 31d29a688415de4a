"""The output of commands: tables for people, JSON for programs. Text of the data is not markup."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Group, Parameter
from cyclopts.validators import mutually_exclusive

from stocktrace.cli.streams import stream_of
from stocktrace.text import count_of, printable
from stocktrace.trade import parse_tickers

if TYPE_CHECKING:
    import pandas as pd

    from stocktrace.query.export import RowBatches
    from stocktrace.sessions.report import SessionReport
    from stocktrace.sessions.summary import SessionSummary

# Most tickers, and changes of them, in a summary.
_MOST_LINES = 20
# Most names in a sentence: of the recorded tickers, and of those that one may be meant for.
_MOST_NAMES = 10
_MOST_NEAR = 3
_FORMATS = Group.create_ordered(
    "For programs", help="One of these instead of a table.", validator=mutually_exclusive
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFormat:
    """How rows are printed: as a table, unless one of these is set.

    Args:
        json: Print JSON, one object per line.
        csv: Print CSV. Texts are unchanged, so a spreadsheet may run =1+1 as a formula.
        parquet: Write a Parquet file, or to a named pipe.
    """

    json: Annotated[bool, Parameter(group=_FORMATS)] = False
    csv: Annotated[bool, Parameter(group=_FORMATS)] = False
    parquet: Annotated[Path | None, Parameter(group=_FORMATS, metavar="PATH")] = None


#: For the parameter of a command that prints rows.
FormatFlag = Annotated[OutputFormat | None, Parameter(name="*")]

# The columns of a list of sessions, with their types for programs.
_SESSION = {
    "session": "str",
    "state": "str",
    "started": "datetime64[us, UTC]",
    "tickers": "int64",
    "trades": "Int64",  # missing if it crashed before it wrote a status
    **dict.fromkeys(("gaps", "quarantined", "unpublished"), "int64"),
}


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table with numbers on the right. Control characters in the data are replaced."""
    texts = [[_plain(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
    numeric = [
        all(text.replace(",", "").replace(".", "").isdigit() for text in column)
        for column in zip(*texts, strict=True)
    ] or [False] * len(columns)
    for line in (columns, *texts):
        cells = (
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        )
        print("  ".join(cells).rstrip())


def _plain(value: object) -> str:
    return "" if value is None else printable(str(value))


def print_summary(report: SessionReport, data_dir: Path) -> None:
    """Print the result of a capture."""
    from stocktrace.sessions.report import TickerBooks

    books = report.books
    # Tickers without trades are listed, too.
    tickers = {**{name: TickerBooks() for name in report.tickers}, **report.per_ticker}
    published = sum(ticker.parquet for ticker in tickers.values())
    reason = "" if report.reason == report.state else f" ({_plain(report.reason)})"
    differences = report.differences()
    print(f"session {report.session}: {report.state}{reason}")
    print(
        f"  {count_of(books.frames, 'frame')} = {books.trade_frames:,} with trades "
        f"+ {books.control:,} control + {books.undecodable:,} undecodable"
    )
    print(
        f"  {count_of(books.trades, 'trade')} = {books.recorded:,} recorded "
        f"+ {books.quarantined:,} quarantined; {published:,} in Parquet"
    )
    print(f"  the books DO NOT balance: {differences}" if differences else "  the books balance")
    print(f"  {report.gap_summary}; {count_of(report.reconnects, 'reconnect')}")
    for text, count in list(report.errors.items())[-_MOST_LINES:]:
        print(f"  the server said {count_of(count, 'time')}: {_plain(text)}")
    if report.feed_note:
        print(f"  {report.feed_note}")
    if report.duplicates_warning:
        print(f"  {report.duplicates_warning}")
    for change in report.changes[:_MOST_LINES]:
        print(f"  tickers changed {_plain(change)}")
    for name, text in report.refused.items():
        print(f"  the server refused {_plain(name)}: {_plain(text)}")
    for name, seconds in report.silent.items():
        print(f"  no {name} trades for {seconds / 60:,.0f} minutes of market hours")
    if report.unpublished:
        windows = count_of(len(report.unpublished), "window")
        print(f"  {windows} not in Parquet yet. Run `stocktrace recover`.")
    files = count_of(report.files, "Parquet file")
    print(f"  {files}, {report.size:,} bytes, in {data_dir / 'parquet'}")
    busiest = sorted(tickers.items(), key=lambda item: -item[1].trades)
    counts = attrgetter("trades", "recorded", "quarantined", "parquet")
    print_table(
        ["ticker", "trades", "recorded", "quarantined", "in Parquet"],
        [(name, *map("{:,}".format, counts(ticker))) for name, ticker in busiest[:_MOST_LINES]],
    )
    if len(busiest) > _MOST_LINES:
        print(f"and {len(busiest) - _MOST_LINES} more in {data_dir / 'sessions'}")


def print_trades(data: pd.DataFrame) -> None:
    """Print trades, or bars, as a table. Computed values have ten digits."""
    times = [name for name in data.columns if data[name].dtype.kind == "M"]
    shown = data.astype(dict.fromkeys(times, str))
    for name in ("volume", "vwap") if "vwap" in data.columns else ():
        shown[name] = [float(f"{value:.10g}") for value in data[name]]
    print_table(list(data.columns), shown.itertuples(index=False))


def print_rows(rows: RowBatches, form: OutputFormat | None) -> None:
    """Print ``rows`` as a table, or stream them as CSV, JSON or Parquet."""
    from stocktrace.query import export

    form = form or OutputFormat()
    if form.parquet is not None:
        try:
            export.write_parquet(rows, form.parquet)
        except BrokenPipeError:  # the file is a pipe whose reader ended
            raise ReaderGone from None
    elif form.csv:
        export.write_csv(rows, _to_reader)
    elif form.json:
        export.write_json_lines(rows, _to_reader)
    else:
        print_trades(export.to_frame(rows))


def print_known(
    root: str | Path, tickers: Sequence[str], seen: set[str], show: Callable[[], None]
) -> int:
    """Call ``show``, and report tickers that were never recorded; status 1 if there are any.

    ``seen`` holds the tickers of the rows that were shown; before ``show``, it is empty only if
    nothing will be shown. If none of the tickers was recorded, ``show`` is not called: an empty
    result does not replace a file.
    """
    from stocktrace.sessions.summary import find_unrecorded
    from stocktrace.store.source import open_source

    names = parse_tickers(tickers) if tickers else ()
    shown = bool(seen) or not names
    if shown:
        show()
    # This reads what was recorded, so only tickers without any rows are looked for.
    missing = [name for name in names if name not in seen]
    unknown, recorded = find_unrecorded(open_source(root), missing) if missing else ([], set())
    if not shown and len(unknown) < len(names):
        show()
    if unknown:
        print_error(_describe_unknown(unknown, recorded, root))
    return 1 if unknown else 0


def _describe_unknown(unknown: Sequence[str], recorded: set[str], root: str | Path) -> str:
    near = dict.fromkeys(name for ticker in unknown for name in _near_names(ticker, recorded))
    known = f"Recorded tickers: {_join(sorted(recorded))}."
    return (
        f"Unknown ticker{'s' if len(unknown) > 1 else ''} {_join(map(repr, unknown))}. "
        + (known if recorded else f"Nothing was recorded in {root} yet.")
        + (f" Did you mean {', '.join(list(near)[:_MOST_NAMES])}?" if near else "")
    )


def _near_names(ticker: str, recorded: set[str]) -> list[str]:
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
    first = list(names)
    more = len(first) - _MOST_NAMES
    return ", ".join(first[:_MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def print_sessions(summaries: Sequence[SessionSummary], form: OutputFormat | None) -> None:
    """Print one row for each session."""
    names = list(_SESSION)
    if form is None:
        names[1] = "present_state"
    rows = list(map(attrgetter(*names), summaries))
    if form is None:
        texts = [
            (
                session,
                state,
                f"{started:%Y-%m-%d %H:%M:%S}",
                *("?" if count is None else f"{count:,}" for count in counts),
            )
            for session, state, started, *counts in rows
        ]
        print_table(list(_SESSION), texts)
        return

    import pandas as pd

    from stocktrace.query import export

    frame = pd.DataFrame(rows, columns=list(_SESSION)).astype(_SESSION)
    print_rows(export.rows_of_frame(frame), form)


def print_line(text: str) -> None:
    """Print one line on stdout."""
    print(_plain(text))


def print_error(*sentences: str) -> None:
    """Print errors on stderr."""
    for sentence in sentences:
        print(f"stocktrace: {_plain(sentence)}", file=sys.stderr)


def print_json(value: object) -> None:
    """Print a value as one line of JSON."""
    to_stdout(msgspec.json.encode(value, enc_hook=str).decode() + "\n")


def to_stdout(text: str) -> None:
    """Write ``text`` unchanged to stdout."""
    sys.stdout.write(text)


class ReaderGone(Exception):
    """Nobody reads standard output any more, as after ``| head``; the rest need not be printed."""


def _to_reader(text: str) -> None:
    to_stdout(text)
    check_reader()


def check_reader() -> None:
    """Raise ``ReaderGone`` if nobody reads what a command that only prints has printed."""
    stream = stream_of(sys.stdout)
    if stream is not None and stream.gone:
        raise ReaderGone


def flush() -> None:
    """Pass on what was printed at once, since a reader waits for it."""
    sys.stdout.flush()
