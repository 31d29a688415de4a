from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from stocktrace.errors import SettingsError
from stocktrace.simulator import Fault, ScriptedSource, Simulator, SimulatorSettings
from tests.exchange.conftest import Client, Dial, frame_of, numbered, prices

SETTINGS = SimulatorSettings(settle=0.01, keep=True)


@pytest.fixture
def exchange() -> Iterator[Simulator]:
    with Simulator(ScriptedSource(numbered(100)), SETTINGS) as exchange:
        yield exchange


def ended(client: Client) -> tuple[list[float], int | None]:
    """The prices that came before the end, and the code of the close frame."""
    seen: list[float] = []
    while True:
        try:
            seen += prices(client.trades(1))
        except ConnectionClosed as error:
            return seen, error.rcvd.code if error.rcvd else None


@pytest.mark.parametrize("status", [200, 429, 503, 524])
def test_a_handshake_gets_another_status_once(exchange: Simulator, dial: Dial, status: int) -> None:
    exchange.inject(Fault("status", status=status))
    with pytest.raises(InvalidStatus) as refused:
        dial(exchange)
    assert refused.value.response.status_code == status
    dial(exchange)
    assert (exchange.dials, exchange.connections_made) == (2, 1)


def test_a_repeated_fault_strikes_every_dial_until_it_is_cleared(
    exchange: Simulator, dial: Dial
) -> None:
    exchange.inject(Fault("status", status=429, repeat=True))
    for _ in range(3):
        with pytest.raises(InvalidStatus):
            dial(exchange)
    exchange.clear_faults()
    dial(exchange)
    assert exchange.dials == 4


def test_the_first_connections_can_be_spared(dial: Dial) -> None:
    faults = [Fault("status", status=503, after_connections=1)]
    with Simulator(ScriptedSource([]), SETTINGS, faults) as exchange:
        dial(exchange)
        with pytest.raises(InvalidStatus):
            dial(exchange)
        dial(exchange)


def test_a_handshake_can_be_late(exchange: Simulator, dial: Dial) -> None:
    exchange.inject(Fault("handshake-delay", seconds=0.1))
    begin = time.monotonic()
    dial(exchange)
    assert 0.1 <= time.monotonic() - begin < 4


def test_a_handshake_can_stay_without_an_answer(exchange: Simulator, dial: Dial) -> None:
    exchange.inject(Fault("no-answer"))
    with pytest.raises(TimeoutError):
        dial(exchange, open_timeout=0.1)
    dial(exchange)


def test_an_unanswered_handshake_does_not_hold_the_exchange_up() -> None:
    with Simulator(ScriptedSource([]), SETTINGS, [Fault("no-answer")]) as exchange:
        client = http.client.HTTPConnection("127.0.0.1", exchange.port, timeout=5)
        client.request("GET", "/?token=demo", headers={"Upgrade": "websocket"})
        exchange.wait_for(lambda exchange: exchange.dials == 1)
        begin = time.monotonic()
    assert time.monotonic() - begin < 5
    client.close()


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault("drop", after_trades=10), None),
        (Fault("close", after_trades=10, code=1000), 1000),
        (Fault("close", after_trades=10, code=1001), 1001),
        (Fault("close", after_trades=10, code=1006), None),
    ],
)
def test_a_connection_ends_after_so_many_trades(
    exchange: Simulator, dial: Dial, fault: Fault, code: int | None
) -> None:
    exchange.inject(fault)
    first = dial(exchange)
    first.subscribe("AAPL")
    assert ended(first) == (list(range(1, 11)), code)
    exchange.wait_for(lambda exchange: exchange.open_connections == 0)
    second = dial(exchange)
    second.subscribe("AAPL")
    assert prices(second.trades(90)) == list(range(11, 101))
    assert [connection.sent_trades for connection in exchange.connections] == [10, 90]


def test_several_faults_strike_in_their_turn(dial: Dial) -> None:
    faults = [
        Fault("inject", after_trades=2, frame=b"odd"),
        Fault("inject", after_trades=1, frame=b"even"),
        Fault("drop", after_trades=4, repeat=True),
    ]
    with Simulator(ScriptedSource(numbered(8)), SETTINGS, faults) as exchange:
        first = dial(exchange)
        first.subscribe("AAPL")
        one, two = (frame for _, frame in numbered(2))
        assert first.frames(4) == [one, b"even", two, b"odd"]
        assert ended(first) == ([3, 4], None)
        second = dial(exchange)
        second.subscribe("AAPL")
        assert ended(second) == ([5, 6, 7, 8], None)


def test_a_reset_reaches_the_client(exchange: Simulator, dial: Dial) -> None:
    client = dial(exchange)
    exchange.inject(Fault("reset"))
    assert ended(client) == ([], None)


def test_a_fault_strikes_after_seconds(exchange: Simulator, dial: Dial) -> None:
    exchange.inject(Fault("drop", after_seconds=0.05))
    client = dial(exchange)
    assert ended(client) == ([], None)


def test_a_timed_fault_of_a_connection_that_ended_does_nothing(
    exchange: Simulator, dial: Dial
) -> None:
    exchange.inject(Fault("drop", after_seconds=3600))
    client = dial(exchange)
    client.socket.close()
    exchange.wait_for(lambda exchange: exchange.open_connections == 0)


