"""The backup of a data folder as a Prefect flow.

It may run beside captures. After a kill, the next run continues it.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from prefect import flow, task
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from stocktrace.errors import StocktraceError
from stocktrace.maintenance.backup.run import BackupResult, back_up
from stocktrace.settings import Settings
from stocktrace.store.layout import Layout
from stocktrace.text import count_of

Destination = Annotated[str, Field(min_length=1, examples=["/mnt/backup", "s3://bucket/backup"])]


@flow(name="stocktrace-backup", persist_result=False)
def backup(
    destination: Destination,
    delete: bool = False,
    check: bool = False,
    data_dir: str | None = None,
) -> State[Any]:
    """Copy the data folder to another folder or a lake, also while captures run.

    Args:
        destination: A folder of the worker, or the URL of a lake.
        delete: Delete files from the backup that were deleted from the data folder.
        check: Read all files at both ends, and repair the backup.
        data_dir: The folder for all recorded data. Defaults to STOCKTRACE_DATA_DIR, or data.

    Returns:
        The numbers of files that were copied, unchanged, kept and deleted.
    """
    try:
        result = copy(destination, delete, check, data_dir)
    except StocktraceError as error:
        return Failed(message=str(error))
    if result.problems:
        problems = count_of(len(result.problems), "problem")
        return Failed(message=f"{problems}, the first: {result.problems[0]}")
    text = f"{count_of(result.copied, 'file')} of {result.size:,} bytes copied to {destination}."
    return Completed(message=text, data=msgspec.to_builtins(result))


@task(name="backup", persist_result=False)
def copy(destination: str, delete: bool, check: bool, data_dir: str | None) -> BackupResult:
    """Copy what has changed. Running it again continues it."""
    layout = Layout.from_settings(Settings.load(data_dir=data_dir))
    return back_up(layout, destination, delete=delete, check=check)
