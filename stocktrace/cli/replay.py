"""What ``stocktrace exchange`` is to play: a tape, or all tapes of a session."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stocktrace.errors import StoreError, UsageError
from stocktrace.settings import Settings


def recording(
    tape: Path | None, session: str | None, data_dir: Path | None
) -> Path | Sequence[Path] | None:
    """The tapes to play; ``None``: none was named.

    Raises:
        UsageError: two were named, or there is no such session.
        StoreError: the session is alive, or has not all its tapes any more.
    """
    if session is None:
        if data_dir is not None:
            raise UsageError("--data-dir is of a --session: name one, see `stocktrace sessions`.")
        return tape
    if tape is not None:
        raise UsageError("Name a --tape or a --session, not both.")

    from stocktrace.record.recovery import read_report
    from stocktrace.store import lock
    from stocktrace.store.layout import Layout
    from stocktrace.store.names import is_session

    layout = Layout.of(Settings.load(data_dir=data_dir))
    if not is_session(session) or not layout.has(session):
        raise UsageError(
            f"There is no session {session} in {layout.root}: see `stocktrace sessions`."
        )
    if lock.is_held(layout.lock(session)):
        raise StoreError(f"Session {session} is alive: play it when it has ended.")
    tapes = {part.window: path for part, path in layout.session_tapes(session).items()}
    report = read_report(layout, session)
    gone = [] if report is None else sorted(report.windows.keys() - tapes.keys())
    if gone or not tapes:
        raise StoreError(
            f"Session {session} has not all its tapes any more: give those that are left in "
            f"{layout.tapes(session)}, if any, with --tape."
        )
    return list(tapes.values())
