from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import msgspec
import pytest

from stocktrace.live.health import (
    LATE_MS,
    PROBLEM_KINDS,
    SILENT_S,
    HealthInput,
    StalenessMonitor,
    find_problems,
    find_silent,
)
from stocktrace.sessions.report import SessionReport
from stocktrace.sessions.status import CaptureStatus, ReconnectAttempt
from stocktrace.settings import Settings
from stocktrace.units import epoch_ns
from tests.conftest import SESSION
from tests.statuses import a_status

OPEN = datetime(2026, 11, 23, 15, 30, tzinfo=UTC)  # Monday, an hour after the bell
LONG = timedelta(seconds=SILENT_S)
GB = 10**9


def look(**given: Any) -> HealthInput:
    """A capture with nothing wrong, an hour old and in open market; ``given`` is what is."""
    status = a_status(
        elapsed_s=3600.0,
        remaining_s=3600.0,
        trades=10,
        backlog=5,
        per_ticker={"AAPL": 10},
        last={"AAPL": int((OPEN - timedelta(seconds=1)).timestamp() * 1e9)},
    )
    names = {field for field in CaptureStatus.__struct_fields__ if field in given}
    status = msgspec.structs.replace(status, **{name: given.pop(name) for name in names})
    usual: dict[str, Any] = {
        "now": OPEN,
        "status_age_s": 0.5,
        "disconnected_s": 0.0,
        "free_bytes": 100 * GB,
    }
    settings = Settings.load(
        min_free_space=given.pop("min_free_space", "1GB"),
        flush_interval=given.pop("flush_interval", "1s"),
    )
    return HealthInput(status, settings, **{**usual, **given})


def told(**given: Any) -> list[tuple[str, str]]:
    return list(find_problems(look(**given)))


def test_inodes_are_a_problem_at_twice_the_limit_of_the_capture() -> None:
    assert told(free_inodes=44) == told(free_inodes=None) == []
    assert told(free_inodes=43) == [
        ("disk", "the disk has 43 inodes left, and the capture ends at 22")
    ]


def test_a_healthy_capture_has_no_problems() -> None:
    assert told() == []


WRONG: list[tuple[dict[str, Any], dict[str, Any], tuple[str, str]]] = [
    (
        {"free_bytes": 2 * GB - 1},
        {"free_bytes": 2 * GB},
        ("disk", "the disk has 2,000 MB left, and the capture ends at 1,000 MB"),
    ),
    (
        {"status_age_s": 11.0},
        {"status_age_s": 9.0},
        ("stalled", "no status of the capture for 11 s"),
    ),
    (
        {"disconnected_s": 61.0, "retry": ReconnectAttempt(3, OPEN, "cannot connect: refused")},
        {"disconnected_s": 59.0, "connected": False},
        ("disconnected", "not connected for 61 s, attempt 3: cannot connect: refused"),
    ),
    (
        {"behind_s": 21.0},
        {"behind_s": 19.0},
        ("queue", "5 trades wait for the disk, the oldest for 21 s"),
    ),
    (
        {"lag_ms": 60_001.0},
        {"lag_ms": 59_999.0},
        ("lag", "trades arrive 60 s after the exchange's time"),
    ),
    (
        {"feed_lag_s": 14.1, "lag_ms": 60_001.0},
        {"feed_lag_s": 4.9},
        ("lag", "the feed is 14 s behind"),
    ),
    (
        {"rolled": 9, "published": 2, "publishing_s": 61.0},
        {"rolled": 9, "published": 8, "publishing_s": 61.0},
        ("publishing", "7 windows wait to be published, the oldest for 61 s"),
    ),
    (
        {"last": {}},
        {"last": {}, "elapsed_s": 600.0},
        ("late", "no AAPL trades for 60 minutes of market hours"),
    ),
]


@pytest.mark.parametrize(("wrong", "well", "problem"), WRONG, ids=[case[2][0] for case in WRONG])
def test_each_kind_of_problem_is_reported_above_its_limit(
    wrong: dict[str, Any], well: dict[str, Any], problem: tuple[str, str]
) -> None:
    assert told(**wrong) == [problem]
    assert told(**well) == []


def test_all_kinds_are_tested_here() -> None:
    assert {problem[0] for _, _, problem in WRONG} == set(PROBLEM_KINDS)


def test_no_ticker_is_late_while_the_market_is_closed() -> None:
    thanksgiving = datetime(2026, 11, 26, 16, 0, tzinfo=UTC)
    assert told(now=thanksgiving, last={}, elapsed_s=7200.0) == []
    assert [kind for kind, _ in told(now=thanksgiving, tickers=("BINANCE:BTCUSDT",), last={})] == [
        "late"
    ]


def test_a_longer_flush_interval_allows_a_longer_wait() -> None:
    assert told(behind_s=100.0, flush_interval="10s") == []


