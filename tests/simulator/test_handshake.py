from __future__ import annotations

import logging

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from stocktrace.errors import SettingsError
from stocktrace.simulator import ScriptedSource, Simulator, SimulatorSettings
from tests.simulator.conftest import Dial, numbered, prices

SCRIPT = ScriptedSource(numbered(3))


def refusal(simulator: Simulator, path: str) -> int:
    with pytest.raises(InvalidStatus) as refused:
        connect(simulator.url + path, proxy=None)
    return refused.value.response.status_code


@pytest.mark.parametrize("path", ["/?token=wrong", "/", "/?token=", "/?token=demo&token=demo"])
def test_a_wrong_or_missing_key_gets_401(path: str) -> None:
    with Simulator(SCRIPT) as simulator:
        assert refusal(simulator, path) == 401
        assert (simulator.dials, simulator.connections_made) == (1, 0)


def test_the_path_does_not_matter() -> None:
    with (
        Simulator(SCRIPT) as simulator,
        connect(f"{simulator.url}/any/path?x=1&token=demo", proxy=None) as client,
    ):
        assert client.ping().wait(5)


def test_compression_is_not_negotiated() -> None:
    with (
        Simulator(SCRIPT) as simulator,
        connect(f"{simulator.url}?token=demo", proxy=None) as client,
    ):
        assert client.response is not None
        assert "Sec-WebSocket-Extensions" not in client.response.headers


def test_a_second_connection_ends_the_old_one(dial: Dial) -> None:
    with Simulator(SCRIPT) as simulator:
        old = dial(simulator)
        new = dial(simulator)
        with pytest.raises(ConnectionClosed) as ended:
            old.frame()
        assert ended.value.rcvd is None  # no close frame
        simulator.wait_for(lambda simulator: simulator.open_connections == 1)
        new.subscribe("AAPL")
        assert prices(new.trades(3)) == [1, 2, 3]


def test_a_second_connection_can_be_refused_with_429(dial: Dial) -> None:
    settings = SimulatorSettings(second_connection="refused-429")
    with Simulator(SCRIPT, settings) as simulator:
        first = dial(simulator)
        assert refusal(simulator, "/?token=demo") == 429
        first.subscribe("AAPL")
        assert prices(first.trades(3)) == [1, 2, 3]


def test_two_connections_can_both_stay_open(dial: Dial) -> None:
    settings = SimulatorSettings(second_connection="both-live", keep=True)
    with Simulator(SCRIPT, settings) as simulator:
        clients = [dial(simulator), dial(simulator)]
        for client in clients:
            client.subscribe("AAPL")
        assert [prices(client.trades(3)) for client in clients] == [[1, 2, 3]] * 2
        simulator.wait_for(lambda simulator: simulator.sent_trades == 6)


def test_the_key_is_not_logged(dial: Dial, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    settings = SimulatorSettings(key="s3cret-key")
    with Simulator(SCRIPT, settings) as simulator:
        client = dial(simulator)
        client.subscribe("AAPL")
        client.trades(3)
        assert "s3cret-key" not in repr(simulator) + repr(settings) + simulator.url
    ours = [record for record in caplog.records if not record.name.startswith("websockets.client")]
    assert "s3cret-key" not in "".join(record.getMessage() for record in ours)


@pytest.mark.parametrize(
    "wrong",
    [
        {"key": ""},
        {"port": 65536},
        {"second_connection": "fights"},
        {"ping_period": -1.0},
        {"settle": -0.1},
        {"symbol_limit": -1},
    ],
)
def test_invalid_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        SimulatorSettings(**wrong)  # type: ignore[arg-type]
