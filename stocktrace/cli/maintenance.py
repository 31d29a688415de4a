"""``stocktrace convert``, ``recover``, ``compact``, ``verify`` and the like: each idempotent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from stocktrace.cli import output
from stocktrace.cli.data_dir import DataDir, open_layout
from stocktrace.cli.output import Json
from stocktrace.errors import UsageError
from stocktrace.settings import Settings
from stocktrace.text import count_of
from stocktrace.units import parse_patience

if TYPE_CHECKING:
    from stocktrace.store.layout import Layout


LakeUrl = Annotated[
    str | None, Parameter(help="The lake to send to; default: that of the session.")
]


def convert(*, data_dir: DataDir = None, lake: LakeUrl = None, as_json: Json = False) -> int:
    """Publish every sealed CSV segment as Parquet; running it again changes nothing.

    What waits for the lake is sent. The segments of a live capture are left to it.
    """
    layout = open_layout(data_dir, lake)

    from stocktrace.maintenance.convert import convert_segments

    conversion = convert_segments(layout)
    if as_json:
        output.print_json(conversion)
    else:
        trades = count_of(conversion.rows, "trade")
        print(f"{count_of(conversion.files, 'segment')} converted, {trades}")
    for sentence in conversion.failed:
        output.print_error(sentence)
    return 1 if conversion.failed else 0


def recover(*, data_dir: DataDir = None, lake: LakeUrl = None, as_json: Json = False) -> int:
    """Publish what captures left that died; a live one is not touched."""
    layout = open_layout(data_dir, lake)

    from stocktrace.record.recovery import recover as recover_all

    done = recover_all(layout)
    if as_json:
        output.print_json(done)
    elif done:
        output.print_table(
            ["session", "windows", "trades published", "torn bytes", "books"],
            [
                (
                    one.session,
                    one.windows,
                    one.rows,
                    one.torn_bytes,
                    "balance" if one.balanced else "DO NOT balance",
                )
                for one in done
            ],
        )
    else:
        print("nothing to recover")
    return 0 if all(one.balanced and not one.upload_error for one in done) else 1


def compact(
    *,
    date: Annotated[str | None, Parameter(help="One UTC date; default: all that are over.")] = None,
    older_than: Annotated[str, Parameter(help="Leave alone what ended later: 7d.")] = "0s",
    tape_retention: Annotated[
        str | None, Parameter(help="Delete older tapes of what verifies; default: forever.")
    ] = None,
    csv_retention: Annotated[
        str | None, Parameter(help="Delete older CSV of what is published; default: 0s.")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> int:
    """Make one file of each ticker's day that is over; delete what was kept for long enough.

    Exits 1 if a file is damaged, or a date waits for `stocktrace recover`.
    """
    layout = open_layout(data_dir)
    settings = Settings.load(
        data_dir=data_dir, tape_retention=tape_retention, csv_retention=csv_retention
    )

    from stocktrace.maintenance.compact import compact_days
    from stocktrace.maintenance.retention import prune_data
    from stocktrace.query.criteria import parse_day

    result = compact_days(layout, parse_day(date), older_than=parse_patience(older_than))
    pruned = prune_data(layout, settings.tape_retention, settings.csv_retention)
    done = result.done
    if as_json:
        output.print_json({"compaction": result, "pruning": pruned})
    else:
        files, before = sum(one.files for one in done), sum(one.size_before for one in done)
        size = sum(one.size for one in done)
        print(
            f"compacted: {count_of(files, 'file')} of {before:,} bytes into "
            f"{count_of(len(done), 'file')} of {size:,} bytes, one a ticker and day"
            if done
            else "nothing to compact"
        )
        if pruned.tapes or pruned.csv:
            tapes, csv = count_of(pruned.tapes, "tape"), count_of(pruned.csv, "CSV file")
            print(f"deleted: {tapes} and {csv}, {pruned.size:,} bytes")
        for name, why in result.postponed.items():
            output.print_line(f"{name} waits: {why}")
    for sentence in (*result.failed, *pruned.refused):
        output.print_error(sentence)
    return 1 if result.failed or pruned.refused or result.crashed or date in result.postponed else 0


def verify(
    *sessions: str,
    repair: Annotated[
        bool, Parameter(negative="", help="Rebuild from the tape what can be rebuilt.")
    ] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> int:
    """Count and compare everything again, from the tape; names each file that is wrong.

    Checks SESSIONS, or all that are not alive. Exits 1 on any difference that remains.
    """
    layout = open_layout(data_dir)

    from stocktrace.store.lock import compaction_lock, no_compaction

    # With files of days being put in the place of others, nothing could be compared.
    with compaction_lock(layout) if repair else no_compaction(layout):
        return _verify(layout, sessions, repair=repair, as_json=as_json)


def _verify(layout: Layout, sessions: Sequence[str], *, repair: bool, as_json: bool) -> int:
    from stocktrace.record.recovery import claim_session
    from stocktrace.verify import dates_of_sessions, unknown_files
    from stocktrace.verify import verify as verify_session

    known = dates_of_sessions(layout, sessions)
    if unknown := [session for session in sessions if session not in known]:
        raise UsageError(f"There is no ended session {unknown[0]}: see `stocktrace sessions`.")
    findings = [] if sessions else list(unknown_files(layout))
    verified = 0
    for session in sessions or known:
        # So that no recovery moves what is being compared.
        with claim_session(layout, session) as ours:
            if ours:
                findings += verify_session(layout, session, known[session], repair=repair)
                verified += 1
            else:
                output.print_error(f"session {session} is being recovered: it was not verified.")
    if as_json:
        output.print_json(findings)
    else:
        for finding in findings:
            state = " (repaired)" if finding.repaired else ""
            output.print_line(f"{finding.path}: {finding.problem}{state}")
        print(f"{count_of(verified, 'session')} verified, {count_of(len(findings), 'finding')}")
    return 1 if any(not finding.repaired for finding in findings) else 0


def requeue(
    file: Annotated[Path, Parameter(help="A quarantine file, or a copy with its rows repaired.")],
    *,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> int:
    """Put the rows of a quarantine FILE through the schema again.

    A row that passes is published, as a session of its own; none is taken twice.
    """
    layout = open_layout(data_dir)

    from stocktrace.maintenance.requeue import requeue_rows as requeue_file

    report = requeue_file(layout, file)
    if as_json:
        output.print_json(report)
    elif report is None:
        print("nothing to requeue")
    else:
        output.print_summary(report, layout.root)
    return 0 if report is None or (report.balanced and not report.upload_error) else 1


def audit(*, data_dir: DataDir = None) -> int:
    """Check the hash chain of the audit log; one changed byte is found."""
    layout = open_layout(data_dir)

    from stocktrace.store.audit import check_audit_log

    broken = list(check_audit_log(layout.audit))
    for sentence in broken:
        output.print_error(sentence)
    if not broken:
        print(f"the chain of {layout.audit} is whole")
    return 1 if broken else 0
