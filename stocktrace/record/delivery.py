"""From the data folder to the lake: what is published here is sent, and who waits is told.

A lake that cannot be used costs time, never data, and touches no capture: what is to be sent waits
in the outbox, is tried again with the next window, at the end of the capture and by
``stocktrace recover``; until it is through, ``Report.unsent`` tells why.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from stocktrace.deadline import SYSTEM_CLOCK, Clock
from stocktrace.errors import LakeError
from stocktrace.report import Report
from stocktrace.store import outbox
from stocktrace.store.audit import Audit
from stocktrace.store.layout import Layout
from stocktrace.store.outbox import Sent

log = logging.getLogger(__name__)


def bound_for_lake(layout: Layout, report: Report) -> Layout:
    """``layout`` with the lake that a session was recorded for, unless another is set now."""
    return replace(layout, lake=layout.lake or str(report.settings.get("lake", "")))


def send(layout: Layout, session: str) -> tuple[Sent, str]:
    """Send what waits, the report as it stands too; gives why that was not possible, or ``""``."""
    try:
        outbox.put(layout, session, layout.report(session))
        return outbox.send(layout, session), ""
    except LakeError as error:
        return Sent(), f"{error} What is to be sent waits here: run `stocktrace recover`."


def deliver(layout: Layout, report: Report, clock: Clock = SYSTEM_CLOCK) -> None:
    """Send the rest of a session that has ended, and its report last; tells what came of it."""
    if not layout.lake and not layout.outbox(report.session).exists():
        return
    path = layout.report(report.session)
    report.unsent = ""
    report.write(path)
    sent, report.unsent = send(layout, report.session)
    audit = Audit(layout.audit, report.session, clock)
    if report.unsent:
        report.write(path)
        audit("unsent", reason=report.unsent)
        log.error(report.unsent)
    else:
        audit("send", files=sent.files, size=sent.size)
