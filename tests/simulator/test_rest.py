"""The simulator's REST side, over HTTP."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import pytest

from stocktrace.errors import SettingsError
from stocktrace.simulator import RestSettings, ScriptedSource, Simulator, SimulatorSettings
from tests.simulator.conftest import Dial, frame_of

T = 1_763_736_000_000  # 2025-11-21 14:40 UTC, in New York the same day
DAY = "2025-11-21"


def server(**rest: Any) -> Simulator:
    history = [frame_of(("A", n), t=T + n) for n in range(1, 8)]
    return Simulator(
        ScriptedSource([]), SimulatorSettings(rest=RestSettings(**rest)), history=history
    )


def ask(simulator: Simulator, path: str, key: str = "demo") -> tuple[int, Any, dict[str, str]]:
    url = f"http://127.0.0.1:{simulator.port}/api/v1/{path}"
    request = urllib.request.Request(url, headers={"X-Finnhub-Token": key})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read()), dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            body = error.read()
            kind = error.headers["Content-Type"]
            return error.code, json.loads(body) if "json" in kind else body, dict(error.headers)


def ticks(simulator: Simulator, **query: Any) -> Any:
    words = {"symbol": "A", "date": DAY, **query}
    status, page, _ = ask(
        simulator, "stock/tick?" + "&".join(f"{name}={value}" for name, value in words.items())
    )
    assert status == 200
    return page


def test_a_day_is_served_in_pages() -> None:
    with server() as simulator:
        assert ticks(simulator, limit=3, skip=5) == {
            "s": "A",
            "skip": 5,
            "count": 2,
            "total": 7,
            "p": [6, 7],
            "v": [100, 100],
            "t": [T + 6, T + 7],
            "x": ["D", "D"],
            "c": [["1"], ["1"]],
        }
        assert ticks(simulator)["count"] == 7
        assert ticks(simulator, skip=7)["count"] == 0
        assert simulator.rest_requests == 3
        assert simulator.dials == 0


def test_rest_serves_what_was_played(dial: Dial) -> None:
    frames = [frame_of(("A", n), ("B", n), t=T + n) for n in range(4)]
    settings = SimulatorSettings(settle=0.01, rest=RestSettings())
    script = ScriptedSource([(n, frame) for n, frame in enumerate([*frames, b"null", b"{}"])])
    with Simulator(script, settings) as simulator:
        assert ask(simulator, f"stock/tick?symbol=A&date={DAY}")[0] == 404  # no client listens yet
        client = dial(simulator)
        client.subscribe("A")
        heard = client.trades(4)
        assert simulator.finished.wait(10)
        page = ticks(simulator)
        assert list(zip(page["t"], page["p"], page["c"], strict=True)) == [
            (trade["t"], trade["p"], trade["c"]) for trade in heard
        ]
        assert ticks(simulator, symbol="B")["count"] == 4


def test_the_known_faults_of_ticks_can_be_simulated() -> None:
    with server(padding=True, endless=True) as simulator:
        page = ticks(simulator, limit=5, skip=5)
        assert (page["count"], page["total"], page["t"]) == (5, 7, [T + 6, T + 7, 0, 0, 0])
        assert ticks(simulator, limit=3, skip=30)["t"] == [T + 5, T + 6, T + 7]
    with server(missing=7, extra=3) as simulator:
        assert ticks(simulator)["p"] == [1, 1.01, 2, 3, 4, 4.01, 5, 6]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"stock/tick?symbol=A&date={DAY}&limit=0", 422),
        (f"stock/tick?symbol=A&date={DAY}&limit=25001", 422),
        ("stock/tick?symbol=A&date=today", 422),
        (f"stock/tick?date={DAY}", 422),
        ("stock/tick?symbol=A&date=2025-11-20", 404),
        (f"stock/tick?symbol=B&date={DAY}", 404),
        ("stock/candle?symbol=A", 404),
    ],
)
def test_an_invalid_request_is_refused(path: str, status: int) -> None:
    with server() as simulator:
        assert ask(simulator, path)[0] == status


def test_a_wrong_key_a_free_plan_and_too_many_requests_are_refused() -> None:
    path = f"stock/tick?symbol=A&date={DAY}"
    with server(premium=False, per_minute=2, retry_after=7, statuses=(503, 200)) as simulator:
        assert ask(simulator, path)[:2] == (503, b"<html>upstream request timeout</html>")
        assert ask(simulator, path, "no")[:2] == (401, {"error": "Invalid API key."})
        refused = {"error": "You don't have access to this resource."}
        assert ask(simulator, path)[:2] == (403, refused)
        _, _, headers = ask(simulator, "stock/market-status?exchange=US")
        assert (headers["X-Ratelimit-Limit"], headers["X-Ratelimit-Remaining"]) == ("2", "0")
        status, body, headers = ask(simulator, path)
        assert (status, headers["Retry-After"]) == (429, "7")
        assert body["error"].startswith("API limit reached.")


def test_holidays_and_half_days_come_from_the_calendar() -> None:
    with server() as simulator:
        _, holidays, _ = ask(simulator, "stock/market-holiday?exchange=US")
        _, status, _ = ask(simulator, "stock/market-status?exchange=US")
    hours = {day["tradingHour"] for day in holidays["data"]}
    assert (holidays["exchange"], hours) == ("US", {"", "09:30-13:00"})
    assert any(day["atDate"].endswith("-12-25") for day in holidays["data"])
    assert {"isOpen", "session", "holiday", "t"} <= status.keys()


@pytest.mark.parametrize("wrong", [{"page_limit": 0}, {"per_minute": 0}, {"missing": -1}])
def test_invalid_rest_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(SettingsError):
        RestSettings(**wrong)  # type: ignore[arg-type]
