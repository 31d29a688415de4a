"""What Prefect does by itself about captures: created once, put right, and at work."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from stocktrace.errors import UsageError
from stocktrace.sessions.report import SessionReport
from stocktrace.simulator import Fault, Simulator, SimulatorSettings, SyntheticMarket
from tests.station import Api, Station
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(300)  # the first to come waits for Prefect's import and its server

KEY = "c9k3yth4tmustn0tleak"
CRASHED = "stocktrace: mark runs without a heartbeat Crashed"
ALERTS = [
    "stocktrace: alert on gaps",
    "stocktrace: alert on quarantined rows",
    "stocktrace: alert on repeated reconnects",
]


@pytest.fixture(autouse=True)
def _leave_no_automations(api: Api) -> Iterator[None]:
    from prefect import get_client

    yield
    with get_client(sync_client=True) as client:
        for one in api.all("automations"):
            client.delete_automation(UUID(one["id"]))


def webhook(url: str) -> None:
    """Make the block ``custom-webhook/trading``."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    text = {"subject": "{{subject}}", "body": "{{body}}"}
    block = CustomWebhookNotificationBlock(name="trading", url=url, json_data=text)
    block.save("trading", overwrite=True)


def automations(api: Api) -> dict[str, dict[str, Any]]:
    found = api.all("automations")
    by_name = {one["name"]: one for one in found}
    assert len(by_name) == len(found), "one each"
    return by_name


def test_without_a_block_only_crashed_runs_are_marked(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.automations import main

    assert main() == 0
    assert capsys.readouterr().out.splitlines() == [
        f"created: {CRASHED}",
        "no alerts: name a notification block with --block TYPE/NAME",
    ]
    (one,) = automations(api).values()
    assert one["trigger"]["posture"] == "Proactive"
    assert one["trigger"]["within"] == 120
    assert one["trigger"]["match_related"] == {
        "prefect.resource.role": "flow",
        "prefect.resource.name": "stocktrace-*",
    }
    assert [action["state"] for action in one["actions"]] == ["CRASHED"]


def test_running_it_again_changes_nothing(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    from flows.automations import main

    webhook("http://127.0.0.1:9/")
    main(block="custom-webhook/trading")
    first = automations(api)
    capsys.readouterr()
    main(block="custom-webhook/trading")
    assert sorted(first) == sorted([CRASHED, *ALERTS])
    assert automations(api) == first
    said = capsys.readouterr().out.splitlines()
    assert {line.partition(":")[0] for line in said} == {"unchanged"}
    assert len(said) == 4


def test_a_changed_automation_is_corrected_and_stays_switched_off(api: Api) -> None:
    from prefect import get_client

    from flows.automations import crash_automation, save_automation

    with get_client(sync_client=True) as client:
        assert save_automation(client, crash_automation()) == "created"
        (there,) = automations(api).values()
        other = crash_automation().model_copy(update={"description": "mine", "enabled": False})
        client.update_automation(UUID(there["id"]), other)
        assert save_automation(client, crash_automation()) == "changed"
        assert save_automation(client, crash_automation()) == "unchanged"
    (now,) = automations(api).values()
    assert (now["id"], now["description"]) == (there["id"], there["description"])
    assert now["enabled"] is False


@pytest.mark.parametrize("block", ["slack-webhook/nothere", "nothere/trading", "trading", "/", ""])
def test_an_unknown_block_is_named_and_nothing_is_created(api: Api, block: str) -> None:
    from flows.automations import main

    with pytest.raises(UsageError, match="TYPE/NAME"):
        main(block=block)
    assert automations(api) == {}


def test_wrong_arguments_are_one_sentence_and_status_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.automations", "--nope"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("stocktrace: ")
    assert done.stderr.count("\n") == 1


# --------------------------------------------------------------------------- on a real server


class Inbox(BaseHTTPRequestHandler):
    """Where alerts go."""

    got: queue.Queue[dict[str, str]]

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.got.put(json.loads(self.rfile.read(length)))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def inbox() -> Iterator[tuple[str, queue.Queue[dict[str, str]]]]:
    got: queue.Queue[dict[str, str]] = queue.Queue()
    handler = type("Handler", (Inbox,), {"got": got})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}/", got
        listening.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_gap_is_an_alert_and_a_run_killed_with_its_worker_is_marked_crashed(
    tmp_path: Path, inbox: tuple[str, queue.Queue[dict[str, str]]]
) -> None:
    """Without the automation the run would be Running for ever."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.automations import main

    station = Station(tmp_path, KEY)
    url, got = inbox
    faults = [Fault("drop", after_seconds=3.0)]
    with (
        station.server() as api,
        Simulator(
            SyntheticMarket(seed=7, rate=50.0), SimulatorSettings(key=KEY), faults
        ) as exchange,
    ):
        with temporary_settings({PREFECT_API_URL: station.url}):
            webhook(url)
            main(block="custom-webhook/trading")
        station.prefect("work-pool", "create", "stocktrace", "--type", "process")
        station.prefect("deploy", "--name", "ad-hoc")
        folder = tmp_path / "dead"
        with station.worker() as worker:
            asked = {"tickers": ["AAPL"], "duration": "1h", "url": exchange.url}
            run = station.start("ad-hoc", **asked, data_dir=str(folder))
            alert = got.get(timeout=180)
            worker.kill()
            (report,) = folder.glob("sessions/*.json")
            os.kill(SessionReport.read(report).pid, signal.SIGKILL)
            worker.wait(30)
        assert alert["subject"] == "stocktrace: AAPL · 1h"
        assert re.match(r"[\d.]+ s without data: connection lost: ", alert["body"])
        assert f"/runs/flow-run/{run}" in alert["body"]
        assert api.one(f"/flow_runs/{run}")["state_type"] == "RUNNING"

        def over() -> dict[str, Any] | None:
            found = api.one(f"/flow_runs/{run}")
            return found if found["state_type"] != "RUNNING" else None

        state = eventually(over, within=400)["state"]
        assert state["type"] == "CRASHED"
        assert state["message"].startswith("No heartbeat for 120 s")
