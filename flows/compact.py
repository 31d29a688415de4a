"""The upkeep of a day as a Prefect flow: recover, compact what is over, delete what may go.

Each task is an idempotent function of the core; killed anywhere, the next run ends it.
"""

from __future__ import annotations

from typing import Any

import msgspec
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.fields import Age, Date, Keep
from stocktrace.errors import StocktraceError
from stocktrace.maintenance.compact import CompactionResult, compact_days
from stocktrace.maintenance.retention import PruneResult, prune_data
from stocktrace.query.criteria import parse_day
from stocktrace.record.recovery import RecoveredSession
from stocktrace.record.recovery import recover as recover_all
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
) -> dict[str, Any] | State[Any]:
    """Make one file of each ticker's day that is over, and delete what was kept for long enough.

    Sessions that died are recovered first.

    Args:
        date: One UTC date; else all that are over.
        older_than: Leave alone what ended later, such as 7d.
        data_dir: The folder of everything that is recorded; else STOCKTRACE_DATA_DIR, else data.
        tape_retention: Delete older tapes of sessions that verify; else STOCKTRACE_TAPE_RETENTION, else
            forever.
        csv_retention: Delete older CSV of what is published; else STOCKTRACE_CSV_RETENTION, else 0s.

    Returns:
        How many sessions were recovered, days of tickers compacted, files deleted; what waits.
    """
    asked = {"data_dir": data_dir, "tape_retention": tape_retention, "csv_retention": csv_retention}
    try:
        folder = str(Settings.load(**asked).data_dir.resolve())
        recovered = recover(asked)
        compaction = compact_dates(asked, date, older_than)
        pruning = delete(asked)
    except StocktraceError as error:
        return Failed(message=str(error))
    problems = [*compaction.failed, *pruning.refused]
    if problems:
        return Failed(message=f"{count_of(len(problems), 'problem')}, the first: {problems[0]}")
    files = sum(one.files for one in compaction.done)
    text = (
        f"{count_of(len(recovered), 'session')} recovered, {count_of(files, 'file')} compacted "
        f"into {len(compaction.done):,}, "
        f"{count_of(pruning.tapes, 'tape')} and {pruning.csv:,} CSV deleted."
    )
    result = {
        "recovered": [one.session for one in recovered],
        "compacted": len(compaction.done),
        "files": files,
        "before": sum(one.files_before for one in compaction.done),
        "size": sum(one.size for one in compaction.done),
        "waiting": compaction.postponed,
        "deleted": msgspec.to_builtins(pruning),
        "data_dir": folder,
    }
    return Completed(message=text, data=result)


@task(name="recover", cache_policy=NO_CACHE, persist_result=False)
def recover(asked: dict[str, str | None]) -> list[RecoveredSession]:
    """Publish what captures left that died."""
    return recover_all(Layout.from_settings(Settings.load(**asked)))


# Another process may be at it, or have a file at hand: a minute later it mostly is not.
@task(
    name="compact",
    retries=2,
    retry_delay_seconds=60,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def compact_dates(
    asked: dict[str, str | None], date: str | None, older_than: str
) -> CompactionResult:
    """Make one file of each ticker's day; again changes nothing."""
    layout = Layout.from_settings(Settings.load(**asked))
    return compact_days(layout, parse_day(date), older_than=parse_patience(older_than))


@task(name="delete", cache_policy=NO_CACHE, persist_result=False)
def delete(asked: dict[str, str | None]) -> PruneResult:
    """Delete what was kept for long enough and verifies."""
    settings = Settings.load(**asked)
    return prune_data(
        Layout.from_settings(settings), settings.tape_retention, settings.csv_retention
    )
