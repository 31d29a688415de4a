"""The soak's own machinery: what it says of a process is true."""

from __future__ import annotations

import multiprocessing.forkserver
import os
import signal
import threading

import pytest

from tests import soak
from tests.soak import status_of

PATIENCE_S = 60


class Seen:
    """A lock that says when somebody has to wait for it."""

    def __init__(self, waits: threading.Event) -> None:
        self._lock = threading.Lock()
        self._waits = waits

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self._waits.set()
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_a_process_has_its_own_status_though_another_lane_starts_one_as_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other_came = threading.Event()
    statuses: list[int] = []
    other = threading.Thread(target=lambda: statuses.append(status_of(os._exit, 8)))
    read = multiprocessing.forkserver.read_signed
    reads = 0

    def read_signed(descriptor: int) -> int:
        nonlocal reads
        reads += 1
        if reads == 2:  # the first is the process's number, the second how it ended
            other.start()
            assert other_came.wait(PATIENCE_S)
            return int(read(descriptor))
        number = int(read(descriptor))
        if reads > 2:
            other_came.set()
        return number

    monkeypatch.setattr(multiprocessing.forkserver, "read_signed", read_signed)
    monkeypatch.setattr(soak, "_ASKING", Seen(other_came))
    assert status_of(os._exit, 7) == 7
    other.join(PATIENCE_S)
    assert statuses == [8]


def test_a_process_that_does_not_end_in_time_is_killed() -> None:
    assert status_of(signal.pause, patience=0.0) == -signal.SIGKILL
