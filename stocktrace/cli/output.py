"""What commands print: tables for people, JSON for programs; values are never markup."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from stocktrace.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from stocktrace.report import Report

_TICKERS = 20


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
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
    text = "" if value is None else str(value)
    return "".join(character if character.isprintable() else "?" for character in text)


def summary(report: Report, data_dir: Path) -> None:
    """What a capture came to, for a person."""
    books, published = report.books, report.per_ticker
    files = sum(one.files for one in published.values())
    size = sum(one.size for one in published.values())
    print(f"session {report.session}: {report.state} ({_plain(report.reason)})")
    print(
        f"  {books.frames:,} frames = {books.trade_frames:,} with trades "
        f"+ {books.control:,} control + {books.undecodable:,} undecodable"
    )
    print(
        f"  {books.trades:,} trades = {books.recorded:,} recorded + {books.quarantined:,} "
        f"quarantined; {sum(one.parquet for one in published.values()):,} in Parquet"
    )
    balance = report.differences()
    print("  the books balance" if not balance else f"  the books DO NOT balance: {balance}")
    away = sum((gap.end - gap.start).total_seconds() for gap in report.outages)
    print(f"  {len(report.outages)} gaps ({away:.1f} s), {report.reconnects} reconnects")
    for text, count in report.errors.items():
        print(f"  the server said {count} times: {_plain(text)}")
    for ticker, text in report.refused.items():
        print(f"  {_plain(ticker)} was refused: {_plain(text)}")
    for ticker, seconds in report.silent.items():
        print(f"  {ticker} was silent for {seconds / 60:.0f} minutes of open market")
    if report.unpublished:
        print(f"  {len(report.unpublished)} windows wait: run `stocktrace recover`")
    print(f"  {files:,} Parquet files, {size:,} bytes, in {data_dir / 'parquet'}")
    busiest = sorted(published.items(), key=lambda item: -item[1].trades)
    table(
        ["ticker", "trades", "recorded", "quarantined", "in Parquet", "files"],
        [
            (name, one.trades, one.recorded, one.quarantined, one.parquet, one.files)
            for name, one in busiest[:_TICKERS]
        ],
    )
    if len(busiest) > _TICKERS:
        print(f"and {len(busiest) - _TICKERS} more in {data_dir / 'sessions'}")


def trades(data: pd.DataFrame) -> None:
    """Trades, or bars, as a table."""
    times = [name for name in data.columns if data[name].dtype.kind == "M"]
    shown = data.astype(dict.fromkeys(times, str))
    table(list(data.columns), shown.itertuples(index=False))


def frame(data: pd.DataFrame, form: str, file: Path | None = None) -> None:
    """A DataFrame as a table, CSV, JSON (an object a line) or Parquet, on stdout or in a file.

    Raises:
        UsageError: Parquet needs a file, a table none.
    """
    if form == "parquet" and file is None:
        raise UsageError("Parquet is written to a file: name it with --output.")
    if form == "table" and file is not None:
        raise UsageError("A table is printed: give --to csv, json or parquet for a file.")
    if form == "table":
        trades(data)
    elif form == "parquet":
        data.to_parquet(file, index=False, compression="zstd")
    else:
        text = (
            data.to_csv(index=False)
            if form == "csv"
            else data.to_json(orient="records", lines=True, date_format="iso", date_unit="us")
        )
        if file is None:
            to_stdout(text)
        else:
            file.write_text(text, encoding="utf-8")


def complain(sentence: str) -> None:
    """What went wrong, on stderr."""
    print(f"stocktrace: {_plain(sentence)}", file=sys.stderr)


def json(value: object) -> None:
    """A value as one line of JSON."""
    to_stdout(msgspec.json.encode(value, enc_hook=str).decode() + "\n")


def to_stdout(text: str) -> None:
    """``text`` as it is, for programs."""
    sys.stdout.write(text)
