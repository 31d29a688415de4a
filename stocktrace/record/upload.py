"""From the data folder to the lake: what is published here is sent, and who waits is told.

A lake that cannot be used costs time, never data, and touches no capture: what is to be sent waits
in the outbox, is tried again with the next window, at the end of the capture and by
``stocktrace recover``; until it is through, ``Report.unsent`` tells why.
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
    """``layout`` with the lake that a session was recorded for, unless another is set now."""
    return replace(layout, lake=layout.lake or str(report.settings.get("lake", "")))


def send_pending(layout: Layout, session: str) -> tuple[SentFiles, str]:
    """Send what waits, the report as it stands too; gives why that was not possible, or ``""``."""
    try:
        outbox.add_to_outbox(layout, session, layout.report(session))
        return outbox.send_outbox(layout, session), ""
    except LakeError as error:
        return SentFiles(), f"{error} What is to be sent waits here: run `stocktrace recover`."


def upload_session(layout: Layout, report: SessionReport, clock: Clock = SYSTEM_CLOCK) -> None:
    """Send the rest of a session that has ended, and its report last; tells what came of it."""
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
