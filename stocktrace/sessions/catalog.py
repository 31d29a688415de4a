"""The sessions of a data folder, and the state of each.

A report says how its session ended. While a session runs, its report says ``running`` and a
process holds its lock. If the report says ``running`` and nobody holds the lock, the session
crashed. Each function reads only the files of the sessions that it is asked for.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from stocktrace.errors import SessionNotRunning, StoreError, UsageError
from stocktrace.sessions.report import SessionReport, SessionState
from stocktrace.sessions.status import read_last_status
from stocktrace.store import lock
from stocktrace.store.layout import Layout
from stocktrace.store.names import is_import, is_merge, is_session

#: When a session's report and its folder of tapes last changed (epoch ns); 0: does not exist.
Stamp = tuple[int, int]
#: A capture whose status is older does not run; it may stall for some seconds.
ALIVE_S = 30.0
_POLL_S = 0.1


def read_report(layout: Layout, session: str) -> SessionReport | None:
    """Return the report as it is on disk, or ``None`` if it is missing or damaged."""
    try:
        return SessionReport.read(layout.report(session))
    except (FileNotFoundError, ValueError):
        return None


def read_session(layout: Layout, session: str) -> SessionReport:
    """Return the report of a session with its present state, which may be ``crashed``.

    ``FileNotFoundError`` if it has none, ``ValueError`` if it is damaged.
    """
    path = layout.report(session)
    report = SessionReport.read(path)
    if report.state == "running" and not is_in_use(layout, session):
        # It may have ended since: a capture writes its report before it releases its lock.
        report = SessionReport.read(path)
        if report.state == "running":
            report.state = "crashed"
    return report


def is_in_use(layout: Layout, session: str) -> bool:
    """Return whether a process holds the session's lock: a capture, a recovery or an import.

    A capture of another machine counts, too, even if its lock cannot be seen here.
    """
    return lock.is_locked(layout.lock(session)) or bool(host_of_session(layout, session))


def host_of_session(layout: Layout, session: str) -> str:
    """Return the host of a session that another machine records; empty if none does.

    A capture writes its status twice a second, and a last time when it has ended.
    """
    host = lock.holder_elsewhere(layout.lock(session), layout.status(session), ALIVE_S)
    if not host:
        return ""
    status = read_last_status(layout, session)
    return "" if status is not None and status.state == "ended" else host


def check_other_hosts(layout: Layout) -> None:
    """Raise ``StoreError`` if another machine records to the data folder; waits for its status."""
    for path in layout.sessions.glob("*.changes"):
        written = _written_at(layout, path.stem)
        while host := host_of_session(layout, path.stem):
            if _written_at(layout, path.stem) == written:  # it may have crashed a moment ago
                time.sleep(_POLL_S)
                continue
            raise StoreError(
                f"The host {host} records session {path.stem} to {layout.root}: set another data "
                "folder (--data-dir), because locks are not reliable between hosts."
            )


def is_finished(layout: Layout, session: str) -> bool:
    """Return whether a session has ended and all of it is published and sent to its lake."""
    report = read_report(layout, session)
    return (
        report is not None
        and report.state != "running"
        and not report.unpublished
        and not layout.plain_tapes(session)
        and not layout.outbox(session).exists()
    )


def sessions_to_recover(layout: Layout, *, remember: bool = True) -> list[str]:
    """Return the unfinished sessions that no process uses, the oldest first.

    Which sessions were finished is kept in a file, with the times of their report and tapes: a
    session is examined again only if one of them has changed. Without ``remember``, nothing is
    written, as in a folder of somebody else.
    """
    known = _read_finished(layout)
    sending = {path.name for path in layout.root.glob("outbox/*")}
    finished, unfinished = dict[str, Stamp](), list[str]()
    reports, tapes = _changes(layout.sessions, ".json"), _changes(layout.root / "tape")
    for session in sorted(filter(is_session, reports.keys() | tapes.keys())):
        stamp = reports.get(session, 0), tapes.get(session, 0)
        if session not in sending and (known.get(session) == stamp or is_finished(layout, session)):
            finished[session] = stamp
        else:
            unfinished.append(session)
    if remember and finished != known:
        with contextlib.suppress(OSError, StoreError):  # then the next search takes longer
            layout.finished_sessions.write_bytes(msgspec.json.encode(finished))
    return [session for session in unfinished if not is_in_use(layout, session)]


def _written_at(layout: Layout, session: str) -> int:
    with contextlib.suppress(FileNotFoundError):
        return layout.status(session).stat().st_mtime_ns
    return 0


def _read_finished(layout: Layout) -> dict[str, Stamp]:
    try:
        return msgspec.json.decode(layout.finished_sessions.read_bytes(), type=dict[str, Stamp])
    except (FileNotFoundError, ValueError):
        return {}


def _changes(folder: Path, suffix: str = "") -> dict[str, int]:
    """Return when the files or folders with ``suffix`` in a folder changed, by name without it."""
    changes: dict[str, int] = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(suffix):
                with contextlib.suppress(FileNotFoundError):  # deleted in the meantime
                    changes[entry.name.removesuffix(suffix)] = entry.stat().st_mtime_ns
    return changes


def open_sessions(layout: Layout) -> Iterator[SessionReport]:
    """Yield the reports of sessions that are running or crashed; reads no report of the others."""
    for path in sorted(layout.sessions.glob("*.status")):
        status = read_last_status(layout, path.stem)
        if status is None or status.state == "ended":
            continue
        try:
            report = read_session(layout, path.stem)
        except (FileNotFoundError, ValueError):  # `stocktrace sessions` reports it
            continue
        if report.state in ("running", "crashed"):
            yield report


def recovered_state(session: str) -> SessionState:
    """Return the final state of a session that did not write it itself."""
    return "imported" if is_import(session) else "merged" if is_merge(session) else "recovered"


def running_captures(layout: Layout) -> list[str]:
    """Return the sessions that are being captured, the oldest first.

    A lock alone may be that of a recovery. The folder for ticker requests is the capture's.
    """
    names = sorted(path.stem for path in layout.sessions.glob("*.changes"))
    return [name for name in names if is_session(name) and is_in_use(layout, name)]


def find_running_capture(
    layout: Layout, session: str | None = None, *, latest: bool = False
) -> str:
    """Return ``session`` if it is running, or without one the only capture that is, or the latest.

    Raises:
        SessionNotRunning: it is not running, or no capture is.
        UsageError: several are running and none was named.
    """
    running = running_captures(layout)
    if session in running:
        return session
    if session is not None:
        if is_session(session) and layout.report(session).exists():
            raise SessionNotRunning(f"Session {session} is not running any more.")
        raise SessionNotRunning(
            f"Session {session} does not exist in {layout.root}: see `stocktrace sessions`."
        )
    if not running:
        raise SessionNotRunning.none(layout.root)
    if len(running) > 1 and not latest:
        raise UsageError(
            f"{len(running)} captures are running in {layout.root}. Name one with --session: "
            f"{', '.join(running)}."
        )
    return running[-1]  # names sort as sessions began
