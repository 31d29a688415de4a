"""However a capture under Prefect is stopped: nothing is lost, and what is left is published.

A real server, real workers; one test a row of the table in docs/operations.md.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from stocktrace.live import key_lock
from stocktrace.record.recovery import recover
from stocktrace.sessions.report import SessionReport
from stocktrace.simulator import Simulator, SimulatorSettings, SyntheticMarket
from stocktrace.store.layout import Layout
from stocktrace.verify import verify
from tests.conftest import published, sent, taped
from tests.station import ROOT, Api, Station
from tests.waiting import eventually

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
]

KEY = "c9k3yth4tmustn0tleak"
TICKERS = ["AAPL", "BINANCE:BTCUSDT"]
MARKET = replace(SyntheticMarket(seed=7, rate=300.0), trades=None)

Worker = subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Station, Api]]:
    place = Station(tmp_path_factory.mktemp("station"), KEY)
    with place.server() as api:
        place.deploy()
        yield place, api


@dataclass(slots=True)
class Scene:
    """A capture that runs on a worker."""

    place: Station
    api: Api
    exchange: Simulator
    folder: Path
    worker: Worker
    run: str

    @property
    def capture(self) -> psutil.Process:
        """The process of the run."""
        pid = self.only_report().pid
        assert pid is not None
        return psutil.Process(pid)

    def only_report(self) -> SessionReport:
        (path,) = Layout(self.folder).sessions.glob("*.json")
        return SessionReport.read(path)

    def state(self) -> str:
        return str(self.api.one(f"/flow_runs/{self.run}")["state_type"])

    def ends(self) -> str:
        return str(self.place.ended(self.api, self.run)["state_type"])

    def again(self) -> str:
        """Another run for a moment, on the same folder; gives its id."""
        words: dict[str, Any] = {"tickers": TICKERS, "duration": "1s", "url": self.exchange.url}
        return self.place.start("ad-hoc", **words, data_dir=str(self.folder))


@pytest.fixture
def scene(station: tuple[Station, Api], tmp_path: Path) -> Iterator[Scene]:
    place, api = station
    folder = tmp_path / "data"
    with (
        Simulator(MARKET, SimulatorSettings(key=KEY, keep=True)) as exchange,
        place.worker() as one,
    ):
        run = place.record(folder, exchange.url, TICKERS)
        yield Scene(place, api, exchange, folder, one, run)


def nothing_is_lost(scene: Scene) -> None:
    """What was sent, up to the last frame that was read, is in Parquet, once."""
    layout = Layout(scene.folder)
    sessions = sorted(path.stem for path in layout.sessions.glob("*.json"))
    tapes = [taped(scene.folder, session) for session in sessions]
    connections = [one.frames for one in scene.exchange.connections]
    for kept, frames in zip(tapes, connections, strict=True):
        assert kept == frames[: len(kept)]
    assert published(scene.folder) == sent(frame for kept in tapes for frame in kept) != {}
    for session in sessions:
        assert list(verify(layout, session)) == []


def active_slots(scene: Scene) -> int:
    name = f"stocktrace-key-{key_lock.key_id(KEY, scene.exchange.url)}"
    return int(scene.api.one(f"/v2/concurrency_limits/{name}")["active_slots"])


# ------------------------------------------------------------------- stops that the code hears of


def test_sigterm_stops_the_process_of_a_run_cleanly(scene: Scene) -> None:
    """What a container gets."""
    scene.capture.send_signal(signal.SIGTERM)
    assert scene.ends() == "CRASHED"
    assert scene.only_report().state == "interrupted"
    recover(Layout(scene.folder))
    nothing_is_lost(scene)
    eventually(lambda: active_slots(scene) == 0)


def test_a_worker_that_systemd_stops_is_drained_first(scene: Scene) -> None:
    unit = (ROOT / "deploy/systemd/stocktrace-worker.service").read_text(encoding="utf-8")
    (line,) = [each for each in unit.splitlines() if each.startswith("ExecStop=")]
    words = line.removeprefix("ExecStop=").replace("$MAINPID", str(scene.worker.pid))
    subprocess.run(shlex.split(words.replace("$$", "$")), check=True, timeout=60)
    assert scene.worker.poll() is None
    assert psutil.Process(scene.worker.pid).children() == []
    scene.worker.terminate()
    scene.worker.wait(30)
    assert scene.only_report().state == "interrupted"
    recover(Layout(scene.folder))
    nothing_is_lost(scene)


@contextmanager
def served(place: Station, *names: str) -> Iterator[Worker]:
    file = str(ROOT / "prefect.yaml")
    with place.process("serve", "-m", "flows.serve", *names, "--file", file) as started:
        yield started


def test_sigterm_to_serve_stops_its_runs_cleanly(tmp_path: Path) -> None:
    place, folder = Station(tmp_path, KEY), tmp_path / "data"
    with (
        Simulator(MARKET, SimulatorSettings(key=KEY, keep=True)) as exchange,
        place.server() as api,
        served(place, "ad-hoc") as serving,
    ):
        eventually(lambda: api.all("deployments"), within=60)
        run = place.record(folder, exchange.url, TICKERS)
        serving.send_signal(signal.SIGTERM)
        serving.wait(60)
        scene = Scene(place, api, exchange, folder, serving, run)
        assert (serving.returncode, scene.ends()) == (0, "CANCELLED")
        assert scene.only_report().state == "interrupted"
        recover(Layout(folder))
        nothing_is_lost(scene)


def test_116_a_capture_outlives_its_worker(scene: Scene) -> None:
    """What it says goes to the worker; a line to a pipe without a reader must not end it."""
    capture = scene.capture
    scene.worker.kill()
    scene.worker.wait()
    windows = len(scene.only_report().windows)
    eventually(lambda: len(scene.only_report().windows) > windows + 2, within=60)
    assert capture.is_running()
    capture.send_signal(signal.SIGTERM)
    assert scene.ends() == "CRASHED"
    assert scene.only_report().state == "interrupted"
    recover(Layout(scene.folder))
    nothing_is_lost(scene)


# ------------------------------------------------------------------ stops that nobody is told of


def kill_the_run(scene: Scene) -> None:
    scene.capture.kill()


def kill_worker_and_run(scene: Scene) -> None:
    capture = scene.capture
    scene.worker.kill()
    scene.worker.wait()
    capture.kill()


def stop_the_worker(scene: Scene) -> None:
    """PrefectHQ/prefect#22528: it kills its runs."""
    scene.worker.terminate()
    scene.worker.wait(30)


