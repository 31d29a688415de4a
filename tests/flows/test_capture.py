"""The flow, against a Prefect server of the tests and the simulated exchange."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib import import_module, reload
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
import yaml  # type: ignore[import-untyped]

import flows
from flows import command
from flows.fields import check_capture
from stocktrace import calendar
from stocktrace.end_time import parse_until
from stocktrace.errors import KeyRefused, MarketClosed, SettingsError
from stocktrace.query.trades import read_trades
from stocktrace.sessions.report import Books, SessionReport
from stocktrace.sessions.status import CaptureStatus
from stocktrace.show.markdown import escape_markdown, report_line
from stocktrace.simulator import Simulator, SimulatorSettings, SyntheticMarket
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from tests.conftest import taped
from tests.station import Api, Station
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(300)  # the first to come waits for Prefect's import and its server

ROOT = Path(__file__).parents[2]
TICKERS = ["AAPL", "MSFT", "BINANCE:BTCUSDT"]
# A word that stands nowhere else, so that it can be looked for everywhere.
KEY = "c9k3yth4tmustn0tleak"
MARKET = SyntheticMarket(seed=7, rate=300.0, trades=900)


# ----------------------------------------------------------------------------------- fixtures


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.chdir(tmp_path)  # no .env of the developer's
    monkeypatch.setenv("FINNHUB_API_KEY", KEY)
    return KEY


@pytest.fixture
def exchange(key: str) -> Iterator[Simulator]:
    """A market that goes on for as long as one listens."""
    with Simulator(replace(MARKET, trades=None), SimulatorSettings(key=key)) as running:
        yield running


def sent(exchange: Simulator) -> list[dict[str, Any]]:
    frames = [frame for one in exchange.connections for frame in one.frames]
    return [trade for frame in frames for trade in json.loads(frame).get("data", [])]


def recorded(folder: Path, ticker: str) -> list[tuple[float, float, int]]:
    table = read_trades(ticker, data_dir=folder, backend="pyarrow").to_pylist()
    return [(row["price"], row["volume"], stamp(row["ts_event"])) for row in table]


def stamp(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def the_report(folder: Path) -> SessionReport:
    (path,) = Layout(folder).sessions.glob("*.json")
    return SessionReport.read(path)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


@dataclass(frozen=True, slots=True)
class Finished:
    """A capture that ran to its end."""

    run: str
    folder: Path
    result: dict[str, Any]
    message: str
    report: SessionReport
    sent: list[dict[str, Any]]


@pytest.fixture(scope="module")
def finished(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """One capture for all tests that look at what it left; its windows last a second."""
    from flows.capture import capture

    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        home = tmp_path_factory.mktemp("finished")
        patch.chdir(home)
        patch.setenv("FINNHUB_API_KEY", KEY)
        exchange = stack.enter_context(Simulator(MARKET, SimulatorSettings(key=KEY, keep=True)))
        folder = home / "data"
        state = capture(
            TICKERS,
            duration="5s",
            url=exchange.url,
            data_dir=str(folder),
            roll_interval="1s",
            return_state=True,
        )
        assert state.is_completed(), state
        run = str(state.state_details.flow_run_id)
        result: Any = state.result()
        yield Finished(run, folder, result, str(state.message), the_report(folder), sent(exchange))


# -------------------------------------------------------------------------- a capture that ends


def test_what_the_exchange_sent_is_in_parquet(finished: Finished) -> None:
    truth: dict[str, list[tuple[float, float, int]]] = {ticker: [] for ticker in TICKERS}
    for trade in finished.sent:
        truth[trade["s"]].append((trade["p"], trade["v"], trade["t"]))
    assert {ticker: recorded(finished.folder, ticker) for ticker in TICKERS} == truth
    assert len(finished.sent) == MARKET.trades


def test_the_result_is_small_and_says_where_the_data_is(finished: Finished) -> None:
    report = finished.report
    assert finished.result == {
        "session": report.session,
        "state": "complete",
        "reason": "its end time was reached",
        "books": {name: getattr(report.books, name) for name in Books.__struct_fields__},
        "data_dir": str(finished.folder),
    }


def test_a_completed_run_has_its_result_in_a_sentence(finished: Finished, api: Api) -> None:
    assert finished.message == report_line(finished.report)
    assert f"{len(finished.sent):,} trades" in finished.message
    (run,) = [one for one in api.all("flow_runs") if one["id"] == finished.run]
    assert run["state"]["message"] == finished.message


def test_windows_are_converted_while_the_capture_runs(finished: Finished, api: Api) -> None:
    def ended() -> list[dict[str, Any]]:
        tasks = api.of_run("task_runs", finished.run)
        done = all(task["state_type"] == "COMPLETED" for task in tasks)
        return tasks if done and len(tasks) == 1 + len(finished.report.windows) else []

    tasks = {task["name"]: task for task in eventually(ended)}
    assert set(tasks) == {"capture", *(f"convert {name}" for name in finished.report.windows)}
    assert len(finished.report.windows) >= 3
    first, *_ = sorted(name for name in tasks if name != "capture")
    assert finished.report.ended is not None
    second_last = finished.report.ended - timedelta(seconds=1)
    assert moment(tasks[first]["end_time"]) < second_last


def test_the_run_is_named_and_tagged_by_what_it_records(finished: Finished, api: Api) -> None:
    run = api.one(f"/flow_runs/{finished.run}")
    assert run["name"] == "AAPL MSFT BINANCE:BTCUSDT · 5s"
    assert sorted(run["tags"]) == sorted(["stocktrace", *TICKERS])


def test_the_report_is_an_artifact_of_the_run(finished: Finished, api: Api) -> None:
    report = api.artifact(finished.run, "stocktrace-report")
    assert report["task_run_id"] is not None
    assert report["description"] == "complete: 900 trades recorded"
    assert "| received | 900 |" in report["data"]
    assert "The books balance." in report["data"]
    for ticker in TICKERS:
        trades = finished.report.per_ticker[ticker].trades
        assert f"| {ticker} | {trades:,} | {trades:,} | 0 | {trades:,} |" in report["data"]


def test_progress_is_complete_when_the_capture_is(finished: Finished, api: Api) -> None:
    progress = api.artifact(finished.run, "stocktrace-progress")
    assert progress["data"] == 100.0
    assert "900 trades · 3 tickers" in progress["description"]


def test_messages_of_the_core_are_in_the_run(finished: Finished, api: Api) -> None:
    def message() -> list[dict[str, Any]]:
        logs = api.of_run("logs", finished.run)
        return [log for log in logs if log["name"] == "stocktrace.record.journal"]

    assert "connected, 3 tickers subscribed" in [log["message"] for log in eventually(message)]


def test_the_key_is_nowhere(finished: Finished, api: Api) -> None:
    run = finished.run
    eventually(lambda: api.of_run("logs", run))
    resource = {"id": [f"prefect.flow-run.{run}"]}
    everything = {
        "run": api.one(f"/flow_runs/{run}"),
        "states": api.one(f"/flow_run_states/?flow_run_id={run}"),
        "events": api.all("events", limit=50, filter={"any_resource": resource}),
        **{what: api.of_run(what, run) for what in ("task_runs", "artifacts", "logs")},
    }
    assert all(everything.values())
    assert KEY not in json.dumps(everything)
    files = [path for path in finished.folder.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


# ------------------------------------------------------------------------ a capture that fails


def test_a_refused_key_fails_the_run_with_one_sentence(
    server: str, exchange: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.capture import capture

    monkeypatch.setenv("FINNHUB_API_KEY", "another")
    state = capture(
        ["AAPL"], "30s", url=exchange.url, data_dir=str(tmp_path / "data"), return_state=True
    )
    assert (state.type.value, state.message) == ("FAILED", str(KeyRefused(401)))


def test_a_failed_capture_has_its_report(
    server: str, api: Api, exchange: Simulator, tmp_path: Path
) -> None:
    from flows.capture import capture

    folder = tmp_path / "data"
    url = exchange.url
    exchange.stop()
    state = capture(["AAPL"], "2s", url=url, data_dir=str(folder), return_state=True)
    report = the_report(folder)
    assert state.type.value == "FAILED"
    assert state.message == f"Session {report.session}: {report.reason}"
    artifact = api.artifact(str(state.state_details.flow_run_id), "stocktrace-report")
    assert artifact["data"].startswith(f"# Failed: {escape_markdown(report.reason)}")


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"duration": "5s", "until": "16:00"}, "not both"),
        ({}, "not both"),
        ({"until": "2020-01-01T16:00+00:00"}, "has passed"),
        ({"duration": "5s", "roll_interval": "999d"}, "--roll-interval"),
    ],
)
def test_a_wrong_request_fails_before_anything_is_made(
    server: str, key: str, tmp_path: Path, asked: dict[str, str], sentence: str
) -> None:
    from flows.capture import capture

    state = capture(["AAPL"], data_dir=str(tmp_path / "data"), return_state=True, **asked)
    assert state.type.value == "FAILED"
    assert sentence in str(state.message)
    assert list(tmp_path.iterdir()) == []


def test_an_address_with_a_key_is_not_a_parameter() -> None:
    from flows.capture import capture

    with pytest.raises(Exception, match="url"):
        capture.validate_parameters({"tickers": ["AAPL"], "url": "wss://ws.finnhub.io?token=abc"})


# --------------------------------------------------------------------- Prefect comes and goes


def test_a_capture_does_not_need_a_server(
    server: str, api: Api, exchange: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import capture as module
    from flows import progress

    def gone(*args: object, **named: object) -> None:
        raise ConnectionError("the server is gone")

    for name in ("get_client", "create_progress_artifact", "create_markdown_artifact"):
        monkeypatch.setattr(progress, name, gone)
    monkeypatch.setattr(module.convert, "submit", gone)
    folder = tmp_path / "data"
    state = module.capture(
        TICKERS,
        "3s",
        url=exchange.url,
        data_dir=str(folder),
        roll_interval="1s",
        return_state=True,
    )
    report = the_report(folder)
    assert state.is_completed(), state
    assert (report.state, report.unpublished, report.differences()) == ("complete", [], [])
    assert report.books.trades > 0
    run = str(state.state_details.flow_run_id)

    def away() -> list[str]:
        texts = [log["message"] for log in api.of_run("logs", run)]
        return [text for text in texts if text.startswith("Prefect cannot be updated")]

    assert eventually(away) == ["Prefect cannot be updated (ConnectionError); recording continues"]


def test_a_conversion_that_prefect_lost_is_done_without_prefect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import capture as module

    class Lost:
        def result(self) -> None:
            raise RuntimeError("no state")

    done: list[WindowId] = []
    monkeypatch.setattr(module, "publish_window", lambda _, part, *, whole: done.append(part))
    part = WindowId("20261123T142958Z_3f9a1c", "20261123T143000Z_00002")
    monkeypatch.setattr(module.convert, "submit", lambda *_, **__: Lost())
    module.WindowConversion(Layout(tmp_path), part, whole=True).result()
    assert done == [part]


def test_a_lost_lease_does_not_end_a_capture(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the shield the line after the wait is never reached."""
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.concurrency import _leases
    from prefect.context import FlowRunContext
    from prefect.states import Running

    from flows import capture as module

    monkeypatch.setattr(_leases, "_RENEWAL_MAX_ATTEMPTS", 1)
    failed = threading.Event()
    handle = _leases._handle_lease_renewal_failure

    def fail(*args: Any) -> None:
        failed.set()
        handle(*args)

    monkeypatch.setattr(_leases, "_handle_lease_renewal_failure", fail)
    state: State[Any] = Running()
    state.state_details.deployment_concurrency_lease_id = uuid4()
    run = FlowRun.model_construct(id=uuid4(), flow_id=uuid4(), state=state)
    reached = False

    def work() -> None:
        nonlocal reached
        with (
            ExitStack() as shield,
            _leases.maintain_concurrency_lease(uuid4(), 300, raise_on_lease_renewal_failure=True),
        ):
            monkeypatch.setattr(module, "_SHIELD", shield)
            with FlowRunContext.model_construct(flow_run=run):  # type: ignore[call-arg]
                module._shield_from_lease_loss()
            failed.wait(60)
            for _ in range(100_000):  # enough for an exception that another thread threw
                reached = False
            reached = True

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(120)
    assert (failed.is_set(), reached) == (True, True)


