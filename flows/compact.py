"""The nightly maintenance as a Prefect flow: recover, compact ended days, delete expired files.

Each task can be repeated: after a kill at any point, the next run does the rest.
"""

from __future__ import annotations

from typing import Any

import msgspec
from prefect import flow, task
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.convert import recover
from flows.fields import Age, Date, Keep, LakeUrl
from stocktrace.errors import StocktraceError
from stocktrace.maintenance.compact import CompactionResult, compact_days, compact_lake
from stocktrace.maintenance.retention import PruneResult, prune_data
from stocktrace.query.criteria import parse_day
from stocktrace.settings import Settings
from stocktrace.store.layout import Layout
from stocktrace.text import count_of
from stocktrace.units import parse_patience


@flow(name="stocktrace-compact", persist_result=False)
def compact(
    date: Date | None = None,
    older_than: Age = "0",
    data_dir: str | None = None,
    tape_retention: Keep | None = None,
    csv_retention: Keep | None = None,
    lake: LakeUrl | None = None,
) -> dict[str, Any] | State[Any]:
    """Merge each ended day into one file. Delete tapes and CSV past their retention.

    Crashed sessions are recovered first.

    Args:
        date: One UTC date. Defaults to all that have ended.
        older_than: Leave dates alone that ended later than this, such as 7d.
        data_dir: The folder for all recorded data. Defaults to STOCKTRACE_DATA_DIR, or data.
        tape_retention: Delete older tapes of sessions that verify. Defaults to
            STOCKTRACE_TAPE_RETENTION, or forever.
        csv_retention: Delete older CSV of published trades. Defaults to
            STOCKTRACE_CSV_RETENTION, or 0s.
        lake: Compact this lake, too, such as s3://bucket/prefix. Set it in one deployment.

    Returns:
        The sessions that were recovered, the numbers of files compacted (also in the lake) and
        deleted, and the dates that are postponed.
    """
    settings = {
        "data_dir": data_dir,
        "tape_retention": tape_retention,
        "csv_retention": csv_retention,
    }
    try:
        folder = str(Settings.load(**settings).data_dir.resolve())
        recovered = recover(data_dir)
        compaction = compact_dates(settings, date, older_than)
        pruning = delete(settings)
        in_lake = (
            compact_lake_dates(settings, lake, date, older_than) if lake else CompactionResult()
        )
    except StocktraceError as error:
        return Failed(message=str(error))
    problems = [*compaction.failed, *in_lake.failed, *pruning.refused]
    if problems:
        return Failed(message=f"{count_of(len(problems), 'problem')}, the first: {problems[0]}")
    files = sum(day.files for day in compaction.done)
    text = (
        f"{count_of(len(recovered), 'session')} recovered, "
        f"{count_of(len(compaction.done), 'day')} of {count_of(files, 'file')} compacted, "
        f"{count_of(pruning.tapes, 'tape')} and {pruning.csv:,} CSV deleted."
    )
    if lake:
        text += f" {count_of(len(in_lake.done), 'day')} of {lake} compacted."
    data = {
        "recovered": [session.session for session in recovered],
        "compacted": len(compaction.done),
        "files": files,
        "before": sum(day.size_before for day in compaction.done),
        "size": sum(day.size for day in compaction.done),
        "compacted_in_lake": len(in_lake.done),
        "waiting": compaction.postponed,
        "deleted": msgspec.to_builtins(pruning),
        "data_dir": folder,
    }
    return Completed(message=text, data=data)


# Another process may compact or read a file just now: a minute later it mostly does not.
@task(name="compact", retries=2, retry_delay_seconds=60, persist_result=False)
def compact_dates(
    settings: dict[str, str | None], date: str | None, older_than: str
) -> CompactionResult:
    """Merge each ended day into one file. Running it again changes nothing."""
    layout = Layout.from_settings(Settings.load(**settings))
    return compact_days(layout, parse_day(date), older_than=parse_patience(older_than))


@task(name="compact-lake", retries=2, retry_delay_seconds=60, persist_result=False)
def compact_lake_dates(
    settings: dict[str, str | None], lake: str, date: str | None, older_than: str
) -> CompactionResult:
    """Merge each ended day of the lake into one file. Running it again changes nothing."""
    layout = Layout.from_settings(Settings.load(**settings, lake=lake))
    return compact_lake(layout, layout.lake, parse_day(date), older_than=parse_patience(older_than))


@task(name="delete", persist_result=False)
def delete(settings: dict[str, str | None]) -> PruneResult:
    """Delete verified tapes and CSV past their retention."""
    loaded = Settings.load(**settings)
    return prune_data(Layout.from_settings(loaded), loaded.tape_retention, loaded.csv_retention)
