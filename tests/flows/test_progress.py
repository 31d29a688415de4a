"""What a person sees of a capture in Prefect's UI, and what an automation hears."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from stocktrace.live.control import CaptureControl
from stocktrace.sessions.report import GapReport, SessionReport
from stocktrace.show.markdown import report_page
from stocktrace.simulator import Fault, Simulator, SimulatorSettings, SyntheticMarket
from stocktrace.store.layout import Layout
from tests.conftest import SESSION
from tests.station import Api
from tests.statuses import a_status
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(300)  # the first to come waits for Prefect's import and its server

KEY = "c9k3yth4tmustn0tleak"
TICKERS = ["AAPL", "BINANCE:BTCUSDT"]
BEGIN = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Shown:
    """A flow run that lost its connection once, and what was put on its page."""

    run: str
    report: SessionReport
    pages: list[tuple[Any, str]]


@pytest.fixture(scope="module")
def shown(server: str, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    from flows import progress
    from flows.capture import capture

    pages: list[tuple[Any, str]] = []
    put = progress.ProgressReporter._save

    def note(self: Any, create: Any, data: Any, key: str, line: str) -> None:
        put(self, create, data, key, line)
        if key == progress.REPORT_ARTIFACT:
            pages.append((self._artifacts[key], data))

    folder = tmp_path_factory.mktemp("shown")
    market = SyntheticMarket(seed=5, rate=200.0)
    faults = [Fault("drop", after_seconds=1.0)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FINNHUB_API_KEY", KEY)
        patch.setattr(progress, "CANCEL_CHECK_INTERVAL_S", 0.2)
        patch.setattr(progress, "PROGRESS_INTERVAL_S", 0.2)
        patch.setattr(progress.ProgressReporter, "_save", note)
        with Simulator(market, SimulatorSettings(key=KEY), faults) as exchange:
            state = capture(
                TICKERS,
                duration="5s",
                url=exchange.url,
                data_dir=str(folder / "data"),
                return_state=True,
            )
    assert state.is_completed(), state
    (path,) = (folder / "data" / "sessions").glob("*.json")
    return Shown(str(state.state_details.flow_run_id), SessionReport.read(path), pages)


def test_one_page_is_replaced_in_place_and_becomes_the_report(shown: Shown, api: Api) -> None:
    assert len(shown.pages) >= 4
    assert len({artifact for artifact, _ in shown.pages}) == 1
    heads = [text.partition("\n")[0] for _, text in shown.pages]
    assert "# Connected" in heads[:-2]
    assert heads[-2:] == ["# Complete: its end time was reached"] * 2
    page = api.artifact(shown.run, "stocktrace-report")
    assert page["id"] == str(shown.pages[0][0])
    assert page["data"] == shown.pages[-1][1]
    assert page["description"].startswith("complete: ")


def test_the_live_page_has_counts_and_rates(shown: Shown) -> None:
    live = [text for _, text in shown.pages if text.startswith("# Connected")]
    last = live[-1]
    assert "| AAPL | " in last
    assert "2 (" in last  # connecting, and the loss
    assert "Last gap: " in last
    trades = [
        int(re.findall(r"^\| ([\d,]+) \|", text, re.MULTILINE)[0].replace(",", "")) for text in live
    ]
    assert trades == sorted(trades)
    assert trades[-1] > trades[0]


def test_the_report_has_the_picture_with_each_gap_shaded(shown: Shown) -> None:
    _, text = shown.pages[-1]
    (data,) = re.findall(r"!\[.*?\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", text)
    root = ET.fromstring(base64.b64decode(data))
    gaps = [each for each in root.iter() if each.get("class") == "gap"]
    assert len(gaps) == len(shown.report.gaps) == 2  # before the first connection, and the lost one
    assert len(text) < 1_000_000


def test_gaps_and_reconnects_are_events_of_the_session_and_its_run(shown: Shown, api: Api) -> None:
    def found() -> dict[str, dict[str, Any]]:
        resource = {"id": [f"stocktrace.session.{shown.report.session}"]}
        events = api.all("events", limit=50, filter={"resource": resource})
        by_name = {event["event"]: event for event in events}
        wanted = {"stocktrace.feed.gap", "stocktrace.feed.reconnect"}
        return by_name if set(by_name) == wanted and len(events) == 2 else {}

    events = eventually(found)
    gap = shown.report.outages[0]
    assert events["stocktrace.feed.gap"]["payload"] == {
        "start": gap.start.isoformat(),
        "end": gap.end.isoformat(),
        "seconds": round((gap.end - gap.start).total_seconds(), 3),
        "reason": gap.reason,
        "tickers": 2,
        "gaps": 1,
    }
    for event in events.values():
        runs = [each for each in event["related"] if each["prefect.resource.role"] == "flow-run"]
        assert [run["prefect.resource.id"] for run in runs] == [f"prefect.flow-run.{shown.run}"]
        assert runs[0]["prefect.resource.name"] == "AAPL BINANCE:BTCUSDT · 5s"


def test_an_event_that_cannot_be_sent_is_counted(
    server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from flows import progress

    def gone(*args: object, **named: object) -> None:
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(progress, "emit_event", gone)
    monkeypatch.setattr(progress, "get_client", gone)
    with progress.ProgressReporter(Layout(tmp_path), ["A"], CaptureControl()) as shown:
        shown.on_status(a_status(outages=1, last_outage=GapReport(BEGIN, BEGIN, "lost", 1)))
        shown._submit(lambda: None).result(30)
    assert shown.failures >= 2


def test_a_picture_that_is_too_large_for_prefect_is_left_out_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from flows import progress

    report = SessionReport(
        SESSION, ["A"], BEGIN, state="complete", ended=BEGIN + timedelta(seconds=9)
    )
    layout = Layout(tmp_path)
    report.write(layout.report(SESSION))
    shown = progress.ProgressReporter(layout, ["A"], CaptureControl())
    assert shown._draw_picture(SESSION).startswith("<svg")
    monkeypatch.setattr(progress, "MAX_PICTURE_BYTES", 10)
    text = report_page(report, layout, picture=shown._draw_picture(SESSION))
    assert "No picture: It is too large for Prefect: run stocktrace report" in text
    assert "data:image" not in text
