"""What ``stocktrace capture`` prints, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from stocktrace.live import key_lock
from stocktrace.sessions.report import SessionReport
from stocktrace.simulator import SyntheticMarket
from tests.cli.conftest import PATIENCE_S, Said, capturing
from tests.conftest import SESSION, Studio, published, sent, taped

# --- capture -------------------------------------------------------------------------------------


def test_capture_records_and_prints_the_books(quick: Studio, say: Callable[..., Said]) -> None:
    with quick.exchange(SyntheticMarket(rate=2000, trades=300), settle=0.1) as exchange:
        said = say(
            "capture", "AAPL", "BINANCE:BTCUSDT,OANDA:EUR_USD", "--for", "1.5s", "--url",
            exchange.url, "--data-dir", quick.data_dir, "--min-free-space", 0,
        )  # fmt: skip
        wanted = sent(exchange.connections[0].frames)
    assert said.status == 0, said.err
    count = sum(map(len, wanted.values()))
    assert published(quick.data_dir) == wanted
    assert f"{count} trades = {count} recorded + 0 quarantined; {count} in Parquet" in said.out
    assert "the books balance" in said.out
    assert "\x1b" not in said.out + said.err
    assert quick.key not in said.out + said.err


def test_json_is_the_report_and_nothing_else(quick: Studio, say: Callable[..., Said]) -> None:
    with quick.exchange() as exchange:
        said = say(
            "capture", "AAPL", "--for", "300ms", "--json", "--progress", "none", "--url",
            exchange.url, "--data-dir", quick.data_dir, "--min-free-space", 0,
        )  # fmt: skip
    assert said.status == 0, said.err
    printed = json.loads(said.out)
    (path,) = (quick.data_dir / "sessions").glob("*.json")
    assert printed == json.loads(path.read_text())
    assert printed["books"]["trades"] == 0
    assert printed["state"] == "complete"


def test_settings_come_from_the_flag_before_the_environment(
    quick: Studio, say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    with quick.exchange() as exchange:
        monkeypatch.setenv("STOCKTRACE_URL", exchange.url)
        monkeypatch.setenv("STOCKTRACE_DATA_DIR", "elsewhere")
        monkeypatch.setenv("STOCKTRACE_MIN_FREE_SPACE", "0")
        monkeypatch.setenv("STOCKTRACE_ROLL_INTERVAL", "1h")
        said = say("capture", "AAPL", "--for", "300ms", "--json", "--data-dir", quick.data_dir)
    assert said.status == 0, said.err
    settings = json.loads(said.out)["settings"]
    assert (settings["roll_interval"], settings["data_dir"]) == (3600.0, str(quick.data_dir))
    assert not Path("elsewhere").exists()


def test_a_capture_that_never_connects_exits_1_with_the_reason(
    quick: Studio, say: Callable[..., Said]
) -> None:
    said = say(
        "capture", "AAPL", "--for", "300ms", "--url", "ws://127.0.0.1:1", "--data-dir",
        quick.data_dir, "--min-free-space", 0,
    )  # fmt: skip
    assert said.status == 1
    last = said.err.splitlines()[-1]
    assert last.startswith("stocktrace: not connected at the end: cannot connect")
    assert "refused" in last


def test_a_key_that_is_refused_exits_1_with_a_sentence(
    quick: Studio, say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINNHUB_API_KEY", "wrong")
    with quick.exchange() as exchange:
        said = say(
            "capture", "AAPL", "--for", "30s", "--url", exchange.url, "--data-dir",
            quick.data_dir, "--min-free-space", 0,
        )  # fmt: skip
    assert said.status == 1
    assert said.err.splitlines()[-1] == (
        "stocktrace: The server refused the API key (HTTP 401). "
        "Check FINNHUB_API_KEY at https://finnhub.io/dashboard."
    )
    assert "Traceback" not in said.err


def test_a_key_in_use_exits_1_with_a_sentence(quick: Studio, say: Callable[..., Said]) -> None:

    with key_lock.acquire_key_lock(quick.key, "ws://127.0.0.1:1", SESSION):
        said = say(
            "capture", "AAPL", "--for", "1s", "--url", "ws://127.0.0.1:1", "--data-dir",
            quick.data_dir,
        )  # fmt: skip
    assert said.status == 1
    assert said.err == (
        "stocktrace: Another capture on this host already uses this API key "
        f"(session {SESSION}, process {os.getpid()}). Stop it first, or use a second key.\n"
    )
    assert not quick.data_dir.exists()


def test_a_full_disk_exits_1_with_a_sentence(quick: Studio, say: Callable[..., Said]) -> None:
    with quick.exchange() as exchange:
        said = say(
            "capture", "AAPL", "--for", "30s", "--url", exchange.url, "--data-dir",
            quick.data_dir, "--min-free-space", "1000000000GB",
        )  # fmt: skip
    assert said.status == 1
    assert re.search(r"stocktrace: The disk of .* has only \d+ MB left", said.err)


# --- signals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_capture_cleanly_and_publishes_everything(
    studio: Studio, number: signal.Signals
) -> None:
    market = SyntheticMarket(seed=5, rate=2000)
    with studio.exchange(market, settle=0.1) as exchange:
        with capturing(studio, exchange, "--json", "--roll-interval", "1s") as process:
            exchange.wait_for(lambda each: each.sent_trades > 1000, PATIENCE_S)
            process.send_signal(number)
            out, err = process.communicate(timeout=PATIENCE_S)
        frames = exchange.connections[0].frames
    assert process.returncode == 128 + number, err
    report = json.loads(out)
    assert (report["state"], report["reason"], report["unpublished"]) == (
        "interrupted", "interrupted", [],
    )  # fmt: skip
    kept = taped(studio.data_dir)
    assert kept == frames[: len(kept)]
    assert published(studio.data_dir) == sent(kept)
    assert report["books"]["recorded"] == sum(map(len, sent(kept).values())) > 500
    assert not [name for name in studio.files() if name.endswith((".open", ".csv", ".tape"))]
    assert "Traceback" not in err
    assert "\x1b" not in out + err


def test_a_second_signal_exits_at_once_and_the_tape_has_everything(studio: Studio) -> None:
    tickers = tuple(f"T{n}" for n in range(100))  # a hundred files to publish: an end that lasts
    market = SyntheticMarket(seed=5, rate=20_000)
    with studio.exchange(market, settle=0.5) as exchange:
        with capturing(studio, exchange, tickers=tickers) as process:
            exchange.wait_for(lambda each: each.sent_trades > 20_000, PATIENCE_S)
            process.send_signal(signal.SIGINT)
            exchange.wait_for(lambda each: each.open_connections == 0, PATIENCE_S)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=PATIENCE_S)
        frames = exchange.connections[0].frames
    assert process.returncode == 130
    assert "Traceback" not in err
    assert (
        SessionReport.read(next((studio.data_dir / "sessions").glob("*.json"))).state == "running"
    )
    kept = taped(studio.data_dir)
    assert len(kept) > 100
    assert kept == frames[: len(kept)]


def test_a_process_shows_no_key_in_its_title_nor_in_its_threads(studio: Studio) -> None:
    with studio.exchange() as exchange, capturing(studio, exchange) as process:
        exchange.wait_for(lambda each: bool(each.subscriptions), PATIENCE_S)
        folder = Path("/proc") / str(process.pid)
        titles = [folder / "cmdline", folder / "comm", *folder.glob("task/*/comm")]
        shown = b"".join(path.read_bytes() for path in titles)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert b"stocktrace" in shown
    assert studio.key.encode() not in shown
    assert studio.key not in out + err
