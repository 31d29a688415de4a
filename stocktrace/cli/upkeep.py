"""``stocktrace convert``, ``recover``, ``verify``, ``requeue``, ``audit``: each idempotent."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from stocktrace.cli import output
from stocktrace.cli.capturing import Json
from stocktrace.cli.data import DataDir, layout_of
from stocktrace.errors import StocktraceError, UsageError

if TYPE_CHECKING:
    from stocktrace.store.layout import Layout


@contextlib.contextmanager
def _claimed(layout: Layout, session: str) -> Iterator[bool]:
    """Hold a session's lock meanwhile; whether that could be had."""
    from stocktrace.store import lock

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock.held(layout.lock(session), {"session": session}))
        except BlockingIOError:
            yield False
        else:
            yield True


def convert(*, data_dir: DataDir = None, as_json: Json = False) -> int:
    """Publish every sealed CSV segment as Parquet; running it again changes nothing.

    The segments of a live capture are left to it.
    """
    layout = layout_of(data_dir)

    from stocktrace.store import parquet
    from stocktrace.store.layout import Part

    sessions: dict[str, list[Path]] = {}
    done, failed = [], []
    for segment in sorted(layout.root.glob("csv/*/*.csv")):
        try:
            sessions.setdefault(Part.parse(segment).session, []).append(segment)
        except StocktraceError as error:
            failed.append(str(error))
    for session, segments in sessions.items():
        with _claimed(layout, session) as ours:
            for segment in segments if ours else ():  # whoever has it counts what it publishes
                try:
                    converted = parquet.convert(layout, segment)
                except StocktraceError as error:
                    failed.append(str(error))
                    continue
                if converted is not None:
                    done.append(converted)
    rows = sum(one.rows for one in done)
    if as_json:
        output.json({"files": len(done), "rows": rows, "failed": failed})
    else:
        print(f"{len(done)} segments converted, {rows:,} trades")
    for sentence in failed:
        output.complain(sentence)
    return 1 if failed else 0


def recover(*, data_dir: DataDir = None, as_json: Json = False) -> int:
    """Publish what captures left that died; a live one is not touched."""
    layout = layout_of(data_dir)

    from stocktrace.recovery import recover as recover_all

    done = recover_all(layout)
    if as_json:
        output.json(done)
    elif done:
        output.table(
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
    return 0 if all(one.balanced for one in done) else 1


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
    layout = layout_of(data_dir)

    from stocktrace.verify import sessions_of, strangers
    from stocktrace.verify import verify as verify_session

    known = sessions_of(layout)
    if unknown := [session for session in sessions if session not in known]:
        raise UsageError(f"There is no ended session {unknown[0]}: see `stocktrace sessions`.")
    findings = [] if sessions else list(strangers(layout))
    verified = 0
    for session in sessions or known:
        # So that no recovery moves what is being compared.
        with _claimed(layout, session) as ours:
            if ours:
                findings += verify_session(layout, session, repair=repair)
                verified += 1
            else:
                output.complain(f"session {session} is being recovered: it was not verified.")
    if as_json:
        output.json(findings)
    else:
        for finding in findings:
            state = " (repaired)" if finding.repaired else ""
            print(f"{finding.path}: {finding.problem}{state}")
        print(f"{verified} sessions verified, {len(findings)} findings")
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
    layout = layout_of(data_dir)

    from stocktrace.requeue import requeue as requeue_file

    report = requeue_file(layout, file)
    if as_json:
        output.json(report)
    elif report is None:
        print("nothing to requeue")
    else:
        output.summary(report, layout.root)
    return 0 if report is None or report.balanced else 1


def audit(*, data_dir: DataDir = None) -> int:
    """Check the hash chain of the audit log; one changed byte is found."""
    layout = layout_of(data_dir)

    from stocktrace.store.audit import check

    broken = list(check(layout.audit))
    for sentence in broken:
        output.complain(sentence)
    if not broken:
        print(f"the chain of {layout.audit} is whole")
    return 1 if broken else 0