@pytest.mark.parametrize("state", ["ending", "ended"])
def test_only_the_disk_is_checked_while_a_capture_publishes_its_end(state: str) -> None:
    assert (
        told(state=state, status_age_s=100.0, disconnected_s=100.0, last={}, behind_s=100.0) == []
    )
    assert [kind for kind, _ in told(state=state, free_bytes=0)] == ["disk"]


def test_without_a_watermark_the_disk_is_not_watched() -> None:
    assert told(free_bytes=0, min_free_space="0") == []


# --- once, while it lasts --------------------------------------------------------------------


class Capture:
    """A capture as the monitor reads it: ``lag_ms`` behind, and each ticker's last trade."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.report = SessionReport(SESSION, [], OPEN)
        self.last_trade_at: dict[str, int] = {}
        self.latest_lag_ms = 0.0
        self.heard_until = 0
        self.monitor = StalenessMonitor(self, self, self)  # type: ignore[arg-type]

    def on_notice(self, sentence: str) -> None:
        self.notices.append(sentence)

    def told(self, now: datetime = OPEN, **status: Any) -> list[str]:
        """The notices of one check."""
        self.notices = []
        self.monitor.check(epoch_ns(now), a_status(**status))
        return self.notices


def test_106_late_publishing_is_reported_once_until_it_has_caught_up() -> None:
    capture, told = Capture(), []
    for waiting, seconds in ((1, 300.0), (5, 59.0), (5, 61.0), (90, 200.0), (0, 0.0), (2, 61.0)):
        told.append(capture.told(rolled=100, published=100 - waiting, publishing_s=seconds))
    first, second = (
        [f"{count} windows wait to be published, the oldest for 61 s"] for count in (5, 2)
    )
    assert told == [[], [], first, [], [], second]


def test_late_trades_are_reported_once_until_they_were_in_time():
    capture, told = Capture(), []
    for lag_ms in (100, LATE_MS + 1, LATE_MS * 2, LATE_MS * 0.6, LATE_MS * 0.4, LATE_MS * 60):
        capture.latest_lag_ms = lag_ms
        told.append(capture.told())
    late = ["trades arrive 60 s after the exchange's time"]
    assert told == [[], late, [], [], [], ["trades arrive 3,600 s after the exchange's time"]]


def test_a_stock_without_a_trade_in_open_market_is_silent():
    assert find_silent(["AAPL"], {}, OPEN, OPEN + LONG) == {"AAPL": SILENT_S}
    assert find_silent(["AAPL"], {"AAPL": OPEN + LONG / 2}, OPEN, OPEN + LONG) == {}


def test_no_ticker_is_silent_while_the_market_is_closed():
    thanksgiving = datetime(2026, 11, 26, 16, 0, tzinfo=UTC)
    night = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)
    for begin in (thanksgiving, night):
        assert find_silent(["AAPL", "AC.TO", "^GSPC"], {}, begin, begin + 4 * LONG) == {}
        assert "BINANCE:BTCUSDT" in find_silent(["BINANCE:BTCUSDT"], {}, begin, begin + LONG)


def test_only_open_hours_count():
    before_the_bell = datetime(2026, 11, 23, 14, 0, tzinfo=UTC)
    bell = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)
    assert find_silent(["AAPL"], {}, before_the_bell, bell + LONG / 2) == {}
    assert find_silent(["AAPL"], {}, before_the_bell, bell + LONG) == {"AAPL": SILENT_S}


def test_a_silent_ticker_is_reported_once_until_it_trades():
    capture, first = Capture(), OPEN + LONG
    told = []
    for tickers, trades, now in (
        (["AAPL"], {}, first),
        (["AAPL", "IBM"], {"IBM": first}, first + LONG / 2),
        (["AAPL", "IBM"], dict.fromkeys(("AAPL", "IBM"), first + LONG / 2), first + LONG),
        (["AAPL"], {"AAPL": first + LONG / 2}, first + 1.5 * LONG),
    ):
        capture.report.tickers = tickers
        capture.last_trade_at = {name: epoch_ns(at) for name, at in trades.items()}
        told.append(capture.told(now))
    silent = ["no AAPL trades for 15 minutes of market hours"]
    assert told == [silent, [], [], silent]


def test_many_tickers_that_become_silent_at_once_share_a_notice():
    capture = Capture()
    capture.report.tickers = ["".join(letters) for letters in product("ABCDEFGHIJ", repeat=3)]
    (told,) = capture.told(OPEN + LONG)
    assert told == (
        "no trades of 1,000 tickers for 15 minutes of market hours or more: "
        "AAA, AAB, AAC, AAD, AAE, AAF, AAG, AAH, AAI, AAJ and others"
    )
    assert capture.told(OPEN + 1.1 * LONG) == []
