from __future__ import annotations

import pytest

from stocktrace import cli
from stocktrace.errors import UsageError
from stocktrace.simulator import Fault
from stocktrace.simulator.fault_syntax import parse_fault
from stocktrace.simulator.faults import FAULT_KINDS


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
