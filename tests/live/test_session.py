from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from stocktrace.live.api import capture
from stocktrace.live.session import CaptureSession
from stocktrace.sessions.status import CaptureStatus
from stocktrace.store import conversion, dataset
from tests.conftest import Director, Scenario, Studio, connected, frame, trades


def test_the_end_of_a_capture_says_how_far_it_has_come(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    tickers = [f"T{number}" for number in range(40)]
    shown = {"writing Parquet": threading.Event()}
    seen: list[str] = []

    def look(status: CaptureStatus) -> None:
        director(status)
        if status.progress is not None:
            assert status.state == "ending"
            seen.append(str(status.progress))
            shown[status.progress.step].set()

    def pausing(step: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Goes on when the step has been shown."""

        def wait_for_status(*given: Any, **more: Any) -> Any:
            result = work(*given, **more)
            assert shown[step].wait(30)
            return result

        return wait_for_status

    monkeypatch.setattr(
        conversion, "hash_windows", pausing("writing Parquet", dataset.hash_windows)
    )

    def scenario() -> Scenario:
        yield connected
        exchange.send_raw(frame(*((ticker, 1) for ticker in tickers)))
        yield trades(40)

    with studio.exchange() as exchange:
        director = Director(scenario(), studio.handle, studio.statuses)
        report = capture(
            tickers,
            duration=30,
            settings=studio.settings(exchange),
            on_status=look,
            control=studio.handle,
        )
    assert report.files == 1
    assert list(dict.fromkeys(text.partition(",")[0] for text in seen)) == list(shown)
    assert all(text.endswith(" of 40 tickers") for text in seen)


def test_70_windows_that_wait_to_be_sealed_are_synced_with_the_current_one() -> None:
    """Thousands of segments can take longer than ``sync_interval``."""
    synced: list[str] = []

    def window(name: str) -> SimpleNamespace:
        return SimpleNamespace(tape=SimpleNamespace(sync=lambda: synced.append(name)))

    answers = iter([False, True])  # whether the capture has ended
    session = SimpleNamespace(
        _ended=SimpleNamespace(wait=lambda _: next(answers)),
        _settings=SimpleNamespace(sync_interval=1.0),
        _intake=SimpleNamespace(windows=deque([window("sealed soon"), window("current")])),
        _journal=SimpleNamespace(audit=SimpleNamespace(sync=lambda: synced.append("audit"))),
    )
    CaptureSession._sync(session)  # type: ignore[arg-type]
    assert synced == ["sealed soon", "current", "audit"]
