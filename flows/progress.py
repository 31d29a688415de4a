"""What a person sees of a capture in Prefect: how far it is, how it stands, its report at the end.

The page of how it stands is one artifact, replaced where it stands, and becomes the report. The
server may be slow or gone. It is therefore asked on a thread of its own, one call at a time,
and what fails is counted and told, but never reaches the capture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import Self, cast
from uuid import UUID

from prefect import get_client, runtime
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.events import CaptureEvent, EventDetector
from flows.markdown import progress_line, report_line, report_page, status_line, status_page
from flows.server_outage import ServerOutage
from stocktrace.clock import Deadline
from stocktrace.errors import StocktraceError
from stocktrace.live.control import CaptureControl
from stocktrace.sessions.report import SessionReport
from stocktrace.sessions.status import CaptureStatus
from stocktrace.show.picture import MOST_PANELS, draw_picture
from stocktrace.show.view import ReportView
from stocktrace.store.layout import Layout

# An update costs the server 60-100 ms and is an event, too.
PROGRESS_EVERY_S = 15.0
# How soon a cancel is noticed that no signal tells of.
STATE_EVERY_S = 5.0
# The report's share of the 20 s in which a cancelled capture ends.
REPORT_WITHIN_S = 5.0

PROGRESS_KEY = "stocktrace-progress"
REPORT_KEY = "stocktrace-report"
# Prefect refuses the event of an artifact of more than a megabyte, and with it nothing is shown.
PICTURE_BYTES = 500_000
_TAGS = 10


#: Who else wants to know in this process, such as a terminal; called twice a second.
ON_LOOKERS: list[Callable[[CaptureStatus], None]] = []


class ProgressReporter:
    """Shows one capture; made in the task that captures, whose context its calls take along."""

    def __init__(
        self,
        layout: Layout,
        tickers: Sequence[str],
        handle: CaptureControl,
        others: Sequence[ServerOutage] = (),
    ) -> None:
        self._layout, self._tickers, self._handle = layout, tickers, handle
        self._executor = ThreadPoolExecutor(1, "stocktrace-display")
        self._call: Future[None] | None = None
        self._state_due = self._progress_due = Deadline.after(0)
        self._progress: UUID | None = None
        self._page: UUID | None = None
        self._status: CaptureStatus | None = None
        self._shown: CaptureStatus | None = None
        self._newsroom = EventDetector()
        self._outage = ServerOutage("Prefect cannot be told", "Prefect can be told again")
        self._outages = (self._outage, *others)
        self._over = False

    def __enter__(self) -> Self:
        self._submit(lambda: self._try(self._tag))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        wait([self._submit(lambda: self._try(self._report))], REPORT_WITHIN_S)
        self._over = True
        self._executor.shutdown(wait=False, cancel_futures=True)

    @property
    def failures(self) -> int:
        """Calls of this run that failed, whoever made them."""
        return sum(one.failures for one in self._outages)

    def on_status(self, status: CaptureStatus) -> None:
        """Take note of how the capture stands; never waits."""
        self._status = status
        for look in ON_LOOKERS:
            look(status)
        for news in self._newsroom(status):
            self._submit(partial(self._emit, news))
        if (self._call is None or self._call.done()) and self._state_due.passed():
            self._state_due = Deadline.after(STATE_EVERY_S)
            self._call = self._submit(self._update)

    def _submit(self, call: Callable[[], None]) -> Future[None]:
        return self._executor.submit(copy_context().run, call)

    # --- on the thread of its own ------------------------------------------------------------

    def _try(self, call: Callable[[], None]) -> None:
        try:
            # Prefect's own five retries would hold up the next call long after the server is back.
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1}):
                call()
        except Exception as error:  # noqa: BLE001 - whatever it is, the capture goes on
            self._outage.on_failure(error, silently=self._over)
        else:
            self._outage.on_success()

    def _emit(self, news: CaptureEvent) -> None:
        """It is only put in Prefect's queue here, and so tells nothing about the server."""
        try:
            news.emit()
        except Exception:  # noqa: BLE001 - the report's notes have the number
            self._outage.failures += 1

    def _update(self) -> None:
        self._try(self._check_cancelled)
        if self._progress_due.passed():
            self._progress_due = Deadline.after(PROGRESS_EVERY_S)
            self._try(self._show_progress)
            self._try(self._show_page)

    def _check_cancelled(self) -> None:
        """A script is sent no signal when its run is cancelled, and a long run may miss it."""
        run = get_client(sync_client=True).read_flow_run(UUID(runtime.flow_run.id))
        if run.state is not None and (run.state.is_cancelling() or run.state.is_cancelled()):
            self._handle.stop("cancelled in Prefect")

    def _tag(self) -> None:
        """Tags, so that a ticker's runs can be found.

        Set here and not around the flow: a task asks the server for a slot for each of its tags.
        """
        client = get_client(sync_client=True)
        run = client.read_flow_run(UUID(runtime.flow_run.id))
        tags = dict.fromkeys([*run.tags, "stocktrace", *self._tickers[:_TAGS]])
        client.update_flow_run(run.id, tags=list(tags)).raise_for_status()

    def _show_progress(self, share: float | None = None) -> None:
        status = self._status
        if status is None:
            return
        if share is None:
            share = status.elapsed_s / (status.elapsed_s + status.remaining_s)
        percent, text = round(100 * share, 1), progress_line(status)
        if self._progress is None:
            made = create_progress_artifact(percent, PROGRESS_KEY, text)
            self._progress = cast("UUID", made)
        else:
            update_progress_artifact(self._progress, percent, text)

    def _show_page(self) -> None:
        status = self._status
        if status is None:
            return
        self._save_artifact(status_page(status, self._shown), status_line(status))
        self._shown = status

    def _report(self) -> None:
        """The report as it stands on disk: it is there however the capture ended."""
        if self._status is None:
            return
        report = SessionReport.read(self._layout.report(self._status.session))
        if self._progress is not None and report.state == "complete":
            self._show_progress(1.0)
        # First without the picture: it takes longer, and there may be no time for it.
        self._save_artifact(report_page(report, self._layout, self.failures), report_line(report))
        drawn = self._make_picture(report.session)
        self._save_artifact(
            report_page(report, self._layout, self.failures, drawn), report_line(report)
        )

    def _make_picture(self, session: str) -> str:
        """The picture, or why there is none."""
        try:
            drawn = draw_picture(ReportView.of(self._layout, session, MOST_PANELS))
        except StocktraceError as error:
            return str(error)
        if len(drawn.encode()) > PICTURE_BYTES:
            return f"It is too large for Prefect: run stocktrace report {session}."
        return drawn

    def _save_artifact(self, text: str, line: str) -> None:
        """Show a page in the place of the one before."""
        if self._page is None:
            self._page = cast("UUID", create_markdown_artifact(text, REPORT_KEY, line))
        else:
            update = ArtifactUpdate(data=text, description=line)
            get_client(sync_client=True).update_artifact(self._page, update)
