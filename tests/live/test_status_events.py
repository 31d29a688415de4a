"""Which statuses are an event, and when."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from stocktrace.live.status_events import StatusEventDetector
from stocktrace.sessions.report import GapReport
from stocktrace.sessions.status import CaptureStatus
from tests.statuses import a_status

BEGIN = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)
GAP = GapReport(BEGIN, BEGIN + timedelta(seconds=2.5), "connection lost", 3)


def at(elapsed: float, **given: Any) -> CaptureStatus:
    return a_status(elapsed_s=elapsed, written_at=BEGIN + timedelta(seconds=elapsed), **given)


def told(statuses: Iterable[CaptureStatus]) -> list[tuple[float, str, dict[str, Any]]]:
    """When, what and with what."""
    detector = StatusEventDetector()
    return [
        (status.elapsed_s, event.name, event.payload)
        for status in statuses
        for event in detector.detect(status)
    ]


def test_a_quiet_capture_has_no_events() -> None:
    assert told(at(second / 2) for second in range(400)) == []


def test_a_gap_is_one_event_when_it_has_ended() -> None:
    after = {"outages": 1, "last_outage": GAP}
    assert told([at(0), at(1, **after), at(2, **after)]) == [
        (
            1,
            "stocktrace.feed.gap",
            {
                "start": "2026-11-23T14:30:00+00:00",
                "end": "2026-11-23T14:30:02.500000+00:00",
                "seconds": 2.5,
                "reason": "connection lost",
                "tickers": 3,
                "gaps": 1,
            },
        )
    ]


def test_gaps_between_two_statuses_are_counted_in_one_event() -> None:
    (news,) = told([at(0), at(1, outages=3, last_outage=GAP)])
    assert news[2]["gaps"] == 3


def test_a_reconnect_is_an_event_when_it_is_connected_again() -> None:
    statuses = [
        at(0),
        at(1, connected=False, reconnects=1),
        at(2, connected=True, reconnects=1, last_outage=GAP),
        at(3, connected=True, reconnects=1, last_outage=GAP),
        # Lost and back between two looks.
        at(4, connected=True, reconnects=2, last_outage=GAP),
    ]
    name = "stocktrace.feed.reconnect"
    assert told(statuses) == [
        (2, name, {"reconnects": 1, "reason": "connection lost"}),
        (4, name, {"reconnects": 2, "reason": "connection lost"}),
    ]


def test_many_refused_rows_within_a_minute_are_a_burst() -> None:
    # One each three seconds is the 20th within 60 s; one each four never is.
    slow = (at(4.0 * n, quarantined=n) for n in range(200))
    assert told(slow) == []
    fast = [
        at(3.0 * n, quarantined=n, quarantined_by_ticker={"B": n // 3, "A": n}) for n in range(200)
    ]
    ((when, name, payload),) = told(fast)
    assert (when, name) == (60.0, "stocktrace.quarantine.burst")
    assert payload == {"rows": 20, "seconds": 60.0, "quarantined": 20, "tickers": ["A", "B"]}


def test_a_second_burst_is_a_second_event() -> None:
    counts = [0, 50, 50, 50, 90]
    times = [0.0, 1.0, 62.0, 124.0, 125.0]
    bursts = told(at(time, quarantined=n) for time, n in zip(times, counts, strict=True))
    assert [(when, payload["rows"]) for when, _, payload in bursts] == [(1.0, 50), (125.0, 40)]
