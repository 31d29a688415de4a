from __future__ import annotations

import logging

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from stocktrace.errors import SettingsError
from stocktrace.simulator import ScriptedSource, Simulator, SimulatorSettings
from tests.exchange.conftest import Dial, numbered, prices

SCRIPT = ScriptedSource(numbered(3))


def refusal(exchange: Simulator, path: str) -> int:
    with pytest.raises(InvalidStatus) as refused:
        connect(exchange.url + path, proxy=None)
    return refused.value.response.status_code


@pytest.mark.parametrize("path", ["/?token=wrong", "/", "/?token=", "/?token=demo&token=demo"])
def test_a_wrong_or_missing_key_gets_401(path: str) -> None:
    with Simulator(SCRIPT) as exchange:
        assert refusal(exchange, path) == 401
        assert (exchange.dials, exchange.connections_made) == (1, 0)


def test_the_path_does_not_matter() -> None:
    with (
        Simulator(SCRIPT) as exchange,
        connect(f"{exchange.url}/any/path?x=1&token=demo", proxy=None) as client,
    ):
        assert client.ping().wait(5)


def test_compression_is_not_negotiated() -> None:
    with (
        Simulator(SCRIPT) as exchange,
        connect(f"{exchange.url}?token=demo", proxy=None) as client,
    ):
        assert client.response is not None
        assert "Sec-WebSocket-Extensions" not in client.response.headers


def test_a_second_connection_kills_the_old_one(dial: Dial) -> None:
    with Simulator(SCRIPT) as exchange:
        old = dial(exchange)
        new = dial(exchange)
        with pytest.raises(ConnectionClosed) as ended:
            old.frame()
        assert ended.value.rcvd is None  # no close frame
        exchange.wait_for(lambda exchange: exchange.open_connections == 1)
        new.subscribe("AAPL")
        assert prices(new.trades(3)) == [1, 2, 3]


def test_a_second_connection_can_be_refused_with_429(dial: Dial) -> None:
    settings = SimulatorSettings(second_connection="refused-429")
    with Simulator(SCRIPT, settings) as exchange:
        first = dial(exchange)
        assert refusal(exchange, "/?token=demo") == 429
        first.subscribe("AAPL")
        assert prices(first.trades(3)) == [1, 2, 3]


def test_two_connections_can_both_live(dial: Dial) -> None:
    settings = SimulatorSettings(second_connection="both-live", keep=True)
    with Simulator(SCRIPT, settings) as exchange:
        clients = [dial(exchange), dial(exchange)]
        for client in clients:
            client.subscribe("AAPL")
        assert [prices(client.trades(3)) for client in clients] == [[1, 2, 3]] * 2
        exchange.wait_for(lambda exchange: exchange.sent_trades == 6)


def test_the_key_is_not_logged(dial: Dial, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    settings = SimulatorSettings(key="s3cret-key")
    with Simulator(SCRIPT, settings) as exchange:
        client = dial(exchange)
        client.subscribe("AAPL")
        client.trades(3)
        assert "s3cret-key" not in repr(exchange) + repr(settings) + exchange.url
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
def test_settings_that_no_exchange_can_have_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        SimulatorSettings(**wrong)  # type: ignore[arg-type]
