"""The kinds of faults, their spelling, and what they change."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from stocktrace import cli
from stocktrace.errors import UsageError
from stocktrace.simulator import Fault, ScriptedSource, Simulator, SimulatorSettings
from stocktrace.simulator.faults import (
    FAULT_KINDS,
    TLS_FAULTS,
    FaultPlan,
    parse_fault,
    random_faults,
)
from stocktrace.simulator.frames import malformed_frames
from tests.simulator.conftest import Client, Dial, frame_of, numbered, prices

PAIRS = [(n, frame_of(("AAPL", n), ("MSFT", n + 0.5), t=10**12)) for n in range(1, 41)]


@pytest.fixture
def simulator(settings: SimulatorSettings) -> Iterator[Simulator]:
    with Simulator(ScriptedSource(PAIRS), settings) as simulator:
        yield simulator


def subscribed(simulator: Simulator, dial: Dial) -> Client:
    client = dial(simulator)
    client.subscribe("AAPL", "MSFT")
    return client


@pytest.mark.parametrize("times", [2, 3])
def test_duplicate_rows_repeat_the_trades_within_a_frame(
    simulator: Simulator, dial: Dial, times: int
) -> None:
    simulator.inject(Fault("duplicate-rows", times=times))
    frame = json.loads(subscribed(simulator, dial).frame())
    assert prices(frame["data"]) == [1, 1.5] * times
    simulator.wait_for(lambda simulator: simulator.sent_trades == 80 * times)


def test_a_frame_can_be_sent_three_times(simulator: Simulator, dial: Dial) -> None:
    simulator.inject(Fault("duplicate", times=3))
    assert subscribed(simulator, dial).frames(4) == [PAIRS[0][1]] * 3 + [PAIRS[1][1]]


def test_the_trades_of_a_frame_can_be_in_reverse_order(simulator: Simulator, dial: Dial) -> None:
    simulator.inject(Fault("out-of-order"))
    assert prices(subscribed(simulator, dial).trades(4)) == [1.5, 1, 2.5, 2]


def test_one_frame_in_ten_can_be_late(simulator: Simulator, dial: Dial) -> None:
    simulator.inject(Fault("late", seconds=60))
    times = [trade["t"] for trade in subscribed(simulator, dial).trades(42)]
    late = 10**12 - 60_000
    assert times == [late] * 2 + [10**12] * 18 + [late] * 2 + [10**12] * 18 + [late] * 2


def test_a_lag_grows_with_time(settings: SimulatorSettings, dial: Dial) -> None:
    with Simulator(
        ScriptedSource(PAIRS, speed=1e-7), settings, [Fault("lag", seconds=1000)]
    ) as simulator:
        begin = time.monotonic()
        times = [trade["t"] for trade in subscribed(simulator, dial).trades(80)]
        elapsed = time.monotonic() - begin
    assert times == sorted(times, reverse=True)
    assert 10**12 - elapsed * 1e6 <= times[-1] < times[0] <= 10**12


def test_a_bad_row_spoils_one_trade_only(simulator: Simulator, dial: Dial) -> None:
    simulator.inject(Fault("bad-row", after_trades=2))
    rows = subscribed(simulator, dial).trades(6)
    assert prices(rows) == [1, 1.5, 2, "n/a", 3, 3.5]
    simulator.wait_for(lambda simulator: simulator.finished.is_set())
    assert simulator.sent_trades == 79  # the bad row is not a trade


def test_one_symbol_can_be_silent(simulator: Simulator, dial: Dial) -> None:
    simulator.inject(Fault("silent", symbol="MSFT", after_trades=4))
    assert prices(subscribed(simulator, dial).trades(6)) == [1, 1.5, 2, 2.5, 3, 4]


def test_without_a_symbol_the_first_one_is_silent(simulator: Simulator, dial: Dial) -> None:
    simulator.inject(Fault("silent", after_trades=2))
    assert prices(subscribed(simulator, dial).trades(4)) == [1, 1.5, 2.5, 3.5]


def test_all_malformed_frames_are_sent_and_no_trade_is_lost(
    simulator: Simulator, dial: Dial
) -> None:
    simulator.inject(Fault("malformed", after_trades=2))
    client = dial(simulator, max_size=None)
    client.subscribe("AAPL", "MSFT")
    malformed = malformed_frames()
    assert client.frames(len(malformed) + 3) == [PAIRS[0][1], *malformed, b"\x00\x01", PAIRS[1][1]]


def test_several_states_are_combined(simulator: Simulator, dial: Dial) -> None:
    for fault in (Fault("duplicate"), Fault("duplicate-rows"), Fault("out-of-order")):
        simulator.inject(fault)
    assert prices(subscribed(simulator, dial).trades(8)) == [1.5, 1, 1.5, 1] * 2


@pytest.mark.parametrize("kind", ["mute", "silent", "duplicate", "truncate"])
def test_a_state_can_end_again(settings: SimulatorSettings, dial: Dial, kind: str) -> None:
    faults = [Fault(kind, duration=0.2)]  # type: ignore[arg-type]
    script = ScriptedSource(numbered(2), speed=100, loop=True)
    with Simulator(script, settings, faults) as simulator:
        client = dial(simulator)
        client.subscribe("AAPL")
        begin = time.monotonic()
        regular = [frame for _, frame in numbered(2)]
        while client.frames(4)[:2] not in (regular, regular[::-1]):
            assert time.monotonic() - begin < 5
        simulator.wait_for(lambda simulator: simulator.open_connections == 1)


def test_a_refusal_with_a_duration_is_repeated_until_its_end(
    settings: SimulatorSettings, dial: Dial
) -> None:
    faults = [Fault("status", status=524, duration=0.3)]
    with Simulator(ScriptedSource([]), settings, faults) as simulator:
        begin, refused = time.monotonic(), 0
        while True:
            try:
                dial(simulator)
            except InvalidStatus:
                refused += 1
                assert time.monotonic() - begin < 5
            else:
                break
        assert time.monotonic() - begin >= 0.3
        assert refused > 1


def test_a_drop_with_a_duration_strikes_every_connection_until_its_end() -> None:
    now = 0.0
    plan = FaultPlan([fault := Fault("drop", duration=10.0)], lambda: now)
    assert plan.take(fault)
    now = 9.0
    assert plan.take(fault)
    now = 10.0
    assert not plan.take(fault)
    assert plan.for_connection(5) == []


def test_a_second_connection_can_end_both(settings: SimulatorSettings, dial: Dial) -> None:
    settings = replace(settings, second_connection="kills-both")
    with Simulator(ScriptedSource([]), settings) as simulator:
        clients = [dial(simulator), dial(simulator)]
        for client in clients:
            with pytest.raises(ConnectionClosed):
                client.frame()
        simulator.wait_for(lambda simulator: simulator.open_connections == 0)
        third = dial(simulator)
        assert third.socket.ping().wait(5)


def test_chaos_depends_on_the_seed_only() -> None:
    assert (
        random_faults(1, connections=50)
        == random_faults(1, connections=50)
        != random_faults(2, connections=50)
    )


@pytest.mark.parametrize("tls", [False, True])
def test_chaos_has_every_kind_but_inject_and_ends_every_connection(tls: bool) -> None:
    faults = random_faults(7, connections=2000, tls=tls)
    left_out = {"inject"} if tls else {"inject", *TLS_FAULTS}
    assert {fault.kind for fault in faults} == {*FAULT_KINDS} - left_out
    ends = [fault for fault in faults if not (fault.is_handshake or fault.is_state)]
    ends = [fault for fault in ends if fault.kind not in ("malformed", "bad-row")]
    assert [fault.after_connections for fault in ends] == list(range(2000))
    mean = sum(fault.after_seconds for fault in ends) / len(ends)
    assert 15 < mean < 25


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("drop", Fault("drop")),
        ("drop,after=1000trades", Fault("drop", after_trades=1000)),
        ("drop,after=1m30s,repeat", Fault("drop", after_seconds=90.0, repeat=True)),
        ("stall,after=2connections", Fault("stall", after_connections=2)),
        (
            "reset,after=2connections,after=10trades",
            Fault("reset", after_connections=2, after_trades=10),
        ),
        ("status", Fault("status")),
        ("status,status=524,for=2m", Fault("status", status=524, duration=120.0)),
        ("handshake-delay,by=65s", Fault("handshake-delay", seconds=65.0)),
        ("close,code=1000,repeat", Fault("close", code=1000, repeat=True)),
        ("duplicate,times=3", Fault("duplicate", times=3)),
        ("silent,symbol=BINANCE:BTCUSDT", Fault("silent", symbol="BINANCE:BTCUSDT")),
        ("lag,by=500ms,for=10s", Fault("lag", seconds=0.5, duration=10.0)),
        ("records", Fault("records")),
        ("records,size=1400,for=1m", Fault("records", size=1400, duration=60.0)),
        ("tls-1.2,after=2connections", Fault("tls-1.2", after_connections=2)),
        ("inject,frame=null", Fault("inject", frame=b"null")),
        (
            'inject,after=5s,frame={"a":1,"b":"x,repeat"}',
            Fault("inject", after_seconds=5.0, frame=b'{"a":1,"b":"x,repeat"}'),
        ),
    ],
)
def test_a_text_is_parsed_to_a_fault(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault


@pytest.mark.parametrize("kind", FAULT_KINDS)
def test_every_kind_can_be_parsed(kind: str) -> None:
    assert parse_fault(f"{kind},after=3s" + (",frame=x" if kind == "inject" else "")).kind == kind


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "Unknown fault ''. Use one of status, "),
        ("boom", "Unknown fault 'boom'. Use one of status, "),
        ("drop,after=5x", "after=5x is not a valid time. Write it as 5s or 1m30s, 1000trades or"),
        ("drop,for=", "for= is not a valid time. Write it as 5s or 1m30s."),
        ("drop,code=1001", "has no option 'code=1001'. Its options are after=…, for=… and repeat."),
        ("drop,repeat=1", "has no option 'repeat=1'."),
        ("drop,after", "has no option 'after'."),
        ("drop,", "has no option ''."),
        (
            "close,code=12",
            "code=12 is not valid for the fault close. Use a number from 1000 to 4999.",
        ),
        (
            "status,status=teapot",
            "status=teapot is not valid for the fault status. Use a number from 200 to 599.",
        ),
        ("status,status=\uff12\uff10\uff10", "a number from 200 to 599."),
        ("duplicate-rows,times=1", "a number from 2 to 100."),
        ("records,size=16385", "a number from 1 to 16384."),
        ("inject", "The fault inject needs frame=…."),
        ("drop,frame=x", "has no option 'frame=x'."),
        ("drop,after=1s,after=2s", "has after twice."),
        ("drop,after=1s,after=2trades", "after trades or after seconds, not after both."),
    ],
)
def test_an_invalid_fault_is_refused_with_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_fault(text)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_command_line_refuses_an_invalid_fault_before_it_listens(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(["simulator", "--fault", "drop", "--fault", "boom"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("stocktrace: Unknown fault 'boom'. ")
    assert cli.run(["simulator", "--chaos", "many"]) == 2
    capsys.readouterr()
    assert cli.run(["simulator", "--fault", "half-record"]) == 2
    assert capsys.readouterr().err == "stocktrace: The fault half-record needs TLS. Add --tls.\n"


def test_the_command_line_passes_the_faults_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[list[Fault]] = []

    class Seen:
        def __init__(self, source: object, settings: object, faults: list[Fault]) -> None:
            made.append(faults)
            raise UsageError("seen")

    monkeypatch.setattr("stocktrace.simulator.Simulator", Seen)
    cli.run(["simulator", "--fault", "drop,after=5trades", "--fault", "malformed", "--chaos", "3"])
    assert made[0][:2] == [Fault("drop", after_trades=5), Fault("malformed")]
    assert len(made[0]) > 1000
    cli.run(["simulator"])
    assert made[1] == []


def test_the_command_line_ends_after_its_duration(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.run(
            ["simulator", "--for", "100ms", "--chaos", "1", "--second-connection", "kills-both"]
        )
        == 0
    )
    assert capsys.readouterr().out.startswith("ws://127.0.0.1:")
