"""``stocktrace import`` and ``merge``: third-party CSV files, and other data folders."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from stocktrace.cli import output
from stocktrace.cli.parameters import DataDir, DryRun, Integer, Json
from stocktrace.settings import Settings
from stocktrace.text import count_of

if TYPE_CHECKING:
    from stocktrace.importing.jobs import ImportOutcome
    from stocktrace.importing.merge import MergeOutcome

_COLUMNS = Group.create_ordered(
    "Third-party files", help="Their columns. By default, those that stocktrace writes."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFlags:
    """The arguments of ``ColumnMapping.of``.

    Args:
        preset: The columns of massive or binance-spot.
        columns: A column of ours and its name in the files: price=Price. Repeat for each.
        unit: How times are written: s, ms, us or ns since 1970, or iso.
        timezone: Zone of iso times without an offset: America/New_York. Defaults to UTC.
        ticker: Ticker of all rows. In BINANCE:{}, {} is replaced by the name in the files.
        ticker_from: Finds the ticker in the name of a file: '^([A-Z]+)-trades'.
        names: Names of the columns, if the files do not start with them: time,price,size.
        delimiter: Separates the columns. Defaults to a comma.
    """

    preset: Annotated[str | None, Parameter(metavar="NAME")] = None
    columns: Annotated[
        tuple[str, ...], Parameter(name="--column", metavar="OURS=THEIRS", show_default=False)
    ] = ()
    unit: Annotated[str | None, Parameter(metavar="UNIT")] = None
    timezone: Annotated[str | None, Parameter(metavar="ZONE")] = None
    ticker: Annotated[str | None, Parameter(metavar="TICKER")] = None
    ticker_from: Annotated[str | None, Parameter(metavar="REGEX")] = None
    names: Annotated[str | None, Parameter(metavar="NAMES")] = None
    delimiter: Annotated[str | None, Parameter(metavar="CHARACTER")] = None


def import_(
    *sources: Path,
    columns: Annotated[ColumnFlags | None, Parameter(name="*", group=_COLUMNS)] = None,
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
        jobs: Number of processes; 0 uses all cores.
    """
    from stocktrace.importing.column_mapping import ColumnMapping
    from stocktrace.importing.jobs import plan_imports, run_imports
    from stocktrace.store.layout import Layout

    layout = Layout.from_settings(Settings.load(data_dir=data_dir))
    mapping = ColumnMapping.of(**asdict(columns or ColumnFlags()))
    work = plan_imports(layout, sources)
    outcomes = []
    processes = max(jobs, 0) or None
    for outcome in run_imports(layout, work, mapping, processes=processes, dry_run=dry_run):
        outcomes.append(outcome)
        if as_json:
            output.print_json(outcome)
        elif outcome.state == "failed":
            output.print_error(outcome.reason)
        else:
            output.print_line(_describe_outcome(outcome))
    counts = Counter(outcome.state for outcome in outcomes)
    if not as_json and not outcomes:
        output.print_line("nothing to import")
    elif not as_json:
        states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        trades = count_of(sum(outcome.rows for outcome in outcomes), "trade")
        output.print_line(f"{count_of(len(outcomes), 'source')} ({states}), {trades}")
    return 1 if counts["failed"] else 0


_IMPORT_STATES = {
    "published": "published",
    "possible": "would be published",
    "known": "published already",
    "empty": "has no rows",
}


def _describe_outcome(outcome: ImportOutcome) -> str:
    text = f"{outcome.source}: {_IMPORT_STATES[outcome.state]}"
    if outcome.session:
        text += f" as {outcome.session}"
    if outcome.rows or outcome.quarantined:
        text += f", {count_of(outcome.rows, 'trade')}"
    if outcome.tickers:
        text += f" of {count_of(outcome.tickers, 'ticker')}"
    if outcome.quarantined:
        text += f", {count_of(outcome.quarantined, 'row')} in quarantine"
    return f"{text} ({outcome.reason})" if outcome.reason else text


_MERGE_STATES = {
    "published": "merged as {}",
    "known": "merged already, as {}",
    "possible": "would be merged{}",
    "failed": "merged as {}, and its books DO NOT balance",
}


def merge(
    first: Path, second: Path, *, into: Path, dry_run: DryRun = False, as_json: Json = False
) -> int:
    """Merge the data of two recorders of the same tickers: every trade once, gaps filled.

    FIRST and SECOND are not changed. If the command is interrupted, run it again to do the rest; a
    finished merge is not repeated. Exits 1 if a capture has not ended, or if the books do not
    balance.

    $ stocktrace merge here/data there/data --into merged --dry-run
    $ stocktrace merge here/data there/data --into merged

    Args:
        first: A data folder. Its clock is used.
        second: The data folder of the other recorder.
        into: The data folder to create.
    """
    from stocktrace.importing.merge import merge_sessions
    from stocktrace.store.layout import Layout

    target = Layout.from_settings(Settings.load(data_dir=into))
    outcome = merge_sessions(target, Layout(first), Layout(second), dry_run=dry_run)
    failed = outcome.state == "failed"
    if as_json:
        output.print_json(outcome)
    else:
        _print_merge(outcome)
    if failed:
        output.print_error(outcome.reason)
    return 1 if failed else 0


def _print_merge(outcome: MergeOutcome) -> None:
    reason = f" ({outcome.reason})" if outcome.reason and outcome.state != "failed" else ""
    output.print_line(f"{_MERGE_STATES[outcome.state].format(outcome.session)}{reason}")
    output.print_line(
        f"  {count_of(outcome.trades, 'trade')}: {outcome.both:,} received by both, "
        f"{outcome.first:,} by the first only, {outcome.second:,} by the second only"
    )
    output.print_line(
        "  no trade was received by both: receive times are unchanged"
        if outcome.clock_offset_s is None
        else f"  the second received {outcome.clock_offset_s:+.3f} s later; its receive times are "
        "corrected by this"
    )
    output.print_table(
        ["listened", "hours over all tickers"],
        [(by or "neither", f"{seconds / 3600:.3f}") for by, seconds in outcome.listened_s.items()],
    )
