"""The faults that change what is played, and those that go on for a while."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from stocktrace.simulator import Fault, ScriptedSource, Simulator, SimulatorSettings
from stocktrace.simulator.chaos import random_faults
from stocktrace.simulator.faults import FAULT_KINDS, FaultPlan
from stocktrace.simulator.malformed_frames import malformed_frames
from tests.exchange.conftest import Client, Dial, frame_of, numbered, prices

SETTINGS = SimulatorSettings(settle=0.01, keep=True)
PAIRS = [(n, frame_of(("AAPL", n), ("MSFT", n + 0.5), t=10**12)) for n in range(1, 41)]


@pytest.fixture
def exchange() -> Iterator[Simulator]:
    with Simulator(ScriptedSource(PAIRS), SETTINGS) as exchange:
        yield exchange


def subscribed(exchange: Simulator, dial: Dial) -> Client:
    client = dial(exchange)
    client.subscribe("AAPL", "MSFT")
    return client


@pytest.mark.parametrize("times", [2, 3])
def test_a_frame_can_hold_its_trades_several_times(
    exchange: Simulator, dial: Dial, times: int
) -> None:
    exchange.inject(Fault("copies", times=times))
    frame = json.loads(subscribed(exchange, dial).frame())
    assert prices(frame["data"]) == [1, 1.5] * times
    exchange.wait_for(lambda exchange: exchange.sent_trades == 80 * times)


def test_a_frame_can_come_three_times(exchange: Simulator, dial: Dial) -> None:
    exchange.inject(Fault("duplicate", times=3))
    assert subscribed(exchange, dial).frames(4) == [PAIRS[0][1]] * 3 + [PAIRS[1][1]]


def test_the_trades_of_a_frame_can_stand_in_reverse(exchange: Simulator, dial: Dial) -> None:
    exchange.inject(Fault("out-of-order"))
    assert prices(subscribed(exchange, dial).trades(4)) == [1.5, 1, 2.5, 2]


def test_one_frame_in_ten_can_be_late(exchange: Simulator, dial: Dial) -> None:
    exchange.inject(Fault("late", seconds=60))
    times = [trade["t"] for trade in subscribed(exchange, dial).trades(42)]
    late = 10**12 - 60_000
    assert times == [late] * 2 + [10**12] * 18 + [late] * 2 + [10**12] * 18 + [late] * 2


def test_trades_can_be_older_and_older(dial: Dial) -> None:
    with Simulator(
        ScriptedSource(PAIRS, speed=1e-7), SETTINGS, [Fault("lag", seconds=1000)]
    ) as exchange:
        begin = time.monotonic()
        times = [trade["t"] for trade in subscribed(exchange, dial).trades(80)]
        elapsed = time.monotonic() - begin
    assert times == sorted(times, reverse=True)
    assert 10**12 - elapsed * 1e6 <= times[-1] < times[0] <= 10**12


def test_one_row_can_be_bad_and_no_other(exchange: Simulator, dial: Dial) -> None:
    exchange.inject(Fault("bad-row", after_trades=2))
    rows = subscribed(exchange, dial).trades(6)
    assert prices(rows) == [1, 1.5, 2, "n/a", 3, 3.5]
    exchange.wait_for(lambda exchange: exchange.finished.is_set())
    assert exchange.sent_trades == 79  # one was none


def test_one_symbol_can_be_silent(exchange: Simulator, dial: Dial) -> None:
    exchange.inject(Fault("silent", symbol="MSFT", after_trades=4))
    assert prices(subscribed(exchange, dial).trades(6)) == [1, 1.5, 2, 2.5, 3, 4]


def test_the_first_symbol_is_silent_if_none_is_named(exchange: Simulator, dial: Dial) -> None:
    exchange.inject(Fault("silent", after_trades=2))
    assert prices(subscribed(exchange, dial).trades(4)) == [1, 1.5, 2.5, 3.5]


def test_all_odd_frames_are_sent_and_harm_no_trade(exchange: Simulator, dial: Dial) -> None:
    exchange.inject(Fault("odd", after_trades=2))
    client = dial(exchange, max_size=None)
    client.subscribe("AAPL", "MSFT")
    odd = malformed_frames()
    assert client.frames(len(odd) + 3) == [PAIRS[0][1], *odd, b"\x00\x01", PAIRS[1][1]]


def test_several_states_add_up(exchange: Simulator, dial: Dial) -> None:
    for fault in (Fault("duplicate"), Fault("copies"), Fault("out-of-order")):
        exchange.inject(fault)
    assert prices(subscribed(exchange, dial).trades(8)) == [1.5, 1, 1.5, 1] * 2


@pytest.mark.parametrize("kind", ["mute", "silent", "duplicate", "truncate"])
def test_a_state_can_end_again(dial: Dial, kind: str) -> None:
    faults = [Fault(kind, lasting=0.2)]  # type: ignore[arg-type]
    script = ScriptedSource(numbered(2), speed=100, loop=True)
    with Simulator(script, SETTINGS, faults) as exchange:
        client = dial(exchange)
        client.subscribe("AAPL")
        begin = time.monotonic()
        regular = [frame for _, frame in numbered(2)]
        while client.frames(4)[:2] not in (regular, regular[::-1]):
            assert time.monotonic() - begin < 5
        exchange.wait_for(lambda exchange: exchange.open_connections == 1)


def test_a_refusal_can_go_on_for_a_while(dial: Dial) -> None:
    faults = [Fault("status", status=524, lasting=0.3)]
    with Simulator(ScriptedSource([]), SETTINGS, faults) as exchange:
        begin, refused = time.monotonic(), 0
        while True:
            try:
                dial(exchange)
            except InvalidStatus:
                refused += 1
                assert time.monotonic() - begin < 5
            else:
                break
        assert time.monotonic() - begin >= 0.3
        assert refused > 1


def test_a_blow_that_goes_on_strikes_every_connection_until_then() -> None:
    now = 0.0
    plan = FaultPlan([fault := Fault("drop", lasting=10.0)], lambda: now)
    assert plan.take(fault)
    now = 9.0
    assert plan.take(fault)
    now = 10.0
    assert not plan.take(fault)
    assert plan.on_connection(5) == []


def test_a_second_connection_can_kill_both(dial: Dial) -> None:
    settings = SimulatorSettings(settle=0.01, second_connection="kills-both")
    with Simulator(ScriptedSource([]), settings) as exchange:
        clients = [dial(exchange), dial(exchange)]
        for client in clients:
            with pytest.raises(ConnectionClosed):
                client.frame()
        exchange.wait_for(lambda exchange: exchange.open_connections == 0)
        third = dial(exchange)
        assert third.socket.ping().wait(5)


def test_chaos_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    assert (
        random_faults(1, connections=50)
        == random_faults(1, connections=50)
        != random_faults(2, connections=50)
    )


def test_chaos_has_every_kind_that_it_can_and_ends_every_connection() -> None:
    faults = random_faults(7, connections=2000)
    assert {fault.kind for fault in faults} == {*FAULT_KINDS} - {"inject"}
    ends = [fault for fault in faults if not (fault.at_handshake or fault.is_state)]
    ends = [fault for fault in ends if fault.kind not in ("odd", "bad-row")]
    assert [fault.after_connections for fault in ends] == list(range(2000))
    mean = sum(fault.after_seconds for fault in ends) / len(ends)
    assert 15 < mean < 25
