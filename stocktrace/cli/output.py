"""The output of commands: tables for people, JSON for programs. Text of the data is not markup."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Group, Parameter
from cyclopts.validators import mutually_exclusive

from stocktrace.cli.streams import stream_of
from stocktrace.intervals import CONNECTING
from stocktrace.text import count_of, describe_gaps, printable

if TYPE_CHECKING:
    import pandas as pd

    from stocktrace.query.export import RowBatches
    from stocktrace.sessions.report import SessionReport
    from stocktrace.sessions.summary import SessionSummary

# Most tickers, and changes of them, in a summary.
_MOST_LINES = 20
_FORMATS = Group.create_ordered(
    "For programs", help="One of these instead of a table.", validator=mutually_exclusive
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFormat:
    """How rows are printed: as a table, unless one of these is set."""

    json: Annotated[bool, Parameter(group=_FORMATS, help="Print JSON, one object per line.")] = (
        False
    )
    csv: Annotated[
        bool,
        Parameter(
            group=_FORMATS,
            help="Print CSV. Texts are unchanged, so a spreadsheet may run =1+1 as a formula.",
        ),
    ] = False
    parquet: Annotated[
        Path | None,
        Parameter(group=_FORMATS, metavar="PATH", help="Write a Parquet file, or to a named pipe."),
    ] = None


# The columns of a list of sessions, with their types for programs.
_SESSION = {
    "session": "str",
    "state": "str",
    "started": "datetime64[us, UTC]",
    "tickers": "int64",
    "trades": "Int64",  # missing if it crashed before it wrote a status
    **dict.fromkeys(("gaps", "quarantined", "unpublished"), "int64"),
}

#: For the parameter of a command that prints rows.
FormatFlag = Annotated[OutputFormat | None, Parameter(name="*")]


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table with numbers on the right. Control characters in the data are replaced."""
    texts = [[_plain(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
    numeric = [
        bool(texts) and all(text.replace(",", "").replace(".", "").isdigit() for text in column)
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
    files = sum(ticker.files for ticker in tickers.values())
    size = sum(ticker.size for ticker in tickers.values())
    published = sum(ticker.parquet for ticker in tickers.values())
    reason = "" if report.reason == report.state else f" ({_plain(report.reason)})"
    print(f"session {report.session}: {report.state}{reason}")
    print(
        f"  {count_of(books.frames, 'frame')} = {books.trade_frames:,} with trades "
        f"+ {books.control:,} control + {books.undecodable:,} undecodable"
    )
    print(
        f"  {count_of(books.trades, 'trade')} = {books.recorded:,} recorded "
        f"+ {books.quarantined:,} quarantined; {published:,} in Parquet"
    )
    differences = report.differences()
    print(f"  the books DO NOT balance: {differences}" if differences else "  the books balance")
    print(f"  {report.gap_summary}; {count_of(report.reconnects, 'reconnect')}")
    for text, count in report.errors.items():
        print(f"  the server said {count_of(count, 'time')}: {_plain(text)}")
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
    print(f"  {count_of(files, 'Parquet file')}, {size:,} bytes, in {data_dir / 'parquet'}")
    busiest = sorted(tickers.items(), key=lambda item: -item[1].trades)
    columns = ("trades", "recorded", "quarantined", "parquet", "files")
    print_table(
        ["ticker", "trades", "recorded", "quarantined", "in Parquet", "files"],
        [
            (name, *(f"{getattr(ticker, column):,}" for column in columns))
            for name, ticker in busiest[:_MOST_LINES]
        ],
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
        export.write_csv(rows, to_reader)
    elif form.json:
        export.write_json_lines(rows, to_reader)
    else:
        print_trades(export.to_frame(rows))


def print_sessions(summaries: Sequence[SessionSummary], form: OutputFormat | None) -> None:
    """Print one row for each session."""
    rows = [tuple(getattr(summary, name) for name in _SESSION) for summary in summaries]
    if form is None:
        print_table(
            list(_SESSION),
            [
                (session, state, f"{started:%Y-%m-%d %H:%M:%S}", *map(_number, counts))
                for session, state, started, *counts in rows
            ],
        )
        return

    import pandas as pd

    from stocktrace.query import export

    frame = pd.DataFrame(rows, columns=list(_SESSION)).astype(_SESSION)
    print_rows(export.rows_of_frame(frame), form)


def _number(count: int | None) -> str:
    return "?" if count is None else f"{count:,}"


def print_gaps(gaps: Mapping[tuple[str, datetime, datetime, str], Collection[str]]) -> None:
    """Print the total of a table of gaps, which ``join_midnight_gaps`` made."""
    seconds = sum((end - start).total_seconds() for _, start, end, _ in gaps)
    connecting = sum(reason == CONNECTING for *_, reason in gaps)
    print(describe_gaps(len(gaps), seconds, connecting) + ("; one row per ticker" if gaps else ""))


def print_line(text: str) -> None:
    """Print one line on stdout."""
    print(_plain(text))


def print_error(sentence: str) -> None:
    """Print an error on stderr."""
    print(f"stocktrace: {_plain(sentence)}", file=sys.stderr)


def print_json(value: object) -> None:
    """Print a value as one line of JSON."""
    to_stdout(msgspec.json.encode(value, enc_hook=str).decode() + "\n")


def to_stdout(text: str) -> None:
    """Write ``text`` unchanged to stdout."""
    sys.stdout.write(text)


def to_reader(text: str) -> None:
    """Write ``text`` unchanged to stdout.

    Raises:
        ReaderGone: nobody reads it.
    """
    to_stdout(text)
    check_reader()


class ReaderGone(Exception):
    """Nobody reads standard output any more, as after ``| head``; the rest need not be printed."""


def check_reader() -> None:
    """Stop a command that only prints, if nobody reads its output.

    Raises:
        ReaderGone: nobody does.
    """
    stream = stream_of(sys.stdout)
    if stream is not None and stream.gone:
        raise ReaderGone


def flush() -> None:
    """Pass on what was printed at once, since a reader waits for it."""
    sys.stdout.flush()
