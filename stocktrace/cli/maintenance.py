"""Commands that repair, tidy and check a data folder. Running one again changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stocktrace.cli import output
from stocktrace.cli.parameters import (
    DataDir,
    Date,
    Duration,
    Json,
    SessionId,
    Url,
    open_layout,
)
from stocktrace.errors import UsageError
from stocktrace.settings import Settings
from stocktrace.text import count_of
from stocktrace.units import parse_patience

LakeUrl = Annotated[
    Url | None, Parameter(help="The lake to send to. Defaults to that of the session.")
]


def convert(*, data_dir: DataDir = None, lake: LakeUrl = None, as_json: Json = False) -> int:
    """Publish finished CSV segments as Parquet, and send unsent files to the lake.

    A capture does this itself, and `stocktrace recover` does it for crashed ones. Segments of
    running captures are left to them. Exits 1 if a window could not be converted.

    $ stocktrace convert
    $ stocktrace convert --lake s3://bucket/prefix
    """
    layout = open_layout(data_dir, lake)

    from stocktrace.maintenance.convert import convert_segments

    conversion = convert_segments(layout)
    if as_json:
        output.print_json(conversion)
    else:
        trades = count_of(conversion.rows, "trade")
        print(f"{count_of(conversion.files, 'window')} converted, {trades}")
    output.print_error(*conversion.failed)
    return 1 if conversion.failed else 0


def recover(*, data_dir: DataDir = None, lake: LakeUrl = None, as_json: Json = False) -> int:
    """Publish data left by crashed captures. Running captures are not affected.

    The next capture in the data folder does the same while it runs. Exits 1 if the books of a
    session do not balance, or if its files could not be sent to the lake.

    $ stocktrace recover
    $ stocktrace recover --data-dir /srv/trades --json
    """
    layout = open_layout(data_dir, lake)

    from stocktrace.record.recovery import recover as recover_sessions

    recovered = recover_sessions(layout)
    if as_json:
        output.print_json(recovered)
    elif recovered:
        books = {True: "balance", False: "DO NOT balance"}
        output.print_table(
            ["session", "windows", "trades published", "torn bytes", "books"],
            [
                (row.session, row.windows, row.rows, row.torn_bytes, books[row.balanced])
                for row in recovered
            ],
        )
    else:
        print("nothing to recover")
    complete = all(session.balanced and not session.upload_error for session in recovered)
    return 0 if complete else 1


def compact(
    *,
    date: Date | None = None,
    older_than: Duration = "0s",
    tape_retention: Duration | None = None,
    csv_retention: Duration | None = None,
    data_dir: DataDir = None,
    lake: Url | None = None,
    as_json: Json = False,
) -> int:
    """Merge each finished day into one file. Delete tapes and CSV past their retention.

    The file has all tickers. Exits 1 if a file is damaged, or if a day waits for
    `stocktrace recover`.

    $ stocktrace compact --lake s3://bucket/prefix
    $ stocktrace compact --older-than 7d --tape-retention 30d
    $ stocktrace compact --date 2026-11-23

    Args:
        date: A UTC date: 2026-11-23. Defaults to all finished days.
        older_than: Skip days that ended more recently: 7d.
        tape_retention: How long to keep verified tapes, or "forever". Defaults to the setting.
        csv_retention: How long to keep published CSV, or "forever". Defaults to the setting.
        lake: Compact this lake, too.
    """
    layout = open_layout(data_dir, lake)
    settings = Settings.load(
        data_dir=data_dir, tape_retention=tape_retention, csv_retention=csv_retention
    )

    from stocktrace.maintenance.compact import CompactionResult, compact_days, compact_lake
    from stocktrace.maintenance.retention import prune_data
    from stocktrace.query.criteria import parse_day

    chosen, age = parse_day(date), parse_patience(older_than)
    result = compact_days(layout, chosen, older_than=age)
    pruned = prune_data(layout, settings.tape_retention, settings.csv_retention)
    in_lake = (
        compact_lake(layout, layout.lake, chosen, older_than=age) if lake else CompactionResult()
    )
    if as_json:
        of_lake = {"lake": in_lake} if lake else {}
        output.print_json({"compaction": result, "pruning": pruned, **of_lake})
    else:
        for done in (*result.done, *in_lake.done):
            place = f" in {layout.lake}" if done in in_lake.done else ""
            print(
                f"{done.date}{place}: {count_of(done.files, 'file')} of {done.size_before:,} bytes "
                f"compacted into {len(done.paths):,} of {done.size:,} bytes"
            )
        if not result.done and not in_lake.done:
            print("nothing to compact")
        if pruned.tapes or pruned.csv:
            tapes, csv = count_of(pruned.tapes, "tape"), count_of(pruned.csv, "CSV file")
            print(f"deleted: {tapes} and {csv}, {pruned.size:,} bytes")
        for day, reason in result.postponed.items():
            output.print_line(f"{day} waits: {reason}")
    problems = [*result.failed, *in_lake.failed, *pruned.refused]
    output.print_error(*problems)
    return 1 if problems or result.crashed or date in result.postponed else 0


def verify(
    *sessions: str, repair: bool = False, data_dir: DataDir = None, as_json: Json = False
) -> int:
    """Check every file against the raw tape and list mismatches.

    Checks SESSIONS, or all that are not running. Exits 1 if a mismatch remains.

    $ stocktrace verify
    $ stocktrace verify --repair
    $ stocktrace verify 20261123T142958Z_3f9a1c --json

    Args:
        sessions: Names, as `stocktrace sessions` lists them.
        repair: Rebuild what can be rebuilt from the tape.
    """
    layout = open_layout(data_dir)

    from stocktrace.record.recovery import claim_session
    from stocktrace.store.lock import compaction_lock, no_compaction
    from stocktrace.verify import Finding, check_folder, dates_of_sessions
    from stocktrace.verify import verify as verify_session

    verified = 0
    # Nothing can be compared while a compaction replaces files.
    with compaction_lock(layout) if repair else no_compaction(layout):
        dates = dates_of_sessions(layout, sessions)
        for session in sessions:
            if session not in dates:
                raise UsageError(
                    f"No ended session {session} in {layout.root}. See `stocktrace sessions`."
                )
        findings: list[Finding] = []
        for session in sessions or dates:
            # The claim keeps a recovery from moving files while they are compared.
            with claim_session(layout, session) as claimed:
                if claimed:
                    found = verify_session(layout, session, dates[session], repair=repair)
                    # A damaged file of a date is found with each of its sessions.
                    known = {(finding.path, finding.problem) for finding in findings}
                    findings += [each for each in found if (each.path, each.problem) not in known]
                    verified += 1
                else:
                    output.print_error(
                        f"Session {session} is being recovered; it was not verified."
                    )
        if not sessions:
            wrong = {finding.path for finding in findings}
            findings += [each for each in check_folder(layout) if each.path not in wrong]
    if as_json:
        output.print_json(findings)
    else:
        for finding in findings:
            state = " (repaired)" if finding.repaired else ""
            output.print_line(f"{finding.path}: {finding.problem}{state}")
        print(f"{count_of(verified, 'session')} verified, {count_of(len(findings), 'finding')}")
    return 1 if any(not finding.repaired for finding in findings) else 0


def requeue(file: Path, *, data_dir: DataDir = None, as_json: Json = False) -> int:
    """Validate the rows of a quarantine FILE again, and publish those that pass.

    They are published as a session of their own. No row is published twice.

    $ stocktrace requeue corrected.jsonl
    $ stocktrace requeue corrected.jsonl --data-dir /srv/trades

    Args:
        file: A quarantine file, or a copy of it with corrected rows.
    """
    layout = open_layout(data_dir)

    from stocktrace.maintenance.requeue import requeue_rows

    report = requeue_rows(layout, file)
    if as_json:
        output.print_json(report)
    elif report is None:
        print("nothing to requeue")
    else:
        output.print_summary(report, layout.root)
    return 0 if report is None or (report.balanced and not report.upload_error) else 1


def audit(*, removed: SessionId | None = None, data_dir: DataDir = None) -> int:
    """Check the hash chain of the audit log, which shows every changed byte.

    Exits 1 and names the line if the log was changed or is truncated.

    $ stocktrace audit
    $ stocktrace audit --data-dir /srv/trades

    Args:
        removed: Record first that you have removed the files of this session.
    """
    layout = open_layout(data_dir)

    from stocktrace.store.audit import AuditLog, check_audit_log, logged_sessions

    if removed is not None:
        if layout.has(removed) or removed not in logged_sessions(layout.audit):
            raise UsageError(
                f"Session {removed} is not one that was removed from {layout.root}: remove its "
                "tapes and its report first."
            )
        AuditLog(layout.audit, removed)("remove")

    problems = list(check_audit_log(layout.audit))
    output.print_error(*problems)
    if not problems:
        print(f"the hash chain of {layout.audit} is intact")
    return 1 if problems else 0
