"""What a fleet does when its flow runs end this way or that; the server is a table of states."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import StateType

import stocktrace
from flows import fleet as fleets
from flows.fleet import LOST, Fleet
from flows.steer import TickerCommand
from stocktrace.live.shards import Shard

HEARTBEAT = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)


class Server:
    """Flow runs and their states; remembers what was started and sent."""

    def __init__(self) -> None:
        self.states: dict[UUID, StateType] = {}
        self.started: list[tuple[str, list[str]]] = []
        self.sent: list[tuple[UUID, list[str]]] = []
        self.away = False

    def run_deployment(self, name: str, parameters: dict[str, Any], timeout: float) -> Any:
        assert timeout == 0
        run = SimpleNamespace(id=uuid4(), name=f"run{len(self.started)}")
        self.states[run.id] = StateType.RUNNING
        self.started.append((name, parameters["tickers"]))
        return run

    def read_flow_run(self, run: UUID) -> Any:
        if self.away:
            raise ConnectionError
        return SimpleNamespace(state=SimpleNamespace(type=self.states[run]))

    def read_events(self, *_: object, limit: int) -> Any:
        assert limit == 1
        return SimpleNamespace(events=[SimpleNamespace(occurred=HEARTBEAT)])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()

    def send(command: Any, run: UUID) -> None:
        assert command.action == "add"
        server.sent.append((run, command.symbols))

    monkeypatch.setattr(fleets, "run_deployment", server.run_deployment)
    monkeypatch.setattr(TickerCommand, "send_to", send)
    monkeypatch.setattr(fleets, "create_markdown_artifact", lambda *_, **__: None)
    return server


def started(*shards: list[str], limit: int = 3, left_s: float = 600.0) -> Fleet:
    fleet = Fleet({"url": None}, datetime.now(UTC) + timedelta(seconds=left_s), limit, {})
    for number, tickers in enumerate(shards):
        fleet.start(f"capture/{number}", Shard(list(tickers), 1.0))
    return fleet


def end(server: Any, fleet: Fleet, number: int, state: StateType) -> None:
    server.states[fleet.members[number].run] = state


def test_survivors_with_room_take_over(server: Any) -> None:
    fleet = started(["A", "B"], ["C"])
    assert fleet.look(server)
    end(server, fleet, 0, StateType.CRASHED)
    assert fleet.look(server)
    assert server.sent == [(fleet.members[1].run, ["A", "B"])]
    assert fleet.lost == dict.fromkeys("AB", int(HEARTBEAT.timestamp() * 10**9))
    assert fleet.members[1].shard.tickers == ["C", "A", "B"]
    assert fleet.look(server), "it is taken over once"
    assert len(server.sent) == 1
    end(server, fleet, 1, StateType.COMPLETED)
    assert not fleet.look(server)


def test_what_has_no_room_goes_to_a_new_run_of_the_same_deployment_once(server: Any) -> None:
    fleet = started(["A", "B"], ["C", "D"])
    fleet.look(server)
    end(server, fleet, 0, StateType.FAILED)
    fleet.look(server)
    assert server.sent == [(fleet.members[1].run, ["A"])]
    assert server.started[2:] == [("capture/0", ["B"])]
    end(server, fleet, 2, StateType.FAILED)
    fleet.look(server)
    assert len(server.started) == 3
    assert fleet.left == {"B"}
    end(server, fleet, 1, StateType.COMPLETED)
    assert not fleet.look(server)


def test_a_shard_that_was_cancelled_is_not_taken_over(server: Any) -> None:
    fleet = started(["A"], ["B"])
    fleet.look(server)
    end(server, fleet, 0, StateType.CANCELLED)
    fleet.look(server)
    assert (server.sent, server.started[2:], fleet.lost) == ([], [], {})


def test_a_shard_that_fails_when_its_time_is_up_is_not_taken_over(server: Any) -> None:
    fleet = started(["A"], ["B"], left_s=1.0)
    fleet.look(server)
    end(server, fleet, 0, StateType.FAILED)
    end(server, fleet, 1, StateType.COMPLETED)
    assert not fleet.look(server)
    assert (server.sent, server.started[2:]) == ([], [])
    failed: Any = fleet.result("file:///nowhere")
    assert failed.message == "run0 failed: see their flow runs."


def test_a_server_that_is_away_ends_no_fleet(server: Any) -> None:
    fleet = started(["A"])
    server.away = True
    assert fleet.look(server)
    server.away = False
    end(server, fleet, 0, StateType.COMPLETED)
    assert not fleet.look(server)


def test_the_result_names_the_gaps_and_where_everything_is(server: Any, tmp_path: Any) -> None:
    fleet = started(["A"], ["B"])
    fleet.look(server)
    end(server, fleet, 0, StateType.CRASHED)
    fleet.look(server)
    fleet.lost = {"A": int((datetime.now(UTC) - timedelta(seconds=9)).timestamp() * 10**9)}
    end(server, fleet, 1, StateType.COMPLETED)
    fleet.look(server)
    lake = f"file://{tmp_path}/lake"
    result: Any = fleet.result(lake)
    assert (result["lake"], result["gaps"]) == (lake, 1)
    assert [one["tickers"] for one in result["shards"].values()] == [[], ["B", "A"]]

    assert list(stocktrace.read_gaps("A", data_dir=lake)["reason"]) == [LOST]
