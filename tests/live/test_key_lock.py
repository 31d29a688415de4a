"""One connection a key: the next capture waits for the one before it, and takes over."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from stocktrace.clock import SYSTEM_CLOCK
from stocktrace.errors import KeyInUse
from stocktrace.live import key_lock
from stocktrace.live.control import CaptureControl
from stocktrace.live.key_lock import wait_for_key
from stocktrace.query.coverage import read_coverage
from stocktrace.sessions.report import SessionReport
from stocktrace.simulator import SyntheticMarket
from stocktrace.store.layout import Layout
from stocktrace.verify import verify
from tests.conftest import SESSION, Studio, connected, trades

URL = "ws://127.0.0.1:1"


def settings_of(studio: Studio, **given):
    return studio.settings(URL, **given)


class Waiting(threading.Event):
    """Nobody asks it to stop; tells by ``began`` that somebody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.began = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.began.set()
        return super().wait(timeout)


def handle_of_one_who_waits() -> tuple[CaptureControl, Waiting]:
    handle, waiting = CaptureControl(), Waiting()
    handle.stopping = waiting
    return handle, waiting


def test_the_next_capture_takes_over_where_the_previous_one_ended(studio):
    handle, waiting = handle_of_one_who_waits()
    second = Studio(studio.data_dir, studio.key, handle)
    recording = threading.Event()

    def until_relieved():
        yield trades(50)
        recording.set()
        yield lambda _: waiting.began.is_set()

    def relieves():
        yield connected
        yield trades(50)

    market = SyntheticMarket(seed=3, rate=200.0)
    with studio.exchange(market) as exchange, ThreadPoolExecutor() as threads:
        before: Future[SessionReport] = threads.submit(
            studio.record, exchange, scenario=until_relieved(), lasting=60
        )
        assert recording.wait(30)
        after = threads.submit(
            second.record, exchange, scenario=relieves(), lasting=60, wait_for_key="60s"
        )
        old, new = before.result(60), after.result(60)
        assert exchange.dials == 2
    # Never two at a time: the exchange would have cut the older one.
    assert (old.reconnects, new.reconnects) == (0, 0)
    told = f"hand-over from session {old.session}, process {old.pid}"
    table = read_coverage("AAPL", data_dir=studio.data_dir).to_dict("records")
    # That of the first begins with its own first dial.
    assert [row["reason"] for row in table] == ["connecting", "", told, ""]
    assert all(one["end"] == other["start"] for one, other in itertools.pairwise(table))
    assert [gap.reason for gap in new.outages] == [told]
    layout = Layout(studio.data_dir)
    assert [*verify(layout, old.session), *verify(layout, new.session)] == []


def test_a_capture_that_does_not_wait_is_refused_at_once(studio):
    settings = settings_of(studio)
    stopping = Waiting()
    with (
        key_lock.acquire_key_lock(studio.key, settings.url, SESSION),
        pytest.raises(KeyInUse, match=f"session {SESSION}"),
        wait_for_key(studio.key, settings, stopping, SYSTEM_CLOCK),
    ):
        pytest.fail("two captures had the key")
    assert not stopping.began.is_set()


def test_waiting_ends_after_the_timeout_or_a_stop(studio):
    settings = settings_of(studio, wait_for_key="10ms")
    stopped = threading.Event()
    stopped.set()
    with key_lock.acquire_key_lock(studio.key, settings.url, SESSION):
        for stopping, patience in ((threading.Event(), "10ms"), (stopped, "1h")):
            asked = settings.model_copy(
                update={"wait_for_key": settings_of(studio, wait_for_key=patience).wait_for_key}
            )
            with (
                pytest.raises(KeyInUse),
                wait_for_key(studio.key, asked, stopping, SYSTEM_CLOCK),
            ):
                pytest.fail("two captures had the key")


def test_a_free_key_is_not_a_hand_over_however_its_last_holder_ended(studio):
    settings = settings_of(studio, wait_for_key="1h")
    with wait_for_key(studio.key, settings, threading.Event(), SYSTEM_CLOCK) as turn:
        turn.record_disconnect(1)
    before = SYSTEM_CLOCK.wall()
    with wait_for_key(studio.key, settings, threading.Event(), SYSTEM_CLOCK) as turn:
        assert turn.waited_for == ""
        assert turn.acquired_at >= before


def kill_when(waited: threading.Event, other: subprocess.Popen[str]) -> None:
    waited.wait(30)
    other.kill()


def test_after_a_killed_holder_the_session_begins_when_the_lock_is_acquired(studio, tmp_path: Path):
    """Until when it listened is for its own tape to tell, and for recovery to read."""
    settings = settings_of(studio, wait_for_key="60s")
    code = (
        "import sys; from stocktrace.live import key_lock\n"
        f"with key_lock.acquire_key_lock({studio.key!r}, {settings.url!r}, {SESSION!r}):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    stopping, before = Waiting(), SYSTEM_CLOCK.wall()
    with (
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other,
        ThreadPoolExecutor() as threads,
    ):
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        killing = threads.submit(kill_when, stopping.began, other)
        with wait_for_key(studio.key, settings, stopping, SYSTEM_CLOCK) as turn:
            assert turn.waited_for == f"hand-over from session {SESSION}, process {other.pid}"
            assert turn.acquired_at > before
        killing.result()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_capture_that_is_interrupted_while_it_waits_creates_nothing(studio, number, status):
    code = (
        "from stocktrace.live import key_lock\nfrom stocktrace.cli import main\n"
        "wait = key_lock.threading.Event.wait\n"
        "def telling(self, timeout=None):\n"
        "    if timeout == key_lock.POLL_INTERVAL_S: print('waits', flush=True)\n"
        "    return wait(self, timeout)\n"
        "key_lock.threading.Event.wait = telling\n"
        "main(['capture', 'AAPL', '--for', '5s', '--wait-for-key', '1h', '--url', "
        f"{URL!r}, '--data-dir', {str(studio.data_dir)!r}])"
    )
    with (
        key_lock.acquire_key_lock(studio.key, URL, SESSION),
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "FINNHUB_API_KEY": studio.key},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as waiting,
    ):
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "waits\n"
        waiting.send_signal(number)
        _, told = waiting.communicate(timeout=60)
    assert (waiting.returncode, "Traceback" in told) == (status, False), told
    assert not studio.data_dir.exists()
