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
from stocktrace.quantities import parse_patience
from stocktrace.record.recovery import Recovered
from stocktrace.record.recovery import recover as recover_all
from stocktrace.settings import Settings
from stocktrace.store.layout import Layout
from stocktrace.store.query import parse_day
from stocktrace.upkeep.compacting import Compaction, compact_days
from stocktrace.upkeep.retention import Pruning, prune
from stocktrace.words import counted


@flow(name="stocktrace-compact", persist_result=False)
def compact(
    date: Date | None = None,
    older_than: Age = "0",
    data_dir: str | None = None,
    keep_tape: Keep | None = None,
    keep_csv: Keep | None = None,
) -> dict[str, Any] | State[Any]:
    """Make one file of each ticker's day that is over, and delete what was kept for long enough.

    Sessions that died are recovered first.

    Args:
        date: One UTC date; else all that are over.
        older_than: Leave alone what ended later, such as 7d.
        data_dir: The folder of everything that is recorded; else STOCKTRACE_DATA_DIR, else data.
        keep_tape: Delete older tapes of sessions that verify; else STOCKTRACE_KEEP_TAPE, else
            forever.
        keep_csv: Delete older CSV of what is published; else STOCKTRACE_KEEP_CSV, else 0s.

    Returns:
        How many sessions were recovered, days of tickers compacted, files deleted; what waits.
    """
    asked = {"data_dir": data_dir, "keep_tape": keep_tape, "keep_csv": keep_csv}
    try:
        folder = str(Settings.load(**asked).data_dir.resolve())
        recovered = recover(asked)
        compaction = compact_dates(asked, date, older_than)
        pruning = delete(asked)
    except StocktraceError as error:
        return Failed(message=str(error))
    problems = [*compaction.failed, *pruning.kept]
    if problems:
        return Failed(message=f"{counted(len(problems), 'problem')}, the first: {problems[0]}")
    files = sum(one.files for one in compaction.done)
    text = (
        f"{counted(len(recovered), 'session')} recovered, {counted(files, 'file')} compacted "
        f"into {len(compaction.done):,}, "
        f"{counted(pruning.tapes, 'tape')} and {pruning.csv:,} CSV deleted."
    )
    result = {
        "recovered": [one.session for one in recovered],
        "compacted": len(compaction.done),
        "files": files,
        "before": sum(one.before for one in compaction.done),
        "size": sum(one.size for one in compaction.done),
        "waiting": compaction.waiting,
        "deleted": msgspec.to_builtins(pruning),
        "data_dir": folder,
    }
    return Completed(message=text, data=result)


@task(name="recover", cache_policy=NO_CACHE, persist_result=False)
def recover(asked: dict[str, str | None]) -> list[Recovered]:
    """Publish what captures left that died."""
    return recover_all(Layout.of(Settings.load(**asked)))


# Another process may be at it, or have a file at hand: a minute later it mostly is not.
@task(
    name="compact",
    retries=2,
    retry_delay_seconds=60,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def compact_dates(asked: dict[str, str | None], date: str | None, older_than: str) -> Compaction:
    """Make one file of each ticker's day; again changes nothing."""
    layout = Layout.of(Settings.load(**asked))
    return compact_days(layout, parse_day(date), older_than=parse_patience(older_than))


@task(name="delete", cache_policy=NO_CACHE, persist_result=False)
def delete(asked: dict[str, str | None]) -> Pruning:
    """Delete what was kept for long enough and verifies."""
    settings = Settings.load(**asked)
    return prune(Layout.of(settings), settings.keep_tape, settings.keep_csv)
