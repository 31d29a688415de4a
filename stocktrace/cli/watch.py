"""``stocktrace watch``: a capture that another process runs, such as Prefect's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from stocktrace.cli import output
from stocktrace.cli.capture import Progress
from stocktrace.cli.data_dir import DataDir, open_layout
from stocktrace.cli.output import Json
from stocktrace.cli.progress import make_progress
from stocktrace.errors import SessionCrashed, StocktraceError, UsageError

if TYPE_CHECKING:
    from stocktrace.sessions.status import CaptureStatus
    from stocktrace.store.layout import Layout

# The status is written twice a second.
_LOOK_S = 0.5


def watch(
    session: Annotated[str | None, Parameter(help="Default: the capture that began last.")] = None,
    *,
    show: Progress = "auto",
    as_json: Json = False,
    data_dir: DataDir = None,
) -> int:
    """Show a capture that another process runs, until it ends.

    With --json a line for each look. Ctrl-C ends the watching, not the capture. Exits 1 if the
    capture failed or its process died.
    """
    layout = open_layout(data_dir)

    from stocktrace.sessions.catalog import latest_running_capture
    from stocktrace.sessions.report import SessionReport

    session = session or latest_running_capture(layout)

    last: CaptureStatus | None = None
    try:
        with make_progress("none" if as_json else show) as look:
            for last in _statuses(layout, session):
                if as_json:
                    output.print_json(last)
                    output.flush()
                    output.check_reader()
                elif look is not None:
                    look(last)
    except KeyboardInterrupt:
        output.print_error(f"session {session} goes on")
        return 130
    if last is None or last.state != "ended":
        raise SessionCrashed(session)
    if not as_json:
        output.print_summary(SessionReport.read(layout.report(session)), layout.root)
    return 1 if last.final_state == "failed" else 0


def _statuses(layout: Layout, session: str) -> Iterator[CaptureStatus]:
    """Each status of a session as it is written; ends with the session or with its process."""
    from stocktrace.sessions.catalog import is_in_use
    from stocktrace.sessions.status import CaptureStatus
    from stocktrace.store.names import is_session

    if not is_session(session):
        raise UsageError(f"{session!r} is no session: see `stocktrace sessions`.")
    path, before, never = layout.status(session), None, threading.Event()
    while True:
        alive = is_in_use(layout, session)  # asked first: then the status is its last word
        try:
            status = CaptureStatus.read(path)
        except FileNotFoundError:
            raise UsageError(
                f"There is no status of a session {session} in {layout.root}: "
                "see `stocktrace sessions`."
            ) from None
        except ValueError as error:
            raise StocktraceError(f"{path} is no status of this version: {error}.") from error
        if status != before:
            yield status
        before = status
        if status.state == "ended" or not alive:
            return
        never.wait(_LOOK_S)