@pytest.mark.parametrize(
    ("stop", "state"),
    [
        (kill_the_run, "CRASHED"),
        # For ever, but for the automation that looks for heartbeats.
        (kill_worker_and_run, "RUNNING"),
        (stop_the_worker, "RUNNING"),
    ],
)
def test_41_the_next_run_publishes_the_data_of_a_killed_one(
    scene: Scene, stop: Callable[[Scene], None], state: str
) -> None:
    capture = scene.capture
    stop(scene)
    capture.wait(30)
    eventually(lambda: scene.state() == state, within=60)
    report = scene.only_report()
    assert report.state == "running"
    left = active_slots(scene)
    with nullcontext() if scene.worker.poll() is None else scene.place.worker():
        # The place of the dead is given back at once, not when its lease runs out.
        after = scene.place.ended(scene.api, scene.again())
        assert (left, after["state_type"]) == (1, "COMPLETED")
        told = f"session {report.session} recovered"

        def says_so() -> bool:
            logs = scene.api.all("logs", sort="TIMESTAMP_DESC")  # of that run, or of convert's
            return any(one["message"].startswith(told) for one in logs)

        eventually(says_so)
    assert SessionReport.read(Layout(scene.folder).report(report.session)).state == "recovered"
    nothing_is_lost(scene)
    eventually(lambda: active_slots(scene) == 0)


# --------------------------------------------------------------------------- one capture per key


def test_43_a_run_that_overlaps_another_is_refused(scene: Scene) -> None:
    report = scene.only_report()
    after = scene.place.ended(scene.api, scene.again())
    assert after["state_type"] == "FAILED"
    told = f"Another capture on this host already uses this API key (session {report.session}"
    assert after["state"]["message"].startswith(told)
    assert (scene.state(), scene.only_report().reconnects) == ("RUNNING", 0)
    assert scene.exchange.dials == 1
    scene.place.prefect("flow-run", "cancel", scene.run)
    assert scene.ends() == "CANCELLED"
    recover(Layout(scene.folder))
    nothing_is_lost(scene)


def test_a_key_lease_outlives_a_restart_of_the_server(tmp_path: Path) -> None:
    place, folder = Station(tmp_path, KEY), tmp_path / "data"
    with Simulator(MARKET, SimulatorSettings(key=KEY, keep=True)) as exchange, ExitStack() as stack:
        first = stack.enter_context(ExitStack())
        api = first.enter_context(place.server())
        place.deploy()
        worker = stack.enter_context(place.worker())
        run = place.record(folder, exchange.url, TICKERS)
        assert active_slots(Scene(place, api, exchange, folder, worker, run)) == 1
        first.close()
        api = stack.enter_context(place.server())
        scene = Scene(place, api, exchange, folder, worker, run)
        assert active_slots(scene) == 1
        windows = len(scene.only_report().windows)
        eventually(lambda: len(scene.only_report().windows) > windows)
        scene.capture.send_signal(signal.SIGTERM)
        assert scene.ends() == "CRASHED"
        assert (scene.only_report().state, scene.only_report().reconnects) == ("interrupted", 0)
        eventually(lambda: active_slots(scene) == 0)
        recover(Layout(folder))
        nothing_is_lost(scene)