# ---------------------------------------------------------------------------- cancel and signals


def test_a_cancelled_script_stops_cleanly(
    server: str, exchange: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import get_client, runtime
    from prefect.states import Cancelling

    from flows import capture as module
    from flows import progress

    monkeypatch.setattr(progress, "CANCEL_CHECK_INTERVAL_S", 0.2)
    watch = progress.ProgressReporter.on_status

    def cancel_when_trades_come(self: progress.ProgressReporter, status: CaptureStatus) -> None:
        if status.trades:
            client = get_client(sync_client=True)
            client.set_flow_run_state(UUID(runtime.flow_run.id), Cancelling(), force=True)
            monkeypatch.setattr(progress.ProgressReporter, "on_status", watch)
        watch(self, status)

    monkeypatch.setattr(progress.ProgressReporter, "on_status", cancel_when_trades_come)
    folder = tmp_path / "data"
    state = module.capture(
        TICKERS, "250s", url=exchange.url, data_dir=str(folder), return_state=True
    )
    report = the_report(folder)
    assert state.type.value == "CANCELLED"
    assert (report.state, report.reason) == ("interrupted", "cancelled in Prefect")
    assert (report.unpublished, report.differences()) == ([], [])


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_58_a_signal_leaves_sealed_data(
    server: str,
    api: Api,
    exchange: Simulator,
    tmp_path: Path,
    number: signal.Signals,
    status: int,
) -> None:
    from prefect.settings import get_current_settings

    folder = tmp_path / "data"
    words = [*TICKERS, "--for", "250s", "--roll-interval", "1s", "--url", exchange.url]
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.capture", *words, "--data-dir", str(folder)],
        env={**os.environ, **get_current_settings().to_environment_variables(exclude_unset=True)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        eventually(lambda: list(folder.glob("parquet/*/*.parquet")), within=120)
        process.send_signal(number)
        output, _ = process.communicate(timeout=90)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == status, output
    report = the_report(folder)
    assert (report.state, report.differences()) == ("interrupted", [])
    assert list(folder.rglob("*.csv.open")) == []
    assert recount(folder, report) == report.books.recorded > 0
    (run,) = [
        one for one in api.all("flow_runs") if one["parameters"].get("data_dir") == str(folder)
    ]
    assert run["state_type"] == "CRASHED"


A_RUN = """
import json, sys
from flows.capture import capture
capture(**json.loads(sys.argv[1]))
"""


@pytest.mark.slow
def test_116_a_run_continues_when_nobody_reads_its_output_any_more(
    server: str, key: str, tmp_path: Path
) -> None:
    """As when the worker that started it was killed."""
    from prefect.settings import get_current_settings

    folder = tmp_path / "data"
    exchange = Simulator(replace(MARKET, trades=None), SimulatorSettings(key=key, keep=True))
    asked = {"tickers": TICKERS, "duration": "12s", "roll_interval": "1s", "data_dir": str(folder)}
    with exchange:
        process = subprocess.Popen(
            [sys.executable, "-c", A_RUN, json.dumps({**asked, "url": exchange.url})],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                **get_current_settings().to_environment_variables(exclude_unset=True),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            eventually(lambda: list(folder.glob("parquet/*/*.parquet")), within=120)
            process.stdout.close()
            process.stderr.close()
            windows = len(the_report(folder).windows)
            assert process.wait(90) == 0
        finally:
            process.kill()
            process.wait()
    report = the_report(folder)
    assert (report.state, report.differences(), report.unpublished) == ("complete", [], [])
    assert len(report.windows) > windows + 1
    assert recount(folder, report) == report.books.recorded > 0
    kept = taped(folder)
    assert kept == exchange.connections[0].frames[: len(kept)]


def recount(folder: Path, report: SessionReport) -> int:
    """The trades of a session in Parquet, after what was left sealed is published."""
    from stocktrace.record.publish import publish_window

    for window in report.unpublished:
        publish_window(Layout(folder), WindowId(report.session, window))
    return sum(len(recorded(folder, ticker)) for ticker in report.per_ticker)


# ------------------------------------------------------------------------------ the command line


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Set a duration"),
        (["AAPL", "--for", "5s", "--until", "16:00"], "Set a duration"),
        (["--for", "5s"], "Name at least one ticker"),
        (["AAPL", "--for", "soon"], "'soon' is not a duration"),
        (["AAPL", "--for", "5s", "--url", "http://x"], "is not a WebSocket address"),
        (["AAPL", "--for", "5s", "--nope"], "--nope"),
        (["AAPL", "--for", "5s", "--market", "uk"], "--market"),
        (["AAPL", "--for", "5s", "--wait-for-key", "soon"], "'soon' is not a duration"),
        (["AAPL", "--for", "5s", "--lake", "nowhere"], "This is not the URL of a lake"),
    ],
)
def test_wrong_usage_is_one_sentence_and_status_2(
    key: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert command.main(words) == 2
    finally:
        signal.signal(signal.SIGTERM, before)
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(r"stocktrace: [^\n]+\n", err)
    assert sentence in err
    assert list(tmp_path.iterdir()) == []


def test_wrong_usage_and_help_do_not_import_prefect() -> None:
    code = (
        "import sys; from flows.command import main; "
        "main(['--help']); main(['AAPL', '--for', 'soon']); print('prefect' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"


LOADING = """
import runpy, signal, sys

class Finder:
    def find_spec(name, path=None, target=None):
        if name == module:
            signal.raise_signal(signal.SIGINT)

module = sys.argv.pop(1)
sys.meta_path.insert(0, Finder)
runpy.run_module("flows.capture", run_name="__main__")
"""


@pytest.mark.parametrize("module", ["cyclopts", "prefect.flows"])
def test_59_ctrl_c_while_modules_are_loaded_is_one_sentence(key: str, module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADING, module, "AAPL", "--for", "5s"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stocktrace: interrupted\n")


def test_the_command_takes_what_the_flow_takes(key: str) -> None:
    from flows.capture import capture

    names = {"for_": "duration"}
    taken = [names.get(name, name) for name in inspect.signature(command.run).parameters]
    assert set(taken) == set(capture.parameters.properties)


def test_while_its_market_is_closed_a_run_is_skipped_without_a_failure(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def closed(*_: object) -> None:
        raise MarketClosed("The US market is closed today.")

    monkeypatch.setattr(calendar, "check_schedule", closed)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert command.main(["AAPL", "--until", "close", "--market", "us"]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capfd.readouterr().out == "Skipped: The US market is closed today.\n"
    assert list(tmp_path.iterdir()) == []


def test_until_is_resolved_when_the_command_is_given(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server takes seconds to start, and midnight may come in the meantime."""
    import prefect.flows
    from prefect.states import Failed

    meant = datetime.now(UTC) + timedelta(minutes=1)
    given: list[str | None] = []

    def capture(
        tickers: object, duration: str | None, until: str | None, *_: Any, **__: Any
    ) -> Any:
        given.append(until)
        return Failed(message="enough")

    monkeypatch.setattr("stocktrace.end_time.parse_until", lambda text, now: meant)
    monkeypatch.setattr(command, "_start_server", lambda: None)
    monkeypatch.setattr(prefect.flows, "load_flow_from_entrypoint", lambda _: capture)
    assert command.run("AAPL", until="tomorrow 00:01 UTC") == 1
    assert given == [meant.isoformat()]


def test_a_missing_key_is_wrong_usage(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FINNHUB_API_KEY")
    with pytest.raises(SettingsError, match="Set FINNHUB_API_KEY"):
        check_capture(["AAPL"], "5s")


def test_a_failed_run_is_status_1(
    server: str,
    exchange: Simulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FINNHUB_API_KEY", "another")
    before = signal.getsignal(signal.SIGTERM)
    words = ["AAPL", "--for", "5s", "--url", exchange.url, "--data-dir", str(tmp_path / "data")]
    try:
        assert command.main(words) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capfd.readouterr().err.endswith(f"stocktrace: {KeyRefused(401)}\n")


def test_settings_of_the_user_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in flows.DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_LOGGING_EXTRA_LOGGERS", "mine")
    reload(flows)
    assert {name: os.environ[name] for name in flows.DEFAULTS} == {
        **flows.DEFAULTS,
        "PREFECT_LOGGING_EXTRA_LOGGERS": "mine",
    }


# ------------------------------------------------------------------------------- the deployments


def deployments() -> list[dict[str, Any]]:
    return list(yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"])


@pytest.mark.parametrize("deployment", deployments(), ids=lambda one: str(one["name"]))
def test_a_deployment_asks_for_what_its_flow_takes(key: str, deployment: dict[str, Any]) -> None:
    module, _, name = deployment["entrypoint"].rpartition(".")
    # What stands in no file is asked for in the form.
    forms: dict[str, dict[str, Any]] = {
        "retarget": {"symbols": ["TSLA"]},
        "fleet": {"tickers": ["AAPL"], "keys": 1, "lake": "s3://bucket/prefix"},
        "shard": {"tickers": ["AAPL"], "duration": "1s"},
    }
    given = deployment.get("parameters", forms.get(deployment["name"], {}))
    asked = getattr(import_module(module), name).validate_parameters(given)
    if deployment["entrypoint"] != "flows.capture.capture":
        return
    opening = datetime(2026, 11, 23, 9, 25, tzinfo=ZoneInfo("America/New_York"))
    if asked.get("until") is not None:
        # It may have passed for today; whether it is understood is what matters.
        assert parse_until(asked["until"], opening) > opening
        asked |= {"until": None, "duration": "1s"}
    calendar.check_schedule(asked.pop("market"), asked["tickers"], opening)
    assert check_capture(**asked)[0] == tuple(given["tickers"])


def test_the_environment_of_a_worker_is_that_of_a_script() -> None:
    for deployment in deployments():
        env = deployment["work_pool"]["job_variables"]["env"]
        assert env == {name: flows.DEFAULTS[name] for name in env}
        assert set(flows.DEFAULTS) - set(env) == {
            "DO_NOT_TRACK",
            "PREFECT_SERVER_ANALYTICS_ENABLED",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE",
            "PREFECT_SERVER_EPHEMERAL_ENABLED",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS",
        }


# ---------------------------------------------------------------- a real server and a real worker


@dataclass(frozen=True, slots=True)
class Running:
    """A station with all deployments and a worker."""

    place: Station
    api: Api

    @property
    def folder(self) -> Path:
        return self.place.folder

    def start(self, deployment: str, **parameters: Any) -> str:
        return self.place.start(deployment, **parameters)

    def ended(self, run: str) -> dict[str, Any]:
        return self.place.ended(self.api, run)


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = Station(tmp_path_factory.mktemp("station"), KEY)
    with place.server() as api:
        place.deploy()
        with place.worker():
            yield Running(place, api)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_deployed_capture_completes(station: Running, exchange: Simulator) -> None:
    run = station.ended(
        station.start(
            "ad-hoc", tickers=TICKERS, duration="5s", roll_interval="2s", url=exchange.url
        )
    )
    assert (run["state_type"], run["name"]) == ("COMPLETED", "AAPL MSFT BINANCE:BTCUSDT · 5s")
    assert set(run["tags"]) == {"stocktrace", *TICKERS}
    report = the_report(station.folder / "data")
    assert (report.state, report.unpublished, report.differences()) == ("complete", [], [])
    assert recount(station.folder / "data", report) == report.books.trades > 0
    messages = eventually(lambda: station.api.of_run("logs", run["id"]))
    assert "connected, 3 tickers subscribed" in [one["message"] for one in messages]
    assert KEY not in json.dumps([run, messages, station.api.of_run("artifacts", run["id"])])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cancelled_deployed_capture_keeps_what_it_received(station: Running, key: str) -> None:
    folder = station.folder / "cancelled"
    market = replace(MARKET, trades=None)
    with Simulator(market, SimulatorSettings(key=key, keep=True)) as exchange:
        run = station.place.record(folder, exchange.url, TICKERS)
        station.place.prefect("flow-run", "cancel", run)
        assert station.ended(run)["state_type"] == "CANCELLED"
        exchange.wait_for(lambda one: one.open_connections == 0, timeout=30)
    report = the_report(folder)
    assert (report.state, report.differences()) == ("interrupted", [])
    assert recount(folder, report) == report.books.trades > 0
    truth = [(one["s"], (one["p"], one["v"], one["t"])) for one in sent(exchange)]
    for ticker in TICKERS:
        kept = recorded(folder, ticker)
        assert kept == [trade for symbol, trade in truth if symbol == ticker][: len(kept)]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_schedule_makes_runs(station: Running) -> None:
    """With SQLAlchemy 2.1, Prefect 3.8 takes the schedule and never makes a run of it."""

    def scheduled() -> list[dict[str, Any]]:
        asked = {"state": {"type": {"any_": ["SCHEDULED"]}}}
        runs = station.api.all("flow_runs", flow_runs=asked)
        return [run for run in runs if "us" in run["tags"]]  # not those of the nightly upkeep

    zone = ZoneInfo("America/New_York")
    times = [moment(run["expected_start_time"]) for run in eventually(scheduled, within=90)]
    assert "09:25" in {f"{time.astimezone(zone):%H:%M}" for time in times}
