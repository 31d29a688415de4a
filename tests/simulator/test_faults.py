from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from stocktrace.errors import SettingsError
from stocktrace.simulator import Fault, ScriptedSource, Simulator, SimulatorSettings
from tests.simulator.conftest import Client, Dial, frame_of, numbered, prices, request_upgrade
from tests.tls import Authority


@pytest.fixture
def simulator(settings: SimulatorSettings) -> Iterator[Simulator]:
    with Simulator(ScriptedSource(numbered(100)), settings) as simulator:
        yield simulator


def ended(client: Client) -> tuple[list[float], int | None]:
    """Read to the end. Return the prices and the code of the close frame."""
    seen: list[float] = []
    while True:
        try:
            seen += prices(client.trades(1))
        except ConnectionClosed as error:
            return seen, error.rcvd.code if error.rcvd else None


@pytest.mark.parametrize("status", [200, 429, 503, 524])
def test_a_handshake_is_answered_by_another_status_once(
    simulator: Simulator, dial: Dial, status: int
) -> None:
    simulator.inject(Fault("status", status=status))
    with pytest.raises(InvalidStatus) as refused:
        dial(simulator)
    assert refused.value.response.status_code == status
    dial(simulator)
    assert (simulator.dials, simulator.connections_made) == (2, 1)


def test_a_repeated_fault_strikes_every_dial_until_it_is_cleared(
    simulator: Simulator, dial: Dial
) -> None:
    simulator.inject(Fault("status", status=429, repeat=True))
    for _ in range(3):
        with pytest.raises(InvalidStatus):
            dial(simulator)
    simulator.clear_faults()
    dial(simulator)
    assert simulator.dials == 4


def test_a_fault_can_spare_the_first_connections(settings: SimulatorSettings, dial: Dial) -> None:
    faults = [Fault("status", status=503, after_connections=1)]
    with Simulator(ScriptedSource([]), settings, faults) as simulator:
        dial(simulator)
        with pytest.raises(InvalidStatus):
            dial(simulator)
        dial(simulator)


def test_a_handshake_can_be_delayed(simulator: Simulator, dial: Dial) -> None:
    simulator.inject(Fault("handshake-delay", seconds=0.1))
    begin = time.monotonic()
    dial(simulator)
    assert 0.1 <= time.monotonic() - begin < 4


def test_a_handshake_can_remain_unanswered(simulator: Simulator, dial: Dial) -> None:
    simulator.inject(Fault("no-answer"))
    with pytest.raises(TimeoutError):
        dial(simulator, open_timeout=0.1)
    dial(simulator)


def test_an_unanswered_handshake_does_not_delay_stopping(
    settings: SimulatorSettings, authority: Authority
) -> None:
    with Simulator(ScriptedSource([]), settings, [Fault("no-answer")]) as simulator:
        client = request_upgrade(simulator, authority)
        simulator.wait_for(lambda simulator: simulator.dials == 1)
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
def test_a_connection_ends_after_a_number_of_trades(
    simulator: Simulator, dial: Dial, fault: Fault, code: int | None
) -> None:
    simulator.inject(fault)
    first = dial(simulator)
    first.subscribe("AAPL")
    assert ended(first) == (list(range(1, 11)), code)
    simulator.wait_for(lambda simulator: simulator.open_connections == 0)
    second = dial(simulator)
    second.subscribe("AAPL")
    assert prices(second.trades(90)) == list(range(11, 101))
    assert [connection.sent_trades for connection in simulator.connections] == [10, 90]


def test_several_faults_strike_in_order_of_their_trades(
    settings: SimulatorSettings, dial: Dial
) -> None:
    faults = [
        Fault("inject", after_trades=2, frame=b"odd"),
        Fault("inject", after_trades=1, frame=b"even"),
        Fault("drop", after_trades=4, repeat=True),
    ]
    with Simulator(ScriptedSource(numbered(8)), settings, faults) as simulator:
        first = dial(simulator)
        first.subscribe("AAPL")
        one, two = (frame for _, frame in numbered(2))
        assert first.frames(4) == [one, b"even", two, b"odd"]
        assert ended(first) == ([3, 4], None)
        second = dial(simulator)
        second.subscribe("AAPL")
        assert ended(second) == ([5, 6, 7, 8], None)


def test_a_reset_reaches_the_client(simulator: Simulator, dial: Dial) -> None:
    client = dial(simulator)
    simulator.inject(Fault("reset"))
    assert ended(client) == ([], None)


def test_a_fault_strikes_after_seconds(simulator: Simulator, dial: Dial) -> None:
    simulator.inject(Fault("drop", after_seconds=0.05))
    client = dial(simulator)
    assert ended(client) == ([], None)


def test_a_timed_fault_is_cancelled_when_its_connection_ends(
    simulator: Simulator, dial: Dial
) -> None:
    simulator.inject(Fault("drop", after_seconds=3600))
    client = dial(simulator)
    client.socket.close()
    simulator.wait_for(lambda simulator: simulator.open_connections == 0)


def test_a_stalled_connection_neither_sends_nor_answers(simulator: Simulator, dial: Dial) -> None:
    simulator.inject(Fault("stall", after_trades=5))
    client = dial(simulator)
    client.subscribe("AAPL")
    assert prices(client.trades(5)) == [1, 2, 3, 4, 5]
    assert not client.socket.ping().wait(0.2)
    assert simulator.open_connections == 1
    second = dial(simulator)  # this ends the first
    second.subscribe("AAPL")
    assert prices(second.trades(1)) == [6]
    assert ended(client) == ([], None)


