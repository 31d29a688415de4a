"""What a person sees of a capture in Prefect: a progress bar while it runs, a report at its end.

The server may be slow or gone. It is therefore asked on a thread of its own, one call at a time,
and what fails is counted and told, but never reaches the capture.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from types import TracebackType
from typing import Self, cast
from uuid import UUID

from prefect import get_client, runtime
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)

from flows.page import one_line, page, progress_line
from stocktrace.deadline import Deadline
from stocktrace.report import Report
from stocktrace.run import Handle, Status
from stocktrace.store.layout import Layout

log = logging.getLogger("stocktrace.flow")

# An update costs the server 60-100 ms and is an event, too.
PROGRESS_EVERY_S = 15.0
# How soon a cancel is noticed that no signal tells of.
STATE_EVERY_S = 5.0
# The report's share of the 20 s in which a cancelled capture ends.
REPORT_WITHIN_S = 5.0

PROGRESS_KEY = "stocktrace-progress"
REPORT_KEY = "stocktrace-report"
_TAGS = 10


#: Who else wants to know in this process, such as a terminal; called twice a second.
ON_LOOKERS: list[Callable[[Status], None]] = []


class Display:
    """Shows one capture; made in the task that captures, whose context its calls take along."""

    def __init__(self, layout: Layout, tickers: Sequence[str], handle: Handle) -> None:
        self._layout, self._tickers, self._handle = layout, tickers, handle
        self._executor = ThreadPoolExecutor(1, "stocktrace-display")
        self._call: Future[None] | None = None
        self._state_due = self._progress_due = Deadline.after(0)
        self._progress: UUID | None = None
        self._status: Status | None = None
        #: Calls that failed.
        self.failures = 0
        self._away = False

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
        self._executor.shutdown(wait=False, cancel_futures=True)

    def watch(self, status: Status) -> None:
        """Take note of how the capture stands; never waits."""
        self._status = status
        for look in ON_LOOKERS:
            look(status)
        if (self._call is None or self._call.done()) and self._state_due.passed():
            self._state_due = Deadline.after(STATE_EVERY_S)
            self._call = self._submit(self._look)

    def _submit(self, call: Callable[[], None]) -> Future[None]:
        return self._executor.submit(copy_context().run, call)

    # --- on the thread of its own ------------------------------------------------------------

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - whatever it is, the capture goes on
            self.failures += 1
            if not self._away:
                log.warning(
                    "Prefect cannot be told (%s); the capture goes on", type(error).__name__
                )
            self._away = True
        else:
            if self._away:
                log.info("Prefect can be told again; it could not %d times", self.failures)
            self._away = False

    def _look(self) -> None:
        self._try(self._heed_cancel)
        if self._progress_due.passed():
            self._progress_due = Deadline.after(PROGRESS_EVERY_S)
            self._try(self._show_progress)

    def _heed_cancel(self) -> None:
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
            share = status.elapsed_s / (status.elapsed_s + status.left_s)
        percent, text = round(100 * share, 1), progress_line(status)
        if self._progress is None:
            made = create_progress_artifact(percent, PROGRESS_KEY, text)
            self._progress = cast("UUID", made)
        else:
            update_progress_artifact(self._progress, percent, text)

    def _report(self) -> None:
        """The report as it stands on disk: it is there however the capture ended."""
        if self._status is None:
            return
        report = Report.read(self._layout.report(self._status.session))
        if self._progress is not None and report.state == "complete":
            self._show_progress(1.0)
        create_markdown_artifact(
            page(report, self._layout, self.failures), REPORT_KEY, one_line(report)
        )
