"""``stocktrace watch``: the progress of a capture in another process, such as Prefect's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from stocktrace.cli import output
from stocktrace.cli.capture import Progress
from stocktrace.cli.data_dir import DataDir, open_layout
from stocktrace.cli.help import Json
from stocktrace.cli.progress import make_progress
from stocktrace.errors import SessionCrashed, StocktraceError, UsageError

if TYPE_CHECKING:
    from stocktrace.sessions.status import CaptureStatus
    from stocktrace.store.layout import Layout

# A capture writes its status twice a second.
_LOOK_S = 0.5


def watch(
    session: str | None = None,
    *,
    show: Progress = "auto",
    as_json: Json = False,
    data_dir: DataDir = None,
) -> int:
    """Show the progress of a capture in another process until it ends.

    With --json, prints each status as a line. Ctrl-C ends `watch`, not the capture. Exits 1 if the
    capture failed or crashed.

    $ stocktrace watch
    $ stocktrace watch 20261123T142958Z_3f9a1c --progress log
    $ stocktrace watch --json --data-dir /srv/trades

    Args:
        session: Defaults to the capture that was started last.
    """
    layout = open_layout(data_dir)

    from stocktrace.sessions.catalog import find_running_capture
    from stocktrace.sessions.report import SessionReport

    session = session or find_running_capture(layout, latest=True)

    last: CaptureStatus | None = None
    try:
        with make_progress("none" if as_json else show) as show_progress:
            for last in _read_statuses(layout, session):
                if as_json:
                    output.print_json(last)
                    output.flush()
                    output.check_reader()
                elif show_progress is not None:
                    show_progress(last)
    except KeyboardInterrupt:
        output.print_error(f"Session {session} is still running.")
        return 130
    if last is None or last.state != "ended":
        raise SessionCrashed(session)
    if not as_json:
        output.print_summary(SessionReport.read(layout.report(session)), layout.root)
    return 1 if last.final_state == "failed" else 0


def _read_statuses(layout: Layout, session: str) -> Iterator[CaptureStatus]:
    """Yield each status of a session that is written, until the session or its process ends."""
    from stocktrace.sessions.catalog import is_in_use
    from stocktrace.sessions.status import CaptureStatus
    from stocktrace.store.names import is_session

    if not is_session(session):
        raise UsageError(f"{session!r} is not a session. See `stocktrace sessions`.")
    path, before, never = layout.status(session), None, threading.Event()
    while True:
        # Asked first: if nobody holds the lock, the status that is read next is the last one.
        running = is_in_use(layout, session)
        try:
            status = CaptureStatus.read(path)
        except FileNotFoundError:
            raise UsageError(
                f"No status of session {session} in {layout.root}. See `stocktrace sessions`."
            ) from None
        except ValueError as error:
            raise StocktraceError(f"{path} is not a status of this version: {error}.") from error
        if status != before:
            yield status
        before = status
        if status.state == "ended" or not running:
            return
        never.wait(_LOOK_S)
