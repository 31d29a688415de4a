"""Older sessions and CSV files of others as a Prefect flow: a task for each batch of files.

Each source is published once, whoever asks for it again; a run that was killed is simply started
again.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from flows.markdown import ROWS
from stocktrace.errors import StocktraceError
from stocktrace.importing.column_mapping import ColumnMapping, Unit
from stocktrace.importing.jobs import ImportJob, ImportOutcome, plan_imports
from stocktrace.importing.jobs import run_imports as fill
from stocktrace.settings import Settings
from stocktrace.store.layout import Layout

KEY = "stocktrace-backfill"

Sources = Annotated[list[str], Field(examples=[["/srv/older/data", "/srv/csv"]])]
Column = Annotated[str, Field(pattern=r"^(symbol|ts_event|ts_recv|price|volume|conditions)=.+$")]
Columns = Annotated[list[Column], Field(examples=[["ts_event=time", "price=Price"]])]
Ticker = Annotated[str, Field(min_length=1, examples=["AAPL", "BINANCE:{}"])]


@flow(name="stocktrace-backfill", persist_result=False)
def import_files(
    sources: Sources | None = None,
    preset: Literal["massive", "binance-spot"] | None = None,
    columns: Columns | None = None,
    unit: Unit | None = None,
    timezone: str | None = None,
    ticker: Ticker | None = None,
    ticker_from: str | None = None,
    names: str | None = None,
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None,
    dry_run: bool = False,
    jobs: Annotated[int, Field(ge=0, le=256)] = 0,
    batch: Annotated[int, Field(ge=1, le=10_000)] = 50,
    data_dir: str | None = None,
) -> State[Any]:
    """Publish what older sessions and CSV files of others left, each once.

    No source is changed. Without any, what died in the data folder itself is recovered.

    Args:
        sources: CSV files (also .csv.gz), folders of them, data folders of stocktrace; as the
            worker sees them.
        preset: What the files are, if they are well known.
        columns: A column of ours and its name in the files, such as price=Price.
        unit: The unit of their times, counted from 1970 (UTC), or iso for text.
        timezone: The zone of iso times without an offset; else UTC.
        ticker: One ticker for all rows; a {} in it is what the file says, as in BINANCE:{}.
        ticker_from: A pattern whose first group finds the ticker in a file's name.
        names: The names of the columns, parted by commas, if the files have no line of them.
        delimiter: What parts the columns; else a comma.
        dry_run: Change nothing, and say what would be.
        jobs: How many processes; 0 is as many as cores.
        batch: Sources a task.
        data_dir: The folder to publish in; else STOCKTRACE_DATA_DIR, else data.

    Returns:
        How many sources were published, were known, failed; and how many trades.
    """
    try:
        layout = Layout.from_settings(Settings.load(data_dir=data_dir))
        mapping = ColumnMapping.of(
            columns or (),
            preset,
            unit,
            names,
            timezone=timezone,
            ticker=ticker,
            ticker_from=ticker_from,
            delimiter=delimiter,
        )
        work = plan_imports(layout, [Path(source) for source in sources or ()])
        outcomes: list[ImportOutcome] = []
        for begin in range(0, len(work), batch):
            some = work[begin : begin + batch]
            outcomes += import_batch(layout, some, mapping, jobs or None, dry_run)
    except StocktraceError as error:
        return Failed(message=str(error))
    if outcomes:
        create_table_artifact([msgspec.to_builtins(one) for one in outcomes[:ROWS]], key=KEY)
    failed = [one.reason for one in outcomes if one.state == "failed"]
    counts = dict(Counter(one.state for one in outcomes))
    rows = sum(one.rows for one in outcomes)
    if failed:
        return Failed(message=f"{len(failed)} of {len(work)} sources failed, first: {failed[0]}")
    told = ", ".join(f"{count} {state}" for state, count in counts.items()) or "nothing to do"
    return Completed(message=f"{told}; {rows:,} trades.", data={**counts, "trades": rows})


@task(
    name="backfill",
    retries=2,
    retry_delay_seconds=10,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def import_batch(
    layout: Layout, work: list[ImportJob], mapping: ColumnMapping, jobs: int | None, only_look: bool
) -> list[ImportOutcome]:
    """Publish a batch of sources; again changes nothing."""
    return list(fill(layout, work, mapping, jobs=jobs, only_look=only_look))
