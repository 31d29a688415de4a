"""Story 68: two machines on one network folder, whose locks do not reach each other."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stocktrace.errors import StoreError
from stocktrace.record.recovery import recover
from stocktrace.sessions import catalog
from stocktrace.simulator import ScriptedSource
from stocktrace.store.layout import Layout
from tests import remains
from tests.conftest import SESSION, Studio, played
from tests.test_faults.conftest import numbered, record

Live = Callable[[], None]


@pytest.fixture
def layout(a_dead_session: Layout, studio: Studio) -> Layout:
    """A capture of another machine, whose status is as old as ``os.utime`` makes it."""
    layout = remains.copy(a_dead_session, studio.data_dir)
    holder = {"session": SESSION, "pid": 1, "host": "other", "machine": "another start"}
    layout.lock(SESSION).write_text(json.dumps(holder))
    layout.ticker_requests(SESSION).mkdir()
    layout.status(SESSION).write_text("{}")
    return layout


@pytest.fixture
def live(layout: Layout) -> Iterator[Path]:
    """It writes its status now and then."""
    ended = threading.Event()

    def write() -> None:
        while not ended.wait(0.05):
            os.utime(layout.status(SESSION))

    thread = threading.Thread(target=write)
    thread.start()
    yield layout.status(SESSION)
    ended.set()
    thread.join()


def age(layout: Layout) -> None:
    os.utime(layout.status(SESSION), (1, 1))


def test_68_a_session_that_another_machine_records_is_not_recovered(layout: Layout) -> None:
    before = remains.snapshot(layout)
    assert catalog.is_in_use(layout, SESSION)
    assert recover(layout, remains.STILL) == []
    assert remains.snapshot(layout) == before
    age(layout)
    assert [one.session for one in recover(layout, remains.STILL)] == [SESSION]
    assert remains.problems(layout) == []


@pytest.mark.usefixtures("live")
def test_68_a_capture_beside_one_of_another_machine_is_refused(
    layout: Layout, studio: Studio
) -> None:
    with (
        studio.exchange(ScriptedSource(numbered(1))) as exchange,
        pytest.raises(StoreError, match=f"The host other records session {SESSION} to "),
    ):
        record(studio, exchange, played(exchange))
    assert layout.all_sessions() == [SESSION]


def test_68_a_capture_waits_only_until_the_status_of_a_crashed_one_is_old(
    layout: Layout, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stocktrace.sessions.catalog.time.sleep", lambda _: age(layout))
    with studio.exchange(ScriptedSource(numbered(1)), settle=0.05) as exchange:
        report = record(studio, exchange, played(exchange))
    assert report.balanced
    assert remains.problems(layout) == []


@pytest.mark.parametrize("facts", [{"host": os.uname().nodename}, {"machine": None}, {}])
def test_68_this_machine_after_a_restart_and_an_unknown_holder_are_recovered(
    layout: Layout, facts: dict[str, str | None]
) -> None:
    holder = json.loads(layout.lock(SESSION).read_text()) | facts
    holder = {name: value for name, value in holder.items() if value is not None}
    layout.lock(SESSION).write_text(json.dumps(holder) if facts else "")
    assert [one.session for one in recover(layout, remains.STILL)] == [SESSION]
