"""The simulator as a command, and the demo."""

from __future__ import annotations

import re
import signal
import socket
import ssl
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stocktrace import cli
from stocktrace.simulator import Simulator, synthetic_frames
from tests.cli.conftest import PATIENCE_S, STOCKTRACE, Said, running
from tests.conftest import NOON, Studio, published, sent


def test_the_simulator_prints_its_address_and_plays_a_tape(studio: Studio, tmp_path: Path) -> None:
    frames = [each for _, each in synthetic_frames(["AAPL"], 200)]
    tape = tmp_path / "a.tape"
    tape.write_bytes(b"".join(b"%d\t%s\n" % (NOON + n, each) for n, each in enumerate(frames)))
    flags = ["--tape", str(tape), "--speed", "0", "--key", studio.key, "--ping-interval", "0"]
    with running(*STOCKTRACE, "simulator", *flags) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert urllib.parse.urlsplit(url).hostname == "127.0.0.1"

        def scenario() -> Any:
            yield lambda status: status.trades == 200

        report = studio.record(url, scenario=scenario())
        assert process.stderr is not None
        over = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (130, "")
    assert "everything was played, 200 trades sent. Connections stay open" in over
    assert report.books.recorded == 200
    assert published(studio.data_dir) == sent(frames)


def test_the_simulator_ends_after_the_duration_it_was_given(say: Callable[..., Said]) -> None:
    said = say("simulator", "--for", "100ms")
    assert said.status == 0
    assert re.fullmatch(r"ws://127\.0\.0\.1:\d+\n", said.out)


def test_with_tls_the_simulator_prints_the_file_that_makes_clients_trust_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def connect(simulator: Simulator, _: object) -> None:
        url, variable = capsys.readouterr().out.splitlines()
        assert url == f"wss://127.0.0.1:{simulator.port}"
        name, _, file = variable.partition("=")
        monkeypatch.setenv(name, file)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.load_default_certs()
        with (
            socket.create_connection(("127.0.0.1", simulator.port), timeout=PATIENCE_S) as plain,
            client.wrap_socket(plain, server_hostname="localhost") as trusting,
        ):
            assert trusting.version() == "TLSv1.3"
        seen.append(Path(file))

    monkeypatch.setattr("stocktrace.simulator.run_simulator", connect)
    assert cli.run(["simulator", "--tls"]) == 0
    assert [file.exists() for file in seen] == [False]


def test_demo_needs_no_key_and_no_network_and_reads_back_what_it_recorded(
    say: Callable[..., Said], tmp_path: Path
) -> None:
    said = say("demo", "--for", "3s", "--data-dir", tmp_path, "--min-free-space", 0)
    assert said.status == 0, said.err
    assert "the books balance" in said.out
    assert "stocktrace.read_trades('AAPL'" in said.out
    assert "\x1b" not in said.out + said.err
    rows = published(tmp_path)
    assert set(rows) == {"AAPL", "MSFT", "NVDA", "BRK.B", "BINANCE:BTCUSDT", "OANDA:EUR_USD"}
    last = said.out.splitlines()[-1].split()
    assert last[0] == "AAPL"
    assert float(last[5]) == rows["AAPL"][-1][1]
