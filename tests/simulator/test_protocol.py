from __future__ import annotations

import json
from typing import get_args

import pytest

from stocktrace.simulator import ScriptedSource, Simulator, SimulatorSettings
from stocktrace.simulator.protocol import INVALID_MESSAGE, TOO_MANY_SYMBOLS, Subscriptions
from stocktrace.simulator.settings import Resubscribe
from tests.simulator.conftest import Dial, frame_of, numbered, prices


def ask(subscriptions: Subscriptions, kind: str, symbol: str) -> bytes | None:
    return subscriptions.receive(json.dumps({"type": kind, "symbol": symbol}))


def test_a_subscribe_is_not_acknowledged() -> None:
    subscriptions = Subscriptions()
    assert ask(subscriptions, "subscribe", "BINANCE:BTCUSDT") is None
    assert list(subscriptions.symbols) == ["BINANCE:BTCUSDT"]


def test_a_symbol_above_the_limit_is_refused_without_its_name() -> None:
    subscriptions = Subscriptions(limit=2)
    answers = [ask(subscriptions, "subscribe", symbol) for symbol in ("A", "B", "C", "A")]
    assert answers == [None, None, TOO_MANY_SYMBOLS, None]
    assert TOO_MANY_SYMBOLS == b'{"msg":"Subscribing to too many symbols","type":"error"}'
    assert list(subscriptions.symbols) == ["A", "B"]


def test_an_unsubscribed_symbol_makes_room_for_another() -> None:
    subscriptions = Subscriptions(limit=1)
    ask(subscriptions, "subscribe", "A")
    assert ask(subscriptions, "unsubscribe", "A") is None
    assert ask(subscriptions, "unsubscribe", "never asked for") is None
    assert ask(subscriptions, "subscribe", "B") is None
    assert list(subscriptions.symbols) == ["B"]


def test_a_symbol_that_is_subscribed_again_can_be_ignored_doubled_or_counted() -> None:
    ignored, doubled, counted = (
        Subscriptions(limit=2, resubscribe=kind) for kind in get_args(Resubscribe)
    )
    for subscriptions in (ignored, doubled, counted):
        answers = [ask(subscriptions, "subscribe", symbol) for symbol in ("A", "A", "B")]
        refusal = TOO_MANY_SYMBOLS if subscriptions is counted else None
        assert answers == [None, None, refusal]
    assert list(map(set, ignored.copies())) == [{"A", "B"}]
    assert doubled.copies() == [{"A", "B"}, {"A"}]
    assert list(map(set, counted.copies())) == [{"A"}]
    assert ask(counted, "unsubscribe", "A") is None
    assert ask(counted, "subscribe", "B") is None


def test_a_limit_of_zero_allows_any_number_of_symbols() -> None:
    subscriptions = Subscriptions(limit=0)
    for number in range(200):
        assert ask(subscriptions, "subscribe", f"S{number}") is None


def test_an_unknown_symbol_is_refused_with_or_without_its_name() -> None:
    unknown = {"FX:EURUSD"}
    assert ask(Subscriptions(unknown=unknown), "subscribe", "FX:EURUSD") == (
        b'{"msg":"Invalid symbol FX:EURUSD","type":"error"}'
    )
    assert ask(Subscriptions(unknown=unknown, names_invalid=False), "subscribe", "FX:EURUSD") == (
        b'{"msg":"Invalid symbol","type":"error"}'
    )


@pytest.mark.parametrize(
    "message",
    [
        "",
        "{",
        "[]",
        "null",
        '{"type":"subscribe"}',
        '{"type":"subscribe","symbol":1}',
        '{"type":"hello","symbol":"A"}',
        '{"symbol":"A"}',
        "[" * 100_000,
        b'{"type":"subscribe","symbol":"A"}',
    ],
)
def test_a_malformed_message_is_answered_by_an_error(message: str | bytes) -> None:
    subscriptions = Subscriptions()
    assert subscriptions.receive(message) == INVALID_MESSAGE
    assert not subscriptions.symbols


def test_a_symbol_that_is_not_a_ticker_is_invalid() -> None:
    answer = ask(Subscriptions(), "subscribe", "../etc\n")
    assert answer is not None
    assert json.loads(answer)["msg"].startswith("Invalid symbol")


def test_errors_leave_the_connection_open(dial: Dial) -> None:
    settings = SimulatorSettings(symbol_limit=1, unknown_symbols=frozenset({"NOPE"}))
    with Simulator(ScriptedSource(numbered(2)), settings) as simulator:
        client = dial(simulator)
        client.socket.send("no JSON")
        client.subscribe("NOPE", "AAPL", "MSFT")
        texts = [json.loads(frame)["msg"] for frame in client.frames(3)]
        assert texts == [
            "Invalid message",
            "Invalid symbol NOPE",
            "Subscribing to too many symbols",
        ]
        assert prices(client.trades(2)) == [1, 2]


def test_heartbeats_are_sent_without_a_subscription(dial: Dial) -> None:
    with Simulator(ScriptedSource([]), SimulatorSettings(ping_period=0.01)) as simulator:
        assert dial(simulator).frames(3) == [b'{"type":"ping"}'] * 3


def test_the_pings_of_rfc_6455_are_answered(dial: Dial) -> None:
    with Simulator(ScriptedSource([])) as simulator:
        assert dial(simulator).socket.ping().wait(5)


def test_only_subscribed_symbols_are_delivered(dial: Dial) -> None:
    script = ScriptedSource(
        [(1, frame_of(("AAPL", 1), ("MSFT", 2), ("AAPL", 3))), (2, frame_of(("X", 4)))]
    )
    with Simulator(script) as simulator:
        client = dial(simulator)
        client.subscribe("AAPL")
        assert client.frame() == frame_of(("AAPL", 1), ("AAPL", 3))
        assert simulator.finished.wait(5)
        simulator.send_raw("end")
        assert client.frame() == b"end"


def test_an_unsubscribed_symbol_is_no_longer_delivered(dial: Dial) -> None:
    with Simulator(ScriptedSource(numbered(10), speed=20)) as simulator:
        client = dial(simulator)
        client.subscribe("AAPL")
        client.trades(1)
        client.unsubscribe("AAPL")
        simulator.wait_for(lambda simulator: simulator.subscriptions == ())
        sent = simulator.sent_trades
        assert simulator.finished.wait(5)
        assert simulator.sent_trades == sent < 10
