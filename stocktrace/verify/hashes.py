"""Coverage and quarantine against their hashes in the report, which remain when tapes are gone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from stocktrace.record.file_hashes import find_differences, update_hashes
from stocktrace.sessions.report import SessionReport
from stocktrace.store.audit import AuditLog
from stocktrace.store.layout import Layout
from stocktrace.verify.finding import Finding


def check_hashes(
    layout: Layout,
    report: SessionReport,
    dates: Iterable[str],
    findings: Iterable[Finding],
    proven: Collection[Path],
    *,
    repair: bool,
) -> Iterator[Finding]:
    """The files that differ from the report and are in no other finding.

    Of a file that is right by the tapes (``proven``) or was repaired from them, it is the report
    that is wrong: with ``repair`` it gets the new hash.
    """
    repaired: dict[Path, bool] = {}
    for finding in findings:
        repaired[finding.path] = finding.repaired and repaired.get(finding.path, True)
    outdated: list[Path] = []
    for path, problem in find_differences(layout, report, dates):
        if path in repaired:
            outdated += [path] if repaired[path] else []
        elif path in proven:
            outdated.append(path)
            text = f"does not have the hash of {path}, which is right by the tapes"
            yield Finding(report.session, layout.report(report.session), text, repaired=repair)
        else:
            yield Finding(report.session, path, problem)
    if repair and outdated:
        update_hashes(layout, report, outdated)
        report.write(layout.report(report.session))
        AuditLog(layout.audit, report.session)("repair", file=str(layout.report(report.session)))
