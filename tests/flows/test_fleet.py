"""What a fleet does when its flow runs end this way or that; the server is a table of states."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

import stocktrace
from stocktrace.live.fleet import Fleet, Shard

if TYPE_CHECKING:
    from prefect.client.schemas.objects import StateType

    from flows.fleet import FleetRuns

HEARTBEAT = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)


class Server:
    """Flow runs and their states; remembers what was started and sent.

    ``fails`` says before which calls the answer is lost, and ``late`` after which of them: then
    it was done all the same.
    """

    def __init__(self) -> None:
        self.states: dict[UUID, StateType] = {}
        self.keys: dict[str, Any] = {}
        self.started: list[tuple[str, list[str]]] = []
        self.sent: list[tuple[UUID, list[str]]] = []
        self.shown: list[str] = []
        self.fails: set[str] = set()
        self.late: set[str] = set()

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        if name in self.fails:
            raise ConnectionError
        yield
        if name in self.late:
            raise TimeoutError

    def run_deployment(
        self, name: str, parameters: dict[str, Any], timeout: float, idempotency_key: str
    ) -> Any:
        from prefect.client.schemas.objects import StateType

        assert timeout == 0
        with self.call("start"):
            if idempotency_key not in self.keys:
                run = SimpleNamespace(id=uuid4(), name=f"run{len(self.started)}")
                self.states[run.id] = StateType.RUNNING
                self.started.append((name, parameters["tickers"]))
                self.keys[idempotency_key] = run
            return self.keys[idempotency_key]

    def read_flow_run(self, run: UUID) -> Any:
        from prefect.exceptions import ObjectNotFound

        with self.call("read"):
            if run not in self.states:
                raise ObjectNotFound(Exception())
            (name,) = [one.name for one in self.keys.values() if one.id == run]
            return SimpleNamespace(name=name, state=SimpleNamespace(type=self.states[run]))

    def read_events(self, *_: object, limit: int) -> Any:
        assert limit == 1
        with self.call("events"):
            return SimpleNamespace(events=[SimpleNamespace(occurred=HEARTBEAT)])

    def set_flow_run_state(self, run: UUID, state: Any) -> None:
        with self.call("cancel"):
            self.states[run] = state.type

    def send(self, command: Any, run: UUID) -> None:
        assert command.action == "add"
        with self.call("send"):
            self.sent.append((run, command.symbols))

    def show(self, text: str, _: str) -> None:
        with self.call("show"):
            self.shown.append(text)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    from flows import fleet
    from flows.retarget import TickerCommand

    server = Server()

    def send(command: Any, run: UUID) -> None:  # a bound method would not get the command
        server.send(command, run)

    # Prefect reads all its settings anew for that, 20 ms each time.
    monkeypatch.setattr(fleet, "temporary_settings", lambda _: nullcontext())
    monkeypatch.setattr(fleet, "run_deployment", server.run_deployment)
    monkeypatch.setattr(TickerCommand, "send_to", send)
    monkeypatch.setattr(fleet, "create_markdown_artifact", server.show)
    return server


def runs_of(*shards: list[str], limit: int = 3, remaining_s: float = 600.0) -> FleetRuns:
    from flows.fleet import FleetRuns

    end = datetime.now(UTC) + timedelta(seconds=remaining_s)
    runs = FleetRuns(Fleet(end, limit, {}), {"url": None})
    for number, tickers in enumerate(shards):
        runs.fleet.add(f"capture/{number}", Shard(list(tickers), 1.0))
    return runs


def started(
    server: Any, *shards: list[str], limit: int = 3, remaining_s: float = 600.0
) -> FleetRuns:
    runs = runs_of(*shards, limit=limit, remaining_s=remaining_s)
    assert runs.check(server)
    assert runs.check(server)
    return runs


def end(server: Any, runs: FleetRuns, number: int, state: str) -> None:
    from prefect.client.schemas.objects import StateType

    run = runs.fleet.runs[number].run
    assert run is not None
    server.states[run] = StateType(state)


def test_survivors_with_room_take_over(server: Any) -> None:
    runs = started(server, ["A", "B"], ["C"])
    assert runs.check(server)
    end(server, runs, 0, "CRASHED")
    assert runs.check(server)
    assert server.sent == [(runs.fleet.runs[1].run, ["A", "B"])]
    assert runs.fleet.lost_at == dict.fromkeys("AB", int(HEARTBEAT.timestamp() * 10**9))
    assert runs.fleet.runs[1].shard.tickers == ["C", "A", "B"]
    assert runs.check(server), "it is taken over once"
    assert len(server.sent) == 1
    end(server, runs, 1, "COMPLETED")
    assert not runs.check(server)


def test_tickers_without_room_get_one_new_run_of_the_same_deployment(server: Any) -> None:
    runs = started(server, ["A", "B"], ["C", "D"])
    runs.check(server)
    end(server, runs, 0, "FAILED")
    runs.check(server)
    assert server.sent == [(runs.fleet.runs[1].run, ["A"])]
    assert server.started[2:] == [("capture/0", ["B"])]
    end(server, runs, 2, "FAILED")
    runs.check(server)
    assert len(server.started) == 3
    assert runs.fleet.abandoned == {"B"}
    end(server, runs, 1, "COMPLETED")
    assert not runs.check(server)


def test_a_shard_that_was_cancelled_is_not_taken_over(server: Any) -> None:
    runs = started(server, ["A"], ["B"])
    runs.check(server)
    end(server, runs, 0, "CANCELLED")
    runs.check(server)
    assert (server.sent, server.started[2:], runs.fleet.lost_at) == ([], [], {})


def test_a_shard_that_fails_at_its_end_time_is_not_taken_over(server: Any) -> None:
    from flows.fleet import result

    runs = started(server, ["A"], ["B"], remaining_s=1.0)
    runs.check(server)
    end(server, runs, 0, "FAILED")
    end(server, runs, 1, "COMPLETED")
    assert not runs.check(server)
    assert (server.sent, server.started[2:]) == ([], [])
    failed: Any = result(runs.fleet, "file:///nowhere")
    assert failed.message == "run0 failed: see their flow runs."


@pytest.mark.parametrize("call", ["start", "read", "events", "send", "show"])
@pytest.mark.parametrize("how", ["fails", "late"])
def test_each_ticker_is_reassigned_once_whichever_call_fails(
    server: Any, call: str, how: str
) -> None:
    runs = started(server, ["A", "B"], ["C", "D"])
    away = getattr(server, how)
    end(server, runs, 0, "CRASHED")
    away.add(call)
    for _ in range(3):
        assert runs.check(server)
    assert runs.outage.failures >= 3
    away.clear()
    assert runs.check(server)
    assert runs.check(server)
    # What was sent again changes nothing there: it is the same to the same run.
    assert {(run, *some) for run, some in server.sent} == {(runs.fleet.runs[1].run, "A")}
    assert server.started[2:] == [("capture/0", ["B"])]
    assert [one.shard.tickers for one in runs.fleet.runs] == [[], ["C", "D", "A"], ["B"]]
    assert runs.fleet.lost_at == dict.fromkeys("AB", int(HEARTBEAT.timestamp() * 10**9))
    assert f"Prefect did not answer {runs.outage.failures} calls." in server.shown[-1]
    for number in (1, 2):
        end(server, runs, number, "COMPLETED")
    assert not runs.check(server)
    assert not runs.fleet.abandoned


def test_a_fleet_starts_each_shard_once_however_often_it_asks(server: Any) -> None:
    runs = runs_of(["A"], ["B"])
    server.late.add("start")
    assert runs.check(server)
    server.late.clear()
    assert runs.check(server)
    assert server.started == [("capture/0", ["A"]), ("capture/1", ["B"])]


def test_a_run_is_named_by_what_it_records(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import fleet

    def named(**asked: Any) -> str:
        flow_run = SimpleNamespace(parameters=asked)
        monkeypatch.setattr(fleet, "runtime", SimpleNamespace(flow_run=flow_run))
        return fleet.run_name()

    assert named(tickers=["A"], keys=1, duration="30m") == "1 ticker, 1 key · 30m"
    assert named(tickers=["A", "B"], keys=2, until="close") == "2 tickers, 2 keys · until close"
    assert named() == "0 tickers, 0 keys · until "


def test_a_fleet_that_starts_early_counts_from_its_scheduled_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    class Known(Exception):
        """When it ends is known."""

    def make(fleet: Fleet, parameters: dict[str, str]) -> None:
        raise Known(parameters["until"], fleet.end)

    from flows import fleet

    scheduled = datetime.now(UTC) + timedelta(seconds=30)
    flow_run = SimpleNamespace(scheduled_start_time=scheduled, parameters={})
    monkeypatch.setattr(fleet, "runtime", SimpleNamespace(flow_run=flow_run))
    monkeypatch.setattr(fleet, "FleetRuns", make)
    end = scheduled + timedelta(hours=1)
    with pytest.raises(Known) as known:
        fleet.fleet.fn(["A"], 1, f"file://{tmp_path}", duration="1h")
    assert known.value.args == (end.isoformat(), end)


def test_an_outage_is_logged_once_and_on_the_page_until_it_ends(
    server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    runs = started(server, ["A"], ["B"])
    end(server, runs, 0, "CRASHED")
    server.fails.add("send")
    with caplog.at_level(logging.INFO, "stocktrace"):
        runs.check(server)
        runs.check(server)
        assert "**Not handed over yet:** A" in server.shown[-1]
        server.fails.clear()
        runs.check(server)
        runs.check(server)
    assert [one.message for one in caplog.records] == [
        "shard run0 is lost: run1 takes 1 ticker",
        "Prefect cannot be asked (ConnectionError); recording continues",
        "shard run1 was sent 1 ticker",
        "Prefect can be asked again; 2 calls failed",
    ]
    assert "Not handed over" not in server.shown[-1]


@pytest.mark.parametrize("state", ["CRASHED", "CANCELLED"])
def test_tickers_that_an_ended_shard_was_not_sent_are_reassigned(server: Any, state: str) -> None:
    runs = started(server, ["A"], ["B"], ["C", "D", "E"])
    end(server, runs, 0, "CRASHED")
    server.fails.add("send")
    runs.check(server)
    assert runs.fleet.runs[1].unsent == ["A"]
    end(server, runs, 1, state)
    runs.check(server)
    server.fails.clear()
    runs.check(server)
    assert server.sent == []
    assert server.started[3:] == [("capture/1", ["A", "B"] if state == "CRASHED" else ["A"])]


def test_tickers_that_could_not_be_sent_in_time_are_named(server: Any) -> None:
    runs = started(server, ["A"], ["B"])
    end(server, runs, 0, "CRASHED")
    server.fails.add("send")
    runs.check(server)
    runs.fleet.end = datetime.now(UTC)
    end(server, runs, 1, "COMPLETED")
    assert not runs.check(server)
    assert runs.fleet.abandoned == {"A"}
    assert "**Not captured any more:** A" in server.shown[-1]


def test_a_shard_that_no_worker_started_in_time_ends_with_the_fleet_and_is_named(
    server: Any,
) -> None:
    runs = started(server, ["A"], ["B"])
    end(server, runs, 0, "SCHEDULED")
    runs.check(server)
    runs.fleet.end = datetime.now(UTC)
    end(server, runs, 1, "COMPLETED")
    server.fails.add("cancel")
    assert runs.check(server), "it might still be started"
    server.fails.clear()
    assert not runs.check(server)
    assert server.states[runs.fleet.runs[0].run] == "CANCELLED"
    assert runs.fleet.abandoned == {"A"}
    assert set(runs.fleet.lost_at) == {"A"}


def test_a_run_that_was_deleted_in_prefect_neither_ends_nor_delays_the_fleet(server: Any) -> None:
    runs = started(server, ["A"], ["B"])
    del server.states[runs.fleet.runs[0].run]
    assert runs.check(server)
    end(server, runs, 1, "COMPLETED")
    assert not runs.check(server)
    assert (server.sent, server.started[2:], runs.fleet.abandoned) == ([], [], set())


def test_the_result_names_the_gaps_and_where_everything_is(server: Any, tmp_path: Any) -> None:
    from flows.fleet import LOST, result

    runs = started(server, ["A"], ["B"])
    runs.check(server)
    end(server, runs, 0, "CRASHED")
    runs.check(server)
    runs.fleet.lost_at = {"A": int((datetime.now(UTC) - timedelta(seconds=9)).timestamp() * 10**9)}
    end(server, runs, 1, "COMPLETED")
    runs.check(server)
    lake = f"file://{tmp_path}/lake"
    state: Any = result(runs.fleet, lake)
    assert state.message == "2 shards recorded, 1 gap between them."
    came = state.data
    assert (came["lake"], came["gaps"]) == (lake, 1)
    assert [one["tickers"] for one in came["shards"].values()] == [[], ["B", "A"]]

    assert list(stocktrace.read_gaps("A", data_dir=lake)["reason"]) == [LOST]
