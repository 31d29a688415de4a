"""The flow that publishes what captures left: its tasks, and the event that starts it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from stocktrace.record.publish import rebuild_window
from stocktrace.sessions.report import SessionReport
from stocktrace.show.markdown import conversion_line
from stocktrace.simulator import Simulator, SimulatorSettings, SyntheticMarket
from stocktrace.store.layout import Layout
from tests import remains
from tests.conftest import SESSION, published
from tests.station import Station
from tests.waiting import eventually

pytestmark = [
    pytest.mark.xdist_group("prefect"),
    pytest.mark.timeout(300),  # the first to come waits for Prefect's import
]
ROOT = Path(__file__).parents[2]


def test_the_tasks_publish_what_a_crashed_capture_left_once(tmp_path: Path) -> None:
    from flows.convert import convert_sealed, recover

    layout = remains.dead(tmp_path / "data")
    done = recover.fn(str(layout.root)), convert_sealed.fn(str(layout.root))
    assert [one.session for one in done[0]] == [SESSION]
    assert (
        conversion_line(*done) == "1 session recovered, 0 windows converted, 12 trades published."
    )
    again = recover.fn(str(layout.root)), convert_sealed.fn(str(layout.root))
    assert conversion_line(*again) == "Everything was published already."


def test_a_segment_of_an_ended_session_is_converted(tmp_path: Path) -> None:
    from flows.convert import convert_sealed

    layout = remains.whole(tmp_path / "data")
    for path in layout.dataset.rglob("*.parquet"):
        path.unlink()
    for part in remains.PARTS:
        rebuild_window(layout, part)
    done = convert_sealed.fn(str(layout.root))
    assert (done.files, done.rows, done.failed) == (3, 12, [])


def test_convert_is_started_by_every_end_of_a_capture() -> None:
    from flows.capture import capture

    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    (found,) = [one for one in deployments if one["entrypoint"] == "flows.convert.convert"]
    (trigger,) = found["triggers"]
    assert trigger["match_related"]["prefect.resource.name"] == capture.name
    ends = {name.rpartition(".")[2] for name in trigger["expect"]}
    assert ends == {"Completed", "Cancelled", "Crashed", "Failed"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_end_of_a_killed_capture_starts_the_flow_that_publishes_it(
    tmp_path: Path,
) -> None:
    place = Station(tmp_path, "key")
    layout = Layout(tmp_path / "data")
    market = Simulator(SyntheticMarket(seed=7, rate=300.0), SimulatorSettings(key="key"))
    with market as exchange, place.server() as api:
        place.deploy()

        def converted() -> list[dict[str, Any]]:
            runs = api.all("flow_runs", flows={"name": {"any_": ["stocktrace-convert"]}})
            return [run for run in runs if run["state_type"] in ("COMPLETED", "FAILED")]

        with place.worker():
            run = place.start("ad-hoc", tickers=["AAPL"], duration="10m", url=exchange.url)
            (tape,) = eventually(lambda: list(layout.root.glob("tape/*/*.tape")), within=120)
            eventually(lambda: tape.stat().st_size > 10_000, within=60)
            lock = json.loads(layout.lock(tape.parent.name).read_text())
            os.kill(lock["pid"], signal.SIGKILL)
            assert place.ended(api, run)["state_type"] == "CRASHED"
            (done,) = eventually(converted, within=120)
    assert done["state_type"] == "COMPLETED"
    assert "1 session recovered" in done["state"]["message"]
    report = SessionReport.read(layout.report(tape.parent.name))
    assert (report.state, report.balanced, report.unpublished) == ("recovered", True, [])
    assert len(published(layout.root)["AAPL"]) == report.books.recorded > 0