def test_a_stall_unblocks_a_play_that_waits_for_the_reader(
    settings: SimulatorSettings, dial: Dial
) -> None:
    big = b'{"type":"news","x":"%s"}' % (b"x" * 100_000)
    script = ScriptedSource([(n, big) for n in range(500)])
    with Simulator(script, settings) as simulator:
        dial(simulator).subscribe("AAPL")
        simulator.wait_for(lambda simulator: simulator.sent_frames > 0)
        simulator.inject(Fault("stall"))
        second = dial(simulator)
        second.subscribe("AAPL")
        while not simulator.finished.is_set():
            assert second.frame() == big


def test_only_half_a_frame_is_sent(simulator: Simulator, authority: Authority) -> None:
    simulator.inject(Fault("half-frame"))
    with request_upgrade(simulator, authority) as client:
        seen = b""
        while not seen.endswith(b"\x81\x64" + b'{"data":[{'):
            seen += client.recv(4096)
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_a_mute_connection_receives_heartbeats_only(
    settings: SimulatorSettings, dial: Dial
) -> None:
    settings = replace(settings, ping_period=0.01)
    with Simulator(
        ScriptedSource(numbered(10)), settings, [Fault("mute", after_trades=0)]
    ) as simulator:
        client = dial(simulator)
        client.subscribe("AAPL")
        assert simulator.finished.wait(5)
        assert client.frames(3) == [b'{"type":"ping"}'] * 3
        assert simulator.sent_trades == 0


def test_the_whole_simulator_can_be_muted(settings: SimulatorSettings, dial: Dial) -> None:
    with Simulator(ScriptedSource(numbered(3), loop=True, speed=100), settings) as simulator:
        simulator.mute()
        client = dial(simulator)
        client.subscribe("AAPL")
        simulator.send_raw("mark")
        assert client.frame() == b"mark"
        simulator.unmute()
        assert len(client.trades(3)) == 3


def test_frames_can_be_sent_twice(simulator: Simulator, dial: Dial) -> None:
    simulator.inject(Fault("duplicate", after_trades=1))
    client = dial(simulator)
    client.subscribe("AAPL")
    assert prices(client.trades(5)) == [1, 2, 2, 3, 3]
    simulator.wait_for(lambda simulator: simulator.sent_trades == 199)


def test_frames_can_be_truncated(simulator: Simulator, dial: Dial) -> None:
    simulator.inject(Fault("truncate"))
    client = dial(simulator)
    client.subscribe("AAPL")
    assert client.frame() == frame_of(("AAPL", 1))[:-10]


def test_any_frame_can_be_sent(simulator: Simulator, dial: Dial) -> None:
    client = dial(simulator)
    simulator.wait_for(lambda simulator: simulator.open_connections == 1)
    simulator.send_raw("null")
    simulator.send_raw(b"\x00\x01", binary=True)
    assert [client.frame(), client.socket.recv(timeout=5)] == [b"null", b"\x00\x01"]
    simulator.send_raw(b"broken \xff")
    assert client.frame() == b"broken \xff"
    assert simulator.connections[0].frames == [b"null", b"\x00\x01", b"broken \xff"]


def test_all_connections_can_be_closed_with_a_code(simulator: Simulator, dial: Dial) -> None:
    client = dial(simulator)
    simulator.drop_all(code=1012)
    assert ended(client) == ([], 1012)
    simulator.send_raw("nobody is there")


@pytest.mark.parametrize(
    "wrong", [{"kind": "explode"}, {"kind": "drop", "after_trades": 1, "after_seconds": 1.0}]
)
def test_an_invalid_fault_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        Fault(**wrong)  # type: ignore[arg-type]


def test_many_drops_leave_no_thread_and_no_connection(dial: Dial) -> None:
    settings = SimulatorSettings(settle=0, second_connection="both-live")
    before = set(threading.enumerate())  # another test file's simulator may run in this process
    with Simulator(ScriptedSource([]), settings) as simulator:
        for _ in range(20):
            client = dial(simulator)
            simulator.drop_all()
            assert ended(client) == ([], None)
        simulator.wait_for(lambda simulator: simulator.open_connections == 0)
        assert simulator.connections == ()
        assert simulator.connections_made == 20
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(10)  # a client's thread ends a moment after its connection
    assert not any(thread.is_alive() for thread in left)


def test_a_fault_strikes_one_of_two_connections(settings: SimulatorSettings, dial: Dial) -> None:
    settings = replace(settings, settle=0.3, second_connection="both-live")
    script = ScriptedSource(numbered(20))
    with Simulator(script, settings, [Fault("mute", after_trades=10)]) as simulator:
        clients = [dial(simulator), dial(simulator)]
        for client in clients:
            client.subscribe("AAPL")
        assert simulator.finished.wait(5)
        assert simulator.sent_trades == 30


def test_a_spared_connection_is_not_struck_later(settings: SimulatorSettings, dial: Dial) -> None:
    with Simulator(ScriptedSource([]), settings) as simulator:
        client = dial(simulator)
        simulator.wait_for(lambda simulator: simulator.open_connections == 1)
        simulator.inject(Fault("drop", after_connections=1))
        assert client.socket.ping().wait(5)
