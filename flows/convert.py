"""A data folder's unpublished data, published by a Prefect flow after each capture and every night.

It may run beside a capture: sessions that a process uses are not touched.
"""

from __future__ import annotations

from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from stocktrace.errors import StocktraceError
from stocktrace.maintenance.convert import convert_segments
from stocktrace.record.recovery import ConversionResult, RecoveredSession
from stocktrace.record.recovery import recover as recover_sessions
from stocktrace.settings import Settings
from stocktrace.show.markdown import conversion_line, conversion_page
from stocktrace.store.layout import Layout


@flow(name="stocktrace-convert", persist_result=False)
def convert(data_dir: str | None = None) -> State[Any]:
    """Recover crashed sessions, and publish every sealed segment.

    Running it again changes nothing. Running captures are not affected.

    Args:
        data_dir: The folder for all recorded data. Defaults to STOCKTRACE_DATA_DIR, or data.

    Returns:
        The sessions that were recovered, and how many files and trades were published.
    """
    try:
        recovered = recover(data_dir)
        conversion = convert_sealed(data_dir)
    except StocktraceError as error:
        return Failed(message=str(error))
    text = conversion_line(recovered, conversion)
    create_markdown_artifact(conversion_page(recovered, conversion), key="stocktrace-convert")
    if conversion.failed or not all(session.balanced for session in recovered):
        return Failed(message=text)
    data = {
        "recovered": [session.session for session in recovered],
        "files": conversion.files,
        "rows": conversion.rows + sum(session.rows for session in recovered),
    }
    return Completed(message=text, data=data)


# Another process may hold a lock or a file for a while; both tasks can be repeated.
@task(name="recover", retries=2, retry_delay_seconds=30, persist_result=False)
def recover(data_dir: str | None) -> list[RecoveredSession]:
    """Publish data left by crashed captures."""
    return recover_sessions(Layout.from_settings(Settings.load(data_dir=data_dir)))


@task(name="convert", retries=2, retry_delay_seconds=30, persist_result=False)
def convert_sealed(data_dir: str | None) -> ConversionResult:
    """Publish the sealed segments of sessions that no process uses."""
    return convert_segments(Layout.from_settings(Settings.load(data_dir=data_dir)))
