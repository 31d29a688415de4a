"""Older sessions and third-party CSV files as a Prefect flow, a task for each batch of files.

Each source is published once, however often it is imported. A run that was killed is started again.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from stocktrace.errors import StocktraceError
from stocktrace.importing.column_mapping import ColumnMapping, Unit
from stocktrace.importing.jobs import ImportJob, ImportOutcome, plan_imports, run_imports
from stocktrace.settings import Settings
from stocktrace.show.markdown import MAX_ROWS
from stocktrace.store.layout import Layout

ARTIFACT = "stocktrace-import"

Sources = Annotated[list[str], Field(examples=[["/srv/older/data", "/srv/csv"]])]
Column = Annotated[str, Field(pattern=r"^(symbol|ts_event|ts_recv|price|volume|conditions)=.+$")]
Columns = Annotated[list[Column], Field(examples=[["ts_event=time", "price=Price"]])]
Ticker = Annotated[str, Field(min_length=1, examples=["AAPL", "BINANCE:{}"])]


@flow(name="stocktrace-import", persist_result=False)
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
    """Publish older sessions and third-party CSV files, each once.

    Sources are never changed. Crashed sessions of the data folder are recovered first, also
    without any source.

    Args:
        sources: CSV files (also .csv.gz), folders of them, data folders of stocktrace; as the
            worker sees them.
        preset: The format of the files, if it is a well-known one.
        columns: A column of stocktrace and its name in the files, such as price=Price.
        unit: The unit of their times, counted from 1970 (UTC), or iso for text.
        timezone: The time zone of iso times without an offset. Defaults to UTC.
        ticker: One ticker for all rows. A {} in it is replaced by the file's own, as in BINANCE:{}.
        ticker_from: A pattern whose first group finds the ticker in a file's name.
        names: The names of the columns, separated by commas, if the files have no header line.
        delimiter: The separator of the columns. Defaults to a comma.
        dry_run: Change nothing, and report what would be imported.
        jobs: The number of processes. 0 means one for each core.
        batch: Sources for each task.
        data_dir: The folder to publish in. Defaults to STOCKTRACE_DATA_DIR, or data.

    Returns:
        How many sources were published, were known before, or failed; and how many trades.
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
            part = work[begin : begin + batch]
            outcomes += import_batch(layout, part, mapping, jobs or None, dry_run)
    except StocktraceError as error:
        return Failed(message=str(error))
    if outcomes:
        rows = [msgspec.to_builtins(outcome) for outcome in outcomes[:MAX_ROWS]]
        create_table_artifact(rows, key=ARTIFACT)
    failed = [outcome.reason for outcome in outcomes if outcome.state == "failed"]
    if failed:
        return Failed(message=f"{len(failed)} of {len(work)} sources failed, first: {failed[0]}")
    counts = dict(Counter(outcome.state for outcome in outcomes))
    text = ", ".join(f"{count} {state}" for state, count in counts.items()) or "nothing to do"
    trades = sum(outcome.rows for outcome in outcomes)
    return Completed(message=f"{text}; {trades:,} trades.", data={**counts, "trades": trades})


@task(name="import", retries=2, retry_delay_seconds=10, persist_result=False)
def import_batch(
    layout: Layout, work: list[ImportJob], mapping: ColumnMapping, jobs: int | None, only_look: bool
) -> list[ImportOutcome]:
    """Publish a batch of sources. Running it again changes nothing."""
    return list(run_imports(layout, work, mapping, processes=jobs, dry_run=only_look))
