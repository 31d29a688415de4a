"""``stocktrace import``: what older sessions and other people's CSV files left."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from stocktrace.cli import output
from stocktrace.cli.data_dir import DataDir
from stocktrace.cli.output import Json
from stocktrace.settings import Settings
from stocktrace.text import count_of

if TYPE_CHECKING:
    from stocktrace.importing.jobs import ImportOutcome

_FILES = Group("CSV of others", help="What its columns are; default: as stocktrace writes CSV.")


def import_(
    *sources: Path,
    preset: Annotated[
        str | None, Parameter(group=_FILES, help="Files of massive or binance-spot.")
    ] = None,
    column: Annotated[
        tuple[str, ...],
        Parameter(group=_FILES, help="A column of ours and its name: price=Price; repeat it."),
    ] = (),
    unit: Annotated[
        str | None, Parameter(group=_FILES, help="Of times: s, ms, us, ns since 1970, or iso.")
    ] = None,
    timezone: Annotated[
        str | None, Parameter(group=_FILES, help="Of iso times without an offset; default: UTC.")
    ] = None,
    ticker: Annotated[
        str | None,
        Parameter(group=_FILES, help="One ticker; {} in it is what the file says: BINANCE:{}."),
    ] = None,
    ticker_from: Annotated[
        str | None,
        Parameter(group=_FILES, help="Pattern that finds the ticker in a file's name."),
    ] = None,
    names: Annotated[
        str | None, Parameter(group=_FILES, help="Names of the columns, if no line has them.")
    ] = None,
    delimiter: Annotated[
        str | None, Parameter(group=_FILES, help="What parts the columns; default: a comma.")
    ] = None,
    jobs: Annotated[int, Parameter(help="Processes; 0: as many as cores.")] = 0,
    dry_run: Annotated[
        bool, Parameter(negative="", help="Change nothing, say what would be.")
    ] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> int:
    """Publish what older sessions and CSV files of others left, each once.

    SOURCES are CSV files (also .csv.gz), folders of them, and data folders of stocktrace; without
    any, only what died in this data folder is recovered. No source is changed. Killed anywhere, the
    same command does the rest. Exits 1 if a source could not be published whole.
    """
    from stocktrace.importing.column_mapping import ColumnMapping
    from stocktrace.importing.jobs import plan_imports, run_imports
    from stocktrace.store.layout import Layout

    layout = Layout.from_settings(Settings.load(data_dir=data_dir))
    mapping = ColumnMapping.of(
        column,
        preset,
        unit,
        names,
        timezone=timezone,
        ticker=ticker,
        ticker_from=ticker_from,
        delimiter=delimiter,
    )
    work = plan_imports(layout, sources)
    outcomes = []
    for outcome in run_imports(layout, work, mapping, jobs=max(jobs, 0) or None, only_look=dry_run):
        outcomes.append(outcome)
        if as_json:
            output.print_json(outcome)
        elif outcome.state == "failed":
            output.print_error(outcome.reason)
        else:
            output.print_line(_line(outcome))
    if not as_json:
        output.print_line(_sum(outcomes))
    return 1 if any(outcome.state == "failed" for outcome in outcomes) else 0


_WORDS = {
    "published": "published",
    "possible": "would be published",
    "known": "is here already",
    "empty": "has no rows",
}


def _line(one: ImportOutcome) -> str:
    text = f"{one.source}: {_WORDS[one.state]}" + (f" as {one.session}" if one.session else "")
    if one.rows or one.quarantined:
        text += f", {count_of(one.rows, 'trade')}"
    if one.tickers:
        text += f" of {count_of(one.tickers, 'ticker')}"
    if one.quarantined:
        text += f", {count_of(one.quarantined, 'row')} to quarantine"
    return f"{text} ({one.reason})" if one.reason else text


def _sum(outcomes: list[ImportOutcome]) -> str:
    counts = Counter(outcome.state for outcome in outcomes)
    rows = sum(outcome.rows for outcome in outcomes)
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    if not outcomes:
        return "nothing to do"
    return f"{count_of(len(outcomes), 'source')} ({states}), {count_of(rows, 'trade')}"
