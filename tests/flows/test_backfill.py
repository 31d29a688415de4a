"""The flows that publish what others left, as functions; ``test_capture.py`` has the server."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from stocktrace.importing.column_mapping import ColumnMapping
from stocktrace.importing.jobs import plan_imports
from stocktrace.maintenance.convert import ConversionResult
from stocktrace.record.publish import rebuild_window
from stocktrace.record.recovery import RecoveredSession
from stocktrace.sessions.report import SessionReport
from stocktrace.simulator import Simulator, SimulatorSettings, SyntheticMarket
from stocktrace.store.layout import Layout
from tests import remains
from tests.conftest import SESSION, published
from tests.station import Station
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(300)  # the first to come waits for Prefect's import
ROOT = Path(__file__).parents[2]


def test_the_tasks_of_convert_publish_what_was_left_and_then_nothing(tmp_path: Path) -> None:
    from flows.convert import convert_sealed, recover, summary

    layout = remains.dead(tmp_path / "data")
    done = recover.fn(str(layout.root)), convert_sealed.fn(str(layout.root))
    assert [one.session for one in done[0]] == [SESSION]
    assert summary(*done) == ("1 session recovered, 0 segments converted, 10 trades published.")
    again = recover.fn(str(layout.root)), convert_sealed.fn(str(layout.root))
    assert summary(*again) == "Nothing was left to publish."


def test_a_segment_of_an_ended_session_is_converted(tmp_path: Path) -> None:
    from flows.convert import convert_sealed

    layout = remains.whole(tmp_path / "data")
    for path in layout.dataset.rglob("*.parquet"):
        path.unlink()
    for part in remains.PARTS:
        rebuild_window(layout, part)
    done = convert_sealed.fn(str(layout.root))
    assert (done.files, done.rows, done.failed) == (6, 12, [])


def test_a_problem_is_in_the_sentence_and_on_the_page() -> None:
    from flows.convert import page, summary

    done = [RecoveredSession(SESSION, 1, 3, 0, balanced=False)]
    failed = ConversionResult(1, 2, ["a|b is torn."])
    assert "2 problems, the first: a|b is torn." in summary(done, failed)
    assert "**do not balance**" in page(done, failed)
    assert r"a\|b is torn." in page(done, failed)


def test_a_batch_is_published_and_published_again_changes_nothing(tmp_path: Path) -> None:
    from flows.import_files import import_batch

    source = tmp_path / "a.csv"
    source.write_text("symbol,ts_event,price,volume\nAAPL,1795444200123,1.5,2\n")
    layout = Layout(tmp_path / "data")
    mapping = ColumnMapping.of(unit="ms")
    (first,) = import_batch.fn(layout, plan_imports(layout, [source]), mapping, 1, only_look=False)
    (again,) = import_batch.fn(layout, plan_imports(layout, [source]), mapping, 1, only_look=False)
    assert (first.state, again.state, first.session) == ("published", "known", again.session)
    assert published(layout.root) == {"AAPL": [(1795444200123, 1.5, 2.0, "")]}


@pytest.mark.parametrize(
    "parameters",
    [
        {"preset": "taq"},
        {"columns": ["Price"]},
        {"unit": "days"},
        {"delimiter": "::"},
        {"jobs": -1},
    ],
)
def test_what_makes_no_sense_is_no_parameter(parameters: dict[str, Any]) -> None:
    from prefect.exceptions import ParameterTypeError

    from flows.import_files import import_files

    with pytest.raises(ParameterTypeError):
        import_files.validate_parameters(parameters)


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
def test_a_capture_that_is_killed_is_published_by_the_convert_that_its_end_starts(
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
