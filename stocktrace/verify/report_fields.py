"""Check the fields of a report: by the marks on the tapes, and by their hashes in the audit log.

The tapes prove a field right or wrong. The audit log only proves that it was not changed since the
session ended: it has the fields that nothing else has, and all of them once tapes are deleted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime

from stocktrace.record.journal import report_gaps
from stocktrace.record.tape_facts import TapeFacts
from stocktrace.sessions.report import GapReport, SessionReport
from stocktrace.store.audit import AuditLog, read_logged_session
from stocktrace.text import count_of
from stocktrace.units import utc_datetime
from stocktrace.verify.check import Finding, SessionCheck

#: The fields that are counted again from tapes and published files.
RECOUNTED = frozenset(
    ["books", "per_ticker", "windows", "files", "size", "errors", "duplicates", "unpublished"]
)


def check_marks(check: SessionCheck, report: SessionReport, facts: TapeFacts) -> Iterator[Finding]:
    """Compare the report with the marks on all tapes of the session."""
    if report.ended is None:
        return  # its recovery writes the report
    problems = {**_compare(report, facts), **_compare_end(report, facts)}
    errors = Counter[str]()
    for sealed in check.counted.values():
        errors.update(sealed.errors)
    if errors != report.errors:
        problems["errors"] = "the errors of the server are not those on the tapes"
    check.fields.update(problems)
    repairable = problems.keys() - {"state"} if check.repair else set()
    if repairable:
        facts.fill(report)
        report.errors = dict(errors)
        if "ended" in problems:
            report.ended = utc_datetime(facts.last)
        write_repaired(check, report, repairable)
    for name, problem in problems.items():
        path = check.layout.report(check.session)
        yield check.finding(path, problem, repaired=name in repairable)


def _compare(report: SessionReport, facts: TapeFacts) -> dict[str, str]:
    """Describe each field that is not what the tapes say."""
    problems = {}
    last, wanted = utc_datetime(facts.last), report_gaps(facts.coverage)
    if _clip(report.gaps, last) != _clip(wanted, last):
        reported = count_of(len(report.gaps), "gap")
        problems["gaps"] = f"{reported} in the report, other than the {len(wanted):,} of the tapes"
    if report.reconnects != facts.coverage.reconnects:
        problems["reconnects"] = (
            f"{count_of(report.reconnects, 'reconnect')} in the report, "
            f"{facts.coverage.reconnects:,} on the tapes"
        )
    if report.refused != facts.refused:
        problems["refused"] = "refused tickers are not those on the tapes"
    tickers = set(facts.tickers)
    if not facts.is_captured:
        tickers = {name for name, books in report.per_ticker.items() if books.recorded}
    elif report.started != utc_datetime(facts.started):
        began = utc_datetime(facts.started)
        problems["started"] = f"started {report.started} in the report, {began} on the tapes"
    if set(report.tickers) != tickers:
        problems["tickers"] = "its tickers are not those of the tapes"
    return problems


def _compare_end(report: SessionReport, facts: TapeFacts) -> dict[str, str]:
    last = utc_datetime(facts.last)
    if report.state == "complete" and facts.is_captured and not facts.has_ended:
        return {"state": "is complete in the report, but the tapes do not have its end"}
    if report.state == "recovered" and facts.last and report.ended != last:
        return {"ended": f"ended {report.ended} in the report, {last} on the tapes"}
    return {}


def _clip(gaps: Iterable[GapReport], last: datetime) -> Counter[tuple[datetime, datetime, str]]:
    """Count the tickers of each gap before ``last``."""
    counts = Counter[tuple[datetime, datetime, str]]()
    for gap in gaps:
        if gap.start < last:
            counts[gap.start, min(gap.end, last), gap.reason] += gap.tickers
    return counts


def check_digests(check: SessionCheck, report: SessionReport) -> Iterator[Finding]:
    """Compare the fields of a report that has ended with their hashes in the audit log."""
    layout, session = check.layout, check.session
    path = layout.report(session)
    if report.session != session:
        yield check.finding(path, f"is the report of session {report.session}")
        return
    logged = read_logged_session(layout.audit, session).report
    if report.state == "running":
        if logged is not None:
            problem = "says that its session runs, but it has ended: run `stocktrace recover`"
            yield check.finding(path, problem)
        return
    if logged is None:
        # Earlier versions recorded no hashes; the report of an adopted session is not final.
        if report.hashes is not None and not report.unpublished:
            problem = f"does not record the end of session {session}: lines are missing"
            yield check.finding(layout.audit, problem)
        return
    digests = report.digests()
    if changed := [
        name for name in logged if digests.get(name) != logged[name] and name not in check.fields
    ]:
        problem = f"was changed: the audit log has another hash of {', '.join(changed)}"
        yield check.finding(path, problem)


def write_repaired(check: SessionCheck, report: SessionReport, fields: Collection[str]) -> None:
    """Write a report whose ``fields`` were repaired; the audit log does not vouch for others."""
    layout = check.layout
    logged = read_logged_session(layout.audit, check.session).report
    facts: dict[str, object] = {"file": str(layout.report(check.session))}
    if logged is not None:
        digests = report.digests()
        facts["report"] = {
            name: digests[name] if name in fields else digest for name, digest in logged.items()
        }
    AuditLog(layout.audit, check.session)("repair", **facts)
    report.write(layout.report(check.session))
