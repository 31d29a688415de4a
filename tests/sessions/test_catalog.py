from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from stocktrace.errors import SessionNotRunning
from stocktrace.sessions import catalog
from stocktrace.sessions.report import SessionReport, SessionState
from stocktrace.store import lock
from stocktrace.store.layout import Layout
from tests.conftest import SESSION

OTHER = "20261123T152958Z_3f9a1c"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    layout.sessions.mkdir()
    return layout


def write_report(layout: Layout, state: SessionState, session: str = SESSION) -> SessionReport:
    report = SessionReport(session, ["AAPL"], datetime(2026, 11, 23, 14, 30, tzinfo=UTC), state)
    report.write(layout.report(session))
    return report


def state_of(layout: Layout) -> str:
    return catalog.read_session(layout, SESSION).state


def test_a_session_runs_while_its_lock_is_held_and_has_crashed_without(layout: Layout) -> None:
    write_report(layout, "running")
    with lock.hold_lock(layout.lock(SESSION), {}):
        assert state_of(layout) == "running"
        assert catalog.sessions_to_recover(layout) == []
    assert state_of(layout) == "crashed"
    assert catalog.sessions_to_recover(layout) == [SESSION]
    assert catalog.read_report(layout, SESSION) == write_report(layout, "running")


@pytest.mark.parametrize("state", ["complete", "interrupted", "failed", "recovered", "imported"])
def test_a_session_that_ended_has_the_state_of_its_report(
    layout: Layout, state: SessionState
) -> None:
    write_report(layout, state)
    assert state_of(layout) == state
    assert catalog.is_finished(layout, SESSION)
    assert catalog.sessions_to_recover(layout) == []


def test_a_session_that_ends_while_it_is_read_is_not_called_crashed(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(layout, "running")

    def end(layout: Layout, session: str) -> bool:
        write_report(layout, "complete", session)
        return False

    monkeypatch.setattr(catalog, "is_in_use", end)
    assert state_of(layout) == "complete"


def test_reading_one_session_touches_the_files_of_no_other(layout: Layout) -> None:
    write_report(layout, "complete")
    layout.report(OTHER).write_text("damaged")
    assert state_of(layout) == "complete"
    assert not layout.lock(SESSION).exists()
    with pytest.raises(ValueError, match="JSON is malformed"):
        catalog.read_session(layout, OTHER)
    assert catalog.read_report(layout, OTHER) is None


@pytest.mark.parametrize("remaining", ["tape", "outbox", "window"])
def test_a_session_is_finished_when_all_of_it_is_published_and_sent(
    layout: Layout, remaining: str
) -> None:
    report = write_report(layout, "complete")
    assert catalog.is_finished(layout, SESSION)
    if remaining == "window":
        report.unpublished.append("20261123T143000Z_00001")
        report.write(layout.report(SESSION))
    else:
        folder = layout.outbox(SESSION) if remaining == "outbox" else layout.tapes(SESSION)
        folder.mkdir(parents=True)
        (folder / "20261123T143000Z_00001.tape").touch()
    assert not catalog.is_finished(layout, SESSION)
    assert catalog.sessions_to_recover(layout) == [SESSION]


def test_a_recovery_holds_a_lock_and_is_not_a_capture(layout: Layout) -> None:
    with lock.hold_lock(layout.lock(SESSION), {}), lock.hold_lock(layout.lock(OTHER), {}):
        layout.ticker_requests(OTHER).mkdir()
        assert catalog.is_in_use(layout, SESSION)
        assert catalog.running_captures(layout) == [OTHER]
        assert catalog.find_running_capture(layout) == OTHER
    with pytest.raises(SessionNotRunning):
        catalog.find_running_capture(layout, latest=True)


def test_a_finished_session_is_examined_again_only_if_it_has_changed(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(layout, "complete")
    examined: list[str] = []
    is_finished = catalog.is_finished

    def noting(layout: Layout, session: str) -> bool:
        examined.append(session)
        return is_finished(layout, session)

    monkeypatch.setattr(catalog, "is_finished", noting)
    assert catalog.sessions_to_recover(layout) == catalog.sessions_to_recover(layout) == []
    assert examined == [SESSION]
    layout.tapes(SESSION).mkdir(parents=True)
    (layout.tapes(SESSION) / "20261123T143000Z_00001.tape").touch()
    assert catalog.sessions_to_recover(layout) == [SESSION]
    layout.finished_sessions.write_text("{damaged")
    assert catalog.sessions_to_recover(layout) == [SESSION]
    assert examined == [SESSION] * 3
