"""Other tickers through Prefect: the flow that sends, and the thread that takes over."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from stocktrace.live.control import CaptureControl, ChangeRequest
from stocktrace.query.coverage import read_coverage
from stocktrace.sessions.report import SessionReport
from stocktrace.simulator import Simulator, SimulatorSettings, SyntheticMarket
from tests.station import Station
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(300)  # the first to come waits for Prefect's import and its server

KEY = "c9k3yth4tmustn0tleak"


@pytest.fixture
def begun(server: str) -> Iterator[Callable[[str], UUID]]:
    """Makes flow runs of a name that count as captures that run."""
    from prefect import get_client
    from prefect.states import Completed, Running

    from flows.capture import capture

    with get_client(sync_client=True) as client:
        ids: list[UUID] = []

        def begin(name: str) -> UUID:
            run = client.create_flow_run(capture, name=name, state=Running())
            ids.append(run.id)
            return run.id

        yield begin
        for each in ids:
            client.set_flow_run_state(each, Completed(), force=True)


@pytest.fixture
def steered(monkeypatch: pytest.MonkeyPatch) -> Callable[[UUID | None], Any]:
    """A ``Steer`` as in the process of a flow run, with the handle that it moves."""
    from flows import retarget as module

    monkeypatch.setattr(module, "POLL_INTERVAL_S", 0.05)

    def make(run: UUID | None = None) -> Any:
        monkeypatch.setenv("PREFECT__FLOW_RUN_ID", str(run or UUID(int=0)))
        return module.TickerCommands(CaptureControl())

    return make


def taken(steer: Any, count: int = 1) -> list[ChangeRequest]:
    found: list[ChangeRequest] = []

    def enough() -> bool:
        found.extend(steer._control.take_changes())
        return len(found) >= count

    eventually(enough)
    return found


def test_a_command_reaches_each_running_capture_once_and_in_order(
    begun: Callable[[str], UUID], steered: Callable[[UUID], Any]
) -> None:
    from flows.retarget import retarget

    runs = {str(begun(name)): name for name in ("first", "second")}
    sent = retarget(["TSLA,NVDA", "TSLA"])
    assert isinstance(sent, dict)
    assert (sent["action"], sent["symbols"]) == ("add", ["TSLA", "NVDA"])
    assert runs.items() <= sent["sent_to"].items()
    retarget(["NVDA"], "remove")
    for run in runs:
        with steered(UUID(run)) as steer:
            assert taken(steer, 2) == [
                ChangeRequest("add", ("TSLA", "NVDA"), "prefect"),
                ChangeRequest("remove", ("NVDA",), "prefect"),
            ]
            retarget(["X"], "set", run)
            assert taken(steer) == [ChangeRequest("set", ("X",), "prefect")]


def test_one_capture_can_be_chosen_by_its_name(begun: Callable[[str], UUID]) -> None:
    from flows.retarget import retarget

    begun("other")
    run = begun("AAPL · 30m")
    sent = retarget(["TSLA"], flow_run="AAPL · 30m")
    assert isinstance(sent, dict)
    assert sent["sent_to"] == {str(run): "AAPL · 30m"}


def test_if_no_capture_runs_the_flow_fails_with_a_sentence(server: str) -> None:
    from flows.retarget import retarget

    state = retarget(["TSLA"], flow_run="nobody", return_state=True)
    assert state.is_failed()
    assert state.message == ("No capture nobody runs under this Prefect server: nothing was sent.")


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"symbols": []},
        {"symbols": ["é"]},
        {"symbols": ["A"], "action": "buy"},
        {"symbols": ["A"], "flow_run": ""},
    ],
    ids=str,
)
def test_the_form_refuses_wrong_values(asked: dict[str, Any]) -> None:
    """The server looks at the schema before it makes a run."""
    from prefect.utilities.callables import parameter_schema
    from prefect.utilities.schema_tools.validation import is_valid

    from flows.retarget import retarget

    schema = parameter_schema(retarget.fn).model_dump()
    assert is_valid({"symbols": ["A"], "action": "set", "flow_run": "x"}, schema)
    assert not is_valid(asked, schema)


class Flaky:
    """A handler of inputs that raises what it is told to, and then gives what there is."""

    def __init__(self) -> None:
        self.answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def __call__(self, *asked: Any, **named: Any) -> Flaky:
        return self

    def __next__(self) -> Any:
        try:
            answer = self.answers.get_nowait()
        except queue.Empty:
            raise StopIteration from None
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_an_outage_of_the_api_is_counted_and_ends_no_capture(
    steered: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from flows import retarget as module

    flaky = Flaky()
    monkeypatch.setattr(module, "receive_input", flaky)
    for answer in (ConnectionError(), TimeoutError(), RuntimeError("Prefect's own")):
        flaky.answers.put(answer)
    flaky.answers.put(module.TickerCommand(symbols=["TSLA"], action="set"))
    with caplog.at_level(logging.INFO, "stocktrace.flow"), steered() as steering:
        assert taken(steering) == [ChangeRequest("set", ("TSLA",), "prefect")]
        eventually(lambda: len(caplog.messages) == 2)
    assert steering.outage.failures == 3
    assert caplog.messages == [
        "Prefect cannot be asked for ticker changes (ConnectionError); recording continues",
        "Prefect can be asked for ticker changes again; 3 calls failed",
    ]
    assert not steering._thread.is_alive()


def test_an_invalid_command_is_logged_and_the_next_is_applied(
    begun: Callable[[str], UUID], steered: Callable[[UUID], Any], caplog: pytest.LogCaptureFixture
) -> None:
    from flows.retarget import TickerCommand

    run = begun("steered")
    with steered(run) as steer:
        TickerCommand(symbols=["é"]).send_to(run)
        TickerCommand(symbols=["TSLA"]).send_to(run)
        assert taken(steer) == [ChangeRequest("add", ("TSLA",), "prefect")]
    assert "a ticker change from Prefect is not valid: 'é' is not a ticker" in caplog.text


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_deployment_changes_the_tickers_of_a_deployed_capture(tmp_path: Path) -> None:
    """A server, a worker, and the command line beside them, at the same capture."""
    place = Station(tmp_path, KEY)
    market = SyntheticMarket(seed=7, rate=100.0)
    settings = SimulatorSettings(key=KEY, symbol_limit=3)
    folder = tmp_path / "data"
    with Simulator(market, settings) as exchange, place.server() as api:
        place.deploy()
        with place.worker():
            asked = {"tickers": ["AAPL", "MSFT"], "duration": "10m", "url": exchange.url}
            run = place.start("ad-hoc", data_dir=str(folder), **asked)
            exchange.wait_for(lambda one: len(one.subscriptions) == 2, timeout=120)
            words = ['-psymbols=["TSLA"]', "-paction=add"]
            place.prefect("deployment", "run", "stocktrace-retarget/retarget", *words, "--watch")
            exchange.wait_for(lambda one: "TSLA" in one.subscriptions, timeout=60)
            command = ["-m", "stocktrace", "tickers"]
            with place.process("cli", *command, "remove", "MSFT", "--data-dir", str(folder)) as cli:
                assert cli.wait(60) == 0
            exchange.wait_for(lambda one: set(one.subscriptions) == {"AAPL", "TSLA"})
            place.prefect("flow-run", "cancel", run)
            assert place.ended(api, run)["state_type"] == "CANCELLED"
        (path,) = folder.glob("sessions/*.json")
        report = SessionReport.read(path)
        messages = [one["message"] for one in api.of_run("logs", run)]
    changes = [(change.by, change.added, change.removed) for change in report.changes]
    assert changes == [("prefect", ["TSLA"], []), ("cli", [], ["MSFT"])]
    assert report.differences() == []
    assert {"tickers: +TSLA", "tickers: -MSFT"} <= set(messages)
    coverage = read_coverage(data_dir=folder)
    assert set(coverage["symbol"]) == {"AAPL", "MSFT", "TSLA"}
