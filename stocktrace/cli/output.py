"""What commands print: tables for people, JSON for programs; values are never markup."""

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

_TICKERS = 20
_FORMS = Group("For programs", help="Instead of a table; one of:", validator=mutually_exclusive)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFormat:
    """How rows are printed: at most one of these, else as a table."""

    json: Annotated[
        bool,
        Parameter(
            group=_FORMS, negative="", show_default=False, help="Print JSON, an object a line."
        ),
    ] = False
    csv: Annotated[
        bool,
        Parameter(
            group=_FORMS,
            show_default=False,
            negative="",
            help="Print CSV, texts as they are: a spreadsheet may take =1+1 for a formula.",
        ),
    ] = False
    parquet: Annotated[
        Path | None, Parameter(group=_FORMS, help="Write a Parquet file, or to a pipe.")
    ] = None


# The columns of a list of sessions.
_SESSION = {
    "session": "str",
    "state": "str",
    "started": "datetime64[us, UTC]",
    "tickers": "int64",
    "trades": "Int64",  # unknown of one that died before it told
    **dict.fromkeys(("gaps", "quarantined", "unpublished"), "int64"),
}

Json = Annotated[
    bool, Parameter(name="--json", negative="", help="Print JSON, for programs to read.")
]
#: For the parameter of a command that prints rows.
FormatFlag = Annotated[OutputFormat | None, Parameter(name="*")]


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on stdout; numbers to the right. Control characters of the data are not printed."""
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
    """What a capture came to, for a person."""
    from stocktrace.sessions.report import TickerBooks

    books = report.books
    # A ticker of which nothing came is told, too.
    published = {**{name: TickerBooks() for name in report.tickers}, **report.per_ticker}
    files = sum(one.files for one in published.values())
    size = sum(one.size for one in published.values())
    reason = "" if report.reason == report.state else f" ({_plain(report.reason)})"
    print(f"session {report.session}: {report.state}{reason}")
    print(
        f"  {count_of(books.frames, 'frame')} = {books.trade_frames:,} with trades "
        f"+ {books.control:,} control + {books.undecodable:,} undecodable"
    )
    print(
        f"  {count_of(books.trades, 'trade')} = {books.recorded:,} recorded + {books.quarantined:,} "
        f"quarantined; {sum(one.parquet for one in published.values()):,} in Parquet"
    )
    balance = report.differences()
    print("  the books balance" if not balance else f"  the books DO NOT balance: {balance}")
    print(f"  {report.missed_s}; {count_of(report.reconnects, 'reconnect')}")
    for text, count in report.errors.items():
        print(f"  the server said {count_of(count, 'time')}: {_plain(text)}")
    if report.duplicated:
        print(f"  {report.duplicated}")
    for change in report.changes[:_TICKERS]:
        print(f"  tickers changed {_plain(change)}")
    for ticker, text in report.refused.items():
        print(f"  {_plain(ticker)} was refused: {_plain(text)}")
    for ticker, seconds in report.silent.items():
        print(f"  {ticker} was silent for {seconds / 60:,.0f} min of open market")
    if report.unpublished:
        windows = count_of(len(report.unpublished), "window")
        print(f"  {windows} not in Parquet yet: run `stocktrace recover`")
    print(f"  {count_of(files, 'Parquet file')}, {size:,} bytes, in {data_dir / 'parquet'}")
    busiest = sorted(published.items(), key=lambda item: -item[1].trades)
    print_table(
        ["ticker", "trades", "recorded", "quarantined", "in Parquet", "files"],
        [
            (
                name,
                *map(
                    "{:,}".format,
                    (one.trades, one.recorded, one.quarantined, one.parquet, one.files),
                ),
            )
            for name, one in busiest[:_TICKERS]
        ],
    )
    if len(busiest) > _TICKERS:
        print(f"and {len(busiest) - _TICKERS} more in {data_dir / 'sessions'}")


def print_trades(data: pd.DataFrame) -> None:
    """Trades, or bars, as a table; what is computed of trades with ten digits."""
    times = [name for name in data.columns if data[name].dtype.kind == "M"]
    shown = data.astype(dict.fromkeys(times, str))
    for name in ("volume", "vwap") if "vwap" in data.columns else ():
        shown[name] = [float(f"{value:.10g}") for value in data[name]]
    print_table(list(data.columns), shown.itertuples(index=False))


def print_rows(found: RowBatches, form: OutputFormat | None) -> None:
    """``found`` in the form that was asked for: a table, or CSV, JSON or Parquet, streamed."""
    from stocktrace.query import export

    form = form or OutputFormat()
    if form.parquet is not None:
        try:
            export.write_parquet(found, form.parquet)
        except BrokenPipeError:  # the reader of a pipe that was named as the file
            raise ReaderGone from None
    elif form.csv:
        export.write_csv(found, to_reader)
    elif form.json:
        export.write_json_lines(found, to_reader)
    else:
        print_trades(export.to_frame(found))


def print_sessions(summaries: Sequence[SessionSummary], form: OutputFormat | None) -> None:
    """Captures, a row each."""
    found = [tuple(getattr(one, name) for name in _SESSION) for one in summaries]
    if form is None:
        print_table(
            list(_SESSION),
            [
                (session, state, f"{started:%Y-%m-%d %H:%M:%S}", *map(_number, counts))
                for session, state, started, *counts in found
            ],
        )
        return

    import pandas as pd

    from stocktrace.query import export

    print_rows(
        export.rows_of_frame(pd.DataFrame(found, columns=list(_SESSION)).astype(_SESSION)), form
    )


def _number(count: int | None) -> str:
    return "?" if count is None else f"{count:,}"


def print_gaps(found: Mapping[tuple[str, datetime, datetime, str], Collection[str]]) -> None:
    """What a table of gaps comes to, as ``store.coverage.whole_gaps`` has them."""
    seconds = sum((end - start).total_seconds() for _, start, end, _ in found)
    connecting = sum(reason == CONNECTING for *_, reason in found)
    print(
        describe_gaps(len(found), seconds, connecting)
        + ("; a row for each ticker" if found else "")
    )


def print_line(text: str) -> None:
    """One line on stdout."""
    print(_plain(text))


def print_error(sentence: str) -> None:
    """What went wrong, on stderr."""
    print(f"stocktrace: {_plain(sentence)}", file=sys.stderr)


def print_json(value: object) -> None:
    """A value as one line of JSON."""
    to_stdout(msgspec.json.encode(value, enc_hook=str).decode() + "\n")


def to_stdout(text: str) -> None:
    """``text`` as it is, for programs."""
    sys.stdout.write(text)


def to_reader(text: str) -> None:
    """``text`` as it is, for as long as somebody reads it.

    Raises:
        ReaderGone: nobody does.
    """
    to_stdout(text)
    check_reader()


class ReaderGone(Exception):
    """Nobody reads standard output any more, as when it goes to ``head``: the rest is not read."""


def check_reader() -> None:
    """Stop a command that only prints, if nobody reads what it prints.

    Raises:
        ReaderGone: nobody does.
    """
    stream = stream_of(sys.stdout)
    if stream is not None and stream.gone:
        raise ReaderGone


def flush() -> None:
    """Hand on what was printed, now: a reader waits for it."""
    sys.stdout.flush()
