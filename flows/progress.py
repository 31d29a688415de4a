"""A capture in Prefect's UI: its progress, a page with its status, and at the end its report.

The page is one artifact that is replaced in place and becomes the report. The server, which may be
slow or unreachable, is called on a separate thread; failures never reach the capture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from functools import partial
from typing import Self, cast
from uuid import UUID

from prefect import get_client, runtime
from prefect.artifacts import create_markdown_artifact, create_progress_artifact
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.events import emit_event
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.server_outage import ServerOutage
from stocktrace.clock import Deadline
from stocktrace.errors import StocktraceError
from stocktrace.live.control import CaptureControl
from stocktrace.live.status_events import StatusEvent, StatusEventDetector
from stocktrace.sessions.report import SessionReport
from stocktrace.sessions.status import CaptureStatus
from stocktrace.show import markdown
from stocktrace.show.picture import MOST_PANELS, draw_picture
from stocktrace.show.view import ReportView
from stocktrace.store.layout import Layout

# An update costs the server 60 to 100 ms, and each is an event.
PROGRESS_INTERVAL_S = 15.0
# How soon a cancellation without a signal is noticed.
CANCEL_CHECK_INTERVAL_S = 5.0
# The report's share of the 20 s in which a cancelled capture ends.
REPORT_TIMEOUT_S = 5.0

PROGRESS_ARTIFACT = "stocktrace-progress"
REPORT_ARTIFACT = "stocktrace-report"
# Prefect refuses the event of an artifact larger than a megabyte, and then shows nothing.
MAX_PICTURE_BYTES = 500_000
_MAX_TICKER_TAGS = 10

#: Called with each status in this process, such as by a terminal; twice a second.
STATUS_LISTENERS: list[Callable[[CaptureStatus], None]] = []


class ProgressReporter:
    """Shows one capture; made in the task that captures, whose context its calls use."""

    def __init__(
        self,
        layout: Layout,
        tickers: Sequence[str],
        control: CaptureControl,
        outages: Sequence[ServerOutage] = (),
    ) -> None:
        self._layout, self._tickers, self._control = layout, tickers, control
        self._executor = ThreadPoolExecutor(1, "stocktrace-progress")
        self._call: Future[None] | None = None
        self._cancel_check_due = self._progress_due = Deadline.after(0)
        self._artifacts: dict[str, UUID] = {}
        self._status: CaptureStatus | None = None
        self._shown: CaptureStatus | None = None
        self._events = StatusEventDetector()
        self._outage = ServerOutage("be updated")
        self._outages = (self._outage, *outages)
        self._has_ended = False

    def __enter__(self) -> Self:
        self._submit(lambda: self._try(self._tag))
        return self

    def __exit__(self, *_: object) -> None:
        wait([self._submit(lambda: self._try(self._show_report))], REPORT_TIMEOUT_S)
        self._has_ended = True
        self._executor.shutdown(wait=False, cancel_futures=True)

    @property
    def failures(self) -> int:
        """The failed calls of this run, from all its threads."""
        return sum(outage.failures for outage in self._outages)

    def on_status(self, status: CaptureStatus) -> None:
        """Take the newest status; never waits."""
        self._status = status
        for listener in STATUS_LISTENERS:
            listener(status)
        for event in self._events.detect(status):
            self._submit(partial(self._emit, event))
        if (self._call is None or self._call.done()) and self._cancel_check_due.passed():
            self._cancel_check_due = Deadline.after(CANCEL_CHECK_INTERVAL_S)
            self._call = self._submit(self._update)

    def _submit(self, call: Callable[[], None]) -> Future[None]:
        return self._executor.submit(copy_context().run, call)

    # --- on its own thread -------------------------------------------------------------------

    def _try(self, call: Callable[[], None]) -> None:
        try:
            # Prefect's own five retries would hold up the next call long after the server is back.
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1}):
                call()
        except Exception as error:  # noqa: BLE001 - whatever it is, the capture continues
            self._outage.on_failure(error, silently=self._has_ended)
        else:
            self._outage.on_success()

    def _emit(self, event: StatusEvent) -> None:
        """Put an event of the session into Prefect's queue, which relates it to the flow run."""
        resource = {
            "prefect.resource.id": f"stocktrace.session.{event.session}",
            "prefect.resource.name": event.session,
        }
        try:
            emit_event(event.name, resource, event.occurred_at, payload=event.payload)
        except Exception:  # noqa: BLE001 - the queue is local: this is not an outage of the server
            self._outage.failures += 1

    def _update(self) -> None:
        self._try(self._check_cancelled)
        if self._progress_due.passed() and (status := self._status):
            self._progress_due = Deadline.after(PROGRESS_INTERVAL_S)
            self._try(partial(self._show_progress, status))
            self._try(partial(self._show_status, status))

    def _check_cancelled(self) -> None:
        """Stop if the run was cancelled: a script gets no signal, and a worker may fail to send."""
        run = get_client(sync_client=True).read_flow_run(UUID(runtime.flow_run.id))
        if run.state is not None and (run.state.is_cancelling() or run.state.is_cancelled()):
            self._control.stop("cancelled in Prefect")

    def _tag(self) -> None:
        # Tags set around the flow would apply to its tasks, which ask for a slot for each.
        client = get_client(sync_client=True)
        run = client.read_flow_run(UUID(runtime.flow_run.id))
        tags = dict.fromkeys([*run.tags, "stocktrace", *self._tickers[:_MAX_TICKER_TAGS]])
        client.update_flow_run(run.id, tags=list(tags)).raise_for_status()

    def _show_progress(self, status: CaptureStatus, *, complete: bool = False) -> None:
        share = 1.0 if complete else status.elapsed_s / (status.elapsed_s + status.remaining_s)
        percent, text = round(100 * share, 1), markdown.progress_line(status)
        self._save(create_progress_artifact, percent, PROGRESS_ARTIFACT, text)

    def _show_status(self, status: CaptureStatus) -> None:
        page = markdown.status_page(status, self._shown)
        line = markdown.status_line(status)
        self._save(create_markdown_artifact, page, REPORT_ARTIFACT, line)
        self._shown = status

    def _show_report(self) -> None:
        """Show the report on disk, however the capture ended."""
        if self._status is None:
            return
        report = SessionReport.read(self._layout.report(self._status.session))
        if PROGRESS_ARTIFACT in self._artifacts and report.state == "complete":
            self._show_progress(self._status, complete=True)
        # First without the picture: it takes longer, and the time may not suffice.
        self._show_page(report, "")
        self._show_page(report, self._draw_picture(report.session))

    def _show_page(self, report: SessionReport, picture: str) -> None:
        page = markdown.report_page(report, self._layout, self.failures, picture)
        line = markdown.report_line(report)
        self._save(create_markdown_artifact, page, REPORT_ARTIFACT, line)

    def _draw_picture(self, session: str) -> str:
        """Return the picture as SVG, or a sentence that says why it is missing."""
        try:
            picture = draw_picture(ReportView.read(self._layout, session, MOST_PANELS))
        except StocktraceError as error:
            return str(error)
        if len(picture.encode()) > MAX_PICTURE_BYTES:
            return f"It is too large for Prefect: run stocktrace report {session}."
        return picture

    def _save(self, create: Callable[..., object], data: str | float, key: str, line: str) -> None:
        """Create an artifact, or replace it in place."""
        if key in self._artifacts:
            update = ArtifactUpdate(data=data, description=line)
            get_client(sync_client=True).update_artifact(self._artifacts[key], update)
        else:
            self._artifacts[key] = cast("UUID", create(data, key, line))
