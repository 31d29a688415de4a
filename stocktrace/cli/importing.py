"""``stocktrace import``: third-party CSV files, and older data folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from stocktrace.cli import output
from stocktrace.cli.data_dir import DataDir
from stocktrace.cli.help import DryRun, Integer, Json
from stocktrace.settings import Settings
from stocktrace.text import count_of

if TYPE_CHECKING:
    from stocktrace.importing.jobs import ImportOutcome

_COLUMNS = Group.create_ordered(
    "Third-party files", help="Their columns. By default, those that stocktrace writes."
)


def import_(
    *sources: Path,
    preset: Annotated[str | None, Parameter(group=_COLUMNS, metavar="NAME")] = None,
    column: Annotated[
        tuple[str, ...], Parameter(group=_COLUMNS, metavar="OURS=THEIRS", show_default=False)
    ] = (),
    unit: Annotated[str | None, Parameter(group=_COLUMNS, metavar="UNIT")] = None,
    timezone: Annotated[str | None, Parameter(group=_COLUMNS, metavar="ZONE")] = None,
    ticker: Annotated[str | None, Parameter(group=_COLUMNS, metavar="TICKER")] = None,
    ticker_from: Annotated[str | None, Parameter(group=_COLUMNS, metavar="REGEX")] = None,
    names: Annotated[str | None, Parameter(group=_COLUMNS, metavar="NAMES")] = None,
    delimiter: Annotated[str | None, Parameter(group=_COLUMNS, metavar="CHARACTER")] = None,
    jobs: Integer = 0,
    dry_run: DryRun = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> int:
    """Publish third-party CSV files and sessions of other data folders, each source once.

    Without SOURCES, publishes data left by crashed captures in this data folder. Sources are not
    changed. If the command is interrupted, run it again to do the rest. Exits 1 if a source could
    not be published completely.

    $ stocktrace import /mnt/old-recorder/data
    $ stocktrace import BTCUSDT-trades.csv --preset binance-spot --dry-run
    $ stocktrace import ticks/ --column price=Price --unit ms --ticker AAPL

    Args:
        sources: CSV files (also .csv.gz), folders of them, data folders.
        preset: The columns of massive or binance-spot.
        column: A column of ours and its name in the files: price=Price. Repeat for each.
        unit: How times are written: s, ms, us or ns since 1970, or iso.
        timezone: Zone of iso times without an offset: America/New_York. Defaults to UTC.
        ticker: Ticker of all rows. In BINANCE:{}, {} is replaced by the name in the files.
        ticker_from: Finds the ticker in the name of a file: '^([A-Z]+)-trades'.
        names: Names of the columns, if the files do not start with them: time,price,size.
        delimiter: Separates the columns. Defaults to a comma.
        jobs: Number of processes; 0 uses all cores.
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
    for outcome in run_imports(
        layout, work, mapping, processes=max(jobs, 0) or None, dry_run=dry_run
    ):
        outcomes.append(outcome)
        if as_json:
            output.print_json(outcome)
        elif outcome.state == "failed":
            output.print_error(outcome.reason)
        else:
            output.print_line(_describe_outcome(outcome))
    if not as_json:
        output.print_line(_summarize(outcomes))
    return 1 if any(outcome.state == "failed" for outcome in outcomes) else 0


_STATES = {
    "published": "published",
    "possible": "would be published",
    "known": "published already",
    "empty": "has no rows",
}


def _describe_outcome(outcome: ImportOutcome) -> str:
    text = f"{outcome.source}: {_STATES[outcome.state]}"
    if outcome.session:
        text += f" as {outcome.session}"
    if outcome.rows or outcome.quarantined:
        text += f", {count_of(outcome.rows, 'trade')}"
    if outcome.tickers:
        text += f" of {count_of(outcome.tickers, 'ticker')}"
    if outcome.quarantined:
        text += f", {count_of(outcome.quarantined, 'row')} in quarantine"
    return f"{text} ({outcome.reason})" if outcome.reason else text


def _summarize(outcomes: Sequence[ImportOutcome]) -> str:
    if not outcomes:
        return "nothing to import"
    counts = Counter(outcome.state for outcome in outcomes)
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    rows = sum(outcome.rows for outcome in outcomes)
    return f"{count_of(len(outcomes), 'source')} ({states}), {count_of(rows, 'trade')}"