def test_a_stalled_connection_neither_writes_nor_answers(exchange: Simulator, dial: Dial) -> None:
    exchange.inject(Fault("stall", after_trades=5))
    client = dial(exchange)
    client.subscribe("AAPL")
    assert prices(client.trades(5)) == [1, 2, 3, 4, 5]
    assert not client.socket.ping().wait(0.2)
    assert exchange.open_connections == 1
    second = dial(exchange)  # which kills the first
    second.subscribe("AAPL")
    assert prices(second.trades(1)) == [6]
    assert ended(client) == ([], None)


def test_a_stall_frees_a_play_that_waits_for_its_reader(dial: Dial) -> None:
    big = b'{"type":"news","x":"%s"}' % (b"x" * 100_000)
    script = ScriptedSource([(n, big) for n in range(500)])
    with Simulator(script, SETTINGS) as exchange:
        dial(exchange).subscribe("AAPL")
        exchange.wait_for(lambda exchange: exchange.sent_frames > 0)
        exchange.inject(Fault("stall"))
        second = dial(exchange)
        second.subscribe("AAPL")
        while not exchange.finished.is_set():
            assert second.frame() == big


def test_half_a_frame_is_sent_and_then_nothing(exchange: Simulator) -> None:
    exchange.inject(Fault("half-frame"))
    with socket.create_connection(("127.0.0.1", exchange.port), timeout=5) as client:
        client.sendall(
            b"GET /?token=demo HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        seen = b""
        while not seen.endswith(b"\x81\x64" + b'{"data":[{'):
            seen += client.recv(4096)
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_a_mute_connection_has_heartbeats_only(dial: Dial) -> None:
    settings = SimulatorSettings(settle=0.01, ping_period=0.01)
    with Simulator(
        ScriptedSource(numbered(10)), settings, [Fault("mute", after_trades=0)]
    ) as exchange:
        client = dial(exchange)
        client.subscribe("AAPL")
        assert exchange.finished.wait(5)
        assert client.frames(3) == [b'{"type":"ping"}'] * 3
        assert exchange.sent_trades == 0


def test_the_whole_exchange_can_be_muted(dial: Dial) -> None:
    with Simulator(ScriptedSource(numbered(3), loop=True, speed=100), SETTINGS) as exchange:
        exchange.mute()
        client = dial(exchange)
        client.subscribe("AAPL")
        exchange.send_raw("mark")
        assert client.frame() == b"mark"
        exchange.unmute()
        assert len(client.trades(3)) == 3


def test_frames_can_come_twice(exchange: Simulator, dial: Dial) -> None:
    exchange.inject(Fault("duplicate", after_trades=1))
    client = dial(exchange)
    client.subscribe("AAPL")
    assert prices(client.trades(5)) == [1, 2, 2, 3, 3]
    exchange.wait_for(lambda exchange: exchange.sent_trades == 199)


def test_frames_can_come_torn(exchange: Simulator, dial: Dial) -> None:
    exchange.inject(Fault("truncate"))
    client = dial(exchange)
    client.subscribe("AAPL")
    assert client.frame() == frame_of(("AAPL", 1))[:-10]


def test_any_frame_can_be_sent(exchange: Simulator, dial: Dial) -> None:
    client = dial(exchange)
    exchange.wait_for(lambda exchange: exchange.open_connections == 1)
    exchange.send_raw("null")
    exchange.send_raw(b"\x00\x01", binary=True)
    assert [client.frame(), client.socket.recv(timeout=5)] == [b"null", b"\x00\x01"]
    exchange.send_raw(b"broken \xff")
    assert client.frame() == b"broken \xff"
    assert exchange.connections[0].frames == [b"null", b"\x00\x01", b"broken \xff"]


def test_all_can_be_closed_with_a_code(exchange: Simulator, dial: Dial) -> None:
    client = dial(exchange)
    exchange.drop_all(code=1012)
    assert ended(client) == ([], 1012)
    exchange.send_raw("nobody is there")


@pytest.mark.parametrize(
    "wrong", [{"kind": "explode"}, {"kind": "drop", "after_trades": 1, "after_seconds": 1.0}]
)
def test_a_fault_must_make_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        Fault(**wrong)  # type: ignore[arg-type]


def test_many_drops_leave_no_thread_and_no_connection(dial: Dial) -> None:
    settings = SimulatorSettings(settle=0, second_connection="both-live")
    before = set(threading.enumerate())  # another test file's exchange may live in this process
    with Simulator(ScriptedSource([]), settings) as exchange:
        for _ in range(20):
            client = dial(exchange)
            exchange.drop_all()
            assert ended(client) == ([], None)
        exchange.wait_for(lambda exchange: exchange.open_connections == 0)
        assert exchange.connections == ()
        assert exchange.connections_made == 20
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(10)  # a client's own ends a moment after it told of the end
    assert not any(thread.is_alive() for thread in left)


def test_a_fault_for_one_connection_strikes_one_of_two(dial: Dial) -> None:
    settings = SimulatorSettings(settle=0.3, second_connection="both-live")
    script = ScriptedSource(numbered(20))
    with Simulator(script, settings, [Fault("mute", after_trades=10)]) as exchange:
        clients = [dial(exchange), dial(exchange)]
        for client in clients:
            client.subscribe("AAPL")
        assert exchange.finished.wait(5)
        assert exchange.sent_trades == 30


def test_connections_that_were_spared_stay_so(dial: Dial) -> None:
    with Simulator(ScriptedSource([]), SETTINGS) as exchange:
        client = dial(exchange)
        exchange.wait_for(lambda exchange: exchange.open_connections == 1)
        exchange.inject(Fault("drop", after_connections=1))
        assert client.socket.ping().wait(5)
