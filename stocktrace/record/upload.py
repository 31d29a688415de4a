"""Sends published files from the data folder to the lake.

A lake that fails costs time, never data, and does not stop a capture: the files wait in the outbox,
and are sent with the next window, at the end of the capture, or by ``stocktrace recover``. Until
then, ``SessionReport.upload_error`` says why.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from stocktrace.clock import SYSTEM_CLOCK, Clock
from stocktrace.errors import LakeError
from stocktrace.sessions.report import SessionReport
from stocktrace.store import outbox
from stocktrace.store.audit import AuditLog
from stocktrace.store.layout import Layout
from stocktrace.store.outbox import SentFiles

log = logging.getLogger(__name__)


def with_lake_of_report(layout: Layout, report: SessionReport) -> Layout:
    """Return ``layout`` with its lake, or with the lake that the session was recorded for."""
    return replace(layout, lake=layout.lake or str(report.settings.get("lake", "")))


def send_pending(layout: Layout, session: str) -> tuple[SentFiles, str]:
    """Send the outbox and the current report; return what was sent, and the error or ``""``."""
    try:
        outbox.add_to_outbox(layout, session, layout.report(session))
        return outbox.send_outbox(layout, session), ""
    except LakeError as error:
        return SentFiles(), f"{error} The files wait in the outbox: run `stocktrace recover`."


def upload_session(layout: Layout, report: SessionReport, clock: Clock = SYSTEM_CLOCK) -> None:
    """Send the rest of a session that has ended, its report last, and record the outcome."""
    if not layout.lake and not layout.outbox(report.session).exists():
        return
    path = layout.report(report.session)
    report.upload_error = ""
    report.write(path)
    sent, report.upload_error = send_pending(layout, report.session)
    audit = AuditLog(layout.audit, report.session, clock)
    if report.upload_error:
        report.write(path)
        audit("unsent", reason=report.upload_error)
        log.error(report.upload_error)
    else:
        audit("send", files=sent.files, size=sent.size)
