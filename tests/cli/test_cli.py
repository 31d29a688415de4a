from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from stocktrace import __version__, cli
from stocktrace.errors import Died
from stocktrace.exchange import Exchange, SyntheticMarket, synthetic_frames
from stocktrace.report import Report
from stocktrace.store import parquet
from stocktrace.store.layout import Layout
from stocktrace.store.names import Part
from stocktrace.store.segment import SegmentWriter
from stocktrace.trade import Trade
from tests.conftest import NOON, SESSION, WINDOW, Studio, published, sent, taped, tree
from tests.store.conftest import batch_of

PART = Part(SESSION, WINDOW)
# Long enough for a busy machine to import everything, in seconds.
PATIENCE_S = 60


@dataclass(frozen=True)
class Said:
    status: int
    out: str
    err: str


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs a command in this process."""

    def say(*words: object) -> Said:
        capsys.readouterr()
        status = cli.run([str(word) for word in words])
        captured = capsys.readouterr()
        return Said(status, captured.out, captured.err)

    return say


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a few published trades."""
    layout = Layout(tmp_path / "data")
    writer = SegmentWriter(layout, PART)
    t = NOON // 10**6
    writer.write(
        batch_of(
            [
                Trade("AAPL", 1.5, t, 100.0, ("1", "12")),
                Trade("AAPL", 0.1, t + 1, 0.25),
                Trade("7203", 3.0, t, 1.0),
            ],
            NOON + 5000,
        )
    )
    writer.seal()
    for segment in layout.sealed_segments(PART):
        parquet.convert(layout, segment)
    return layout.root


def environment(studio: Studio, **more: str) -> dict[str, str]:
    return {**os.environ, "FINNHUB_API_KEY": studio.key, **more}


@contextlib.contextmanager
def capturing(
    studio: Studio, exchange: Exchange, *words: str, tickers: tuple[str, ...] = ("AAPL",)
) -> Iterator[subprocess.Popen[str]]:
    """``stocktrace capture`` as a process of its own; killed if a test fails."""
    command = [sys.executable, "-m", "stocktrace", "capture", *tickers, "--for", "60s"]
    command += ["--url", exchange.url, "--data-dir", str(studio.data_dir), *words]
    with subprocess.Popen(
        command,
        env=environment(studio),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


# --- wrong usage: one sentence, status 2, nothing made ---------------------------------------

GOOD = ("capture", "AAPL", "--for", "1s")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("capture", "--for", "1s"), "Name at least one ticker"),
        (("capture", "é", "--for", "1s"), "'é' is no ticker"),
        (("capture", "A,B\n", "--for", "1s", "AA\nBB"), "is no ticker"),
        (("capture", "AAPL"), "Say how long: lasting (--for 30m) or until (--until 16:00)"),
        ((*GOOD, "--until", "23:59"), "Say how long: lasting (--for 30m) or until (--until 16:00)"),
        (("capture", "AAPL", "--for", "soon"), "'soon' is no duration"),
        (("capture", "AAPL", "--for", "0s"), "'0s' is no duration"),
        (("capture", "AAPL", "--for=-5s"), "'-5s' is no duration"),
        (("capture", "AAPL", "--for", "9999d"), "is no duration"),
        (("capture", "AAPL", "--until", "2001-01-01T00:00"), "has passed"),
        (("capture", "AAPL", "--until", "25:00"), "'25:00' is no time"),
        (("capture", "AAPL", "--until", "tomorrow"), "'tomorrow' is no time"),
        ((*GOOD, "--url", "http://x"), "--url: 'http://x' is no WebSocket address"),
        ((*GOOD, "--url", "wss://x?token=abc"), "--url: Take the key out of the URL"),
        ((*GOOD, "--url", "ws://:99999"), "--url: "),
        ((*GOOD, "--roll-every", "often"), "--roll-every: 'often' is no duration"),
        ((*GOOD, "--queue-rows", "0"), "--queue-rows: "),
        ((*GOOD, "--batch-rows", "many"), "--batch-rows: "),
        ((*GOOD, "--roll-size", "big"), "--roll-size: 'big' is no size"),
        ((*GOOD, "--no-such"), "--no-such"),
        ((*GOOD, "--progress", "fireworks"), "fireworks"),
        (("capture", "AAPL", "--for"), "--for"),
        (("captur", "AAPL"), "captur"),
        (("--no-such",), "--no-such"),
        (("exchange", "--ping-every", "often"), "'often' is no duration"),
        (("exchange", "--rate", "0"), "must be above 0"),
        (("exchange", "--port", "99999"), "99999 is no port"),
        (("exchange", "--key", ""), "key must not be empty"),
        (("demo", "é"), "'é' is no ticker"),
        (("demo", "--for", "x"), "'x' is no duration"),
        (("convert", "--data-dir", "nowhere"), "There is no data folder nowhere"),
        (("sessions", "--data-dir", "nowhere"), "There is no data folder nowhere"),
        (("trades", "AAPL", "--data-dir", "nowhere"), "There is no data folder nowhere"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence_with_status_2_and_nothing_is_made(
    say: Callable[..., Said],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.setenv("FINNHUB_API_KEY", "a-key")
    said = say(*words)
    assert sentence in said.err
    assert said.status == 2
    assert said.out == ""
    assert said.err.startswith("stocktrace: ")
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    assert [name for name in tree(Path.cwd()) if not name.startswith(".")] == []


def test_a_missing_key_is_told_with_the_way_to_one(say: Callable[..., Said]) -> None:
    said = say(*GOOD)
    assert (said.status, said.out) == (2, "")
    assert said.err == (
        "stocktrace: Set FINNHUB_API_KEY, in the environment or in a .env file; a free key is at "
        "https://finnhub.io/register. Without one, try `stocktrace demo`.\n"
    )
    assert not Path("data").exists()


def test_a_file_in_the_place_of_the_data_folder_is_told(
    say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FINNHUB_API_KEY", "a-key")
    file = tmp_path / "file"
    file.write_text("mine")
    for folder in (file, file / "below"):
        said = say(*GOOD, "--data-dir", folder, "--url", "ws://127.0.0.1:1")
        assert said.status == 2
        assert said.err.startswith(f"stocktrace: Cannot write to the data folder {folder} (")
        assert said.err.endswith("): give another one with --data-dir.\n")
    assert tree(tmp_path) == ["file"]
    assert file.read_text() == "mine"


@pytest.mark.parametrize("command", ["trades AAPL", "sessions", "convert"])
def test_a_command_about_a_file_is_told_that_it_is_no_folder(
    say: Callable[..., Said], tmp_path: Path, command: str
) -> None:
    (tmp_path / "file").write_text("mine")
    said = say(*command.split(), "--data-dir", tmp_path / "file")
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("stocktrace: There is no data folder ")


def test_a_setting_in_the_environment_that_is_wrong_is_named(
    say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINNHUB_API_KEY", "a-key")
    monkeypatch.setenv("STOCKTRACE_ROLL_EVERY", "often")
    said = say(*GOOD)
    assert said.status == 2
    assert said.err.startswith("stocktrace: STOCKTRACE_ROLL_EVERY: 'often' is no duration")


def test_a_tape_that_is_not_there_is_told(say: Callable[..., Said]) -> None:
    said = say("exchange", "--tape", "nowhere.tape")
    assert said.status in {1, 2}
    assert said.err.startswith("stocktrace: There is no tape")


# --- capture ---------------------------------------------------------------------------------


@pytest.fixture
def quick(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> Studio:
    """The key in the environment, for captures in this process."""
    monkeypatch.setenv("FINNHUB_API_KEY", studio.key)
    return studio


def test_capture_records_and_prints_the_books(quick: Studio, say: Callable[..., Said]) -> None:
    with quick.exchange(SyntheticMarket(rate=2000, trades=300), settle=0.1) as exchange:
        said = say(
            "capture", "AAPL", "BINANCE:BTCUSDT,OANDA:EUR_USD", "--for", "1.5s", "--url",
            exchange.url, "--data-dir", quick.data_dir, "--min-free", 0,
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
            exchange.url, "--data-dir", quick.data_dir, "--min-free", 0,
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
        monkeypatch.setenv("STOCKTRACE_MIN_FREE", "0")
        monkeypatch.setenv("STOCKTRACE_ROLL_EVERY", "1h")
        said = say("capture", "AAPL", "--for", "300ms", "--json", "--data-dir", quick.data_dir)
    assert said.status == 0, said.err
    settings = json.loads(said.out)["settings"]
    assert (settings["roll_every"], settings["data_dir"]) == (3600.0, str(quick.data_dir))
    assert not Path("elsewhere").exists()


def test_a_capture_that_never_connects_exits_1_with_the_reason(
    quick: Studio, say: Callable[..., Said]
) -> None:
    said = say(
        "capture", "AAPL", "--for", "300ms", "--url", "ws://127.0.0.1:1", "--data-dir",
        quick.data_dir, "--min-free", 0,
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
            quick.data_dir, "--min-free", 0,
        )  # fmt: skip
    assert said.status == 1
    assert said.err.splitlines()[-1] == (
        "stocktrace: The server refused the API key (HTTP 401): "
        "check FINNHUB_API_KEY at https://finnhub.io/dashboard."
    )
    assert "Traceback" not in said.err


def test_a_key_in_use_exits_1_with_a_sentence(quick: Studio, say: Callable[..., Said]) -> None:
    from stocktrace.store import lock

    with lock.one_capture_per_key(quick.key, "ws://127.0.0.1:1", SESSION):
        said = say(
            "capture", "AAPL", "--for", "1s", "--url", "ws://127.0.0.1:1", "--data-dir",
            quick.data_dir,
        )  # fmt: skip
    assert said.status == 1
    assert said.err == (
        "stocktrace: Another capture on this host already uses this API key "
        f"(session {SESSION}, process {os.getpid()}): stop it first, or use a second key.\n"
    )
    assert not quick.data_dir.exists()


def test_a_full_disk_exits_1_with_a_sentence(quick: Studio, say: Callable[..., Said]) -> None:
    with quick.exchange() as exchange:
        said = say(
            "capture", "AAPL", "--for", "30s", "--url", exchange.url, "--data-dir",
            quick.data_dir, "--min-free", "1000000000GB",
        )  # fmt: skip
    assert said.status == 1
    assert re.search(r"stocktrace: The disk of .* has only \d+ MB left", said.err)


# --- signals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order_and_publishes_everything(
    studio: Studio, number: signal.Signals
) -> None:
    market = SyntheticMarket(seed=5, rate=2000)
    with studio.exchange(market, settle=0.1) as exchange:
        with capturing(studio, exchange, "--json", "--roll-every", "1s") as process:
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


def test_a_second_signal_leaves_at_once_and_the_tape_has_what_was_received(studio: Studio) -> None:
    tickers = tuple(f"T{n}" for n in range(100))  # a hundred files to publish: an end that lasts
    market = SyntheticMarket(seed=5, rate=20_000)
    with studio.exchange(market, settle=0.5) as exchange:
        with capturing(studio, exchange, tickers=tickers) as process:
            exchange.wait_for(lambda each: each.sent_trades > 20_000, PATIENCE_S)
            process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.02)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=PATIENCE_S)
        frames = exchange.connections[0].frames
    assert process.returncode == 130
    assert "Traceback" not in err
    assert Report.read(next((studio.data_dir / "sessions").glob("*.json"))).state == "running"
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


# --- what is on disk -------------------------------------------------------------------------


def test_trades_are_printed_as_a_table(say: Callable[..., Said], data: Path) -> None:
    said = say("trades", "AAPL", "7203", "--data-dir", data)
    assert said.status == 0
    assert said.out == (
        "symbol  ts_event                       ts_recv                         "
        "  price  volume  conditions\n"
        "AAPL    2026-11-23 14:30:00.000+00:00  2026-11-23 14:30:00.000005+00:00"
        "    1.5   100.0  1 12\n"
        "AAPL    2026-11-23 14:30:00.001+00:00  2026-11-23 14:30:00.000005+00:00"
        "    0.1    0.25\n"
        "7203    2026-11-23 14:30:00.000+00:00  2026-11-23 14:30:00.000005+00:00"
        "    3.0     1.0\n"
    )


def test_trades_are_printed_as_csv(say: Callable[..., Said], data: Path) -> None:
    said = say("trades", "AAPL", "7203", "--csv", "--data-dir", data)
    rows = list(csv.DictReader(io.StringIO(said.out)))
    assert [(row["symbol"], float(row["price"]), row["conditions"]) for row in rows] == [
        ("AAPL", 1.5, "1 12"),
        ("AAPL", 0.1, ""),
        ("7203", 3.0, ""),
    ]


def test_trades_are_printed_as_json_one_a_line(say: Callable[..., Said], data: Path) -> None:
    said = say("trades", "AAPL", "--json", "--tail", 1, "--data-dir", data)
    assert json.loads(said.out) == {
        "symbol": "AAPL",
        "ts_event": "2026-11-23T14:30:00.001000Z",
        "ts_recv": "2026-11-23T14:30:00.000005Z",
        "price": 0.1,
        "volume": 0.25,
        "conditions": "",
    }


def test_trades_of_nothing_are_a_header(say: Callable[..., Said], data: Path) -> None:
    said = say("trades", "MSFT", "--data-dir", data)
    assert (said.status, said.err) == (0, "")
    assert said.out.split() == ["symbol", "ts_event", "ts_recv", "price", "volume", "conditions"]


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (("--date", "2026-11-23"), 2),
        (("--date", "2026-11-24"), 0),
        (("--start", "2026-11-23T14:30:00.001Z"), 1),
        (("--end", "2026-11-23T14:30:00.001Z"), 1),
        (("--tail", "1"), 1),
        (("--tail", "0"), 2),
    ],
)
def test_trades_are_chosen_by_time_and_number(
    say: Callable[..., Said], data: Path, words: tuple[str, ...], count: int
) -> None:
    said = say("trades", "AAPL", *words, "--csv", "--data-dir", data)
    assert said.status == 0
    assert len(said.out.splitlines()) == count + 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("trades",), "Name at least one ticker"),
        (("trades", "AAPL", "--date", "today"), "'today' is no date"),
        (("trades", "AAPL", "--start", "soon"), "'soon' is no time"),
        (("trades", "AAPL", "--date", "2026-11-23", "--end", "2026-11-24"), "not both"),
        (("trades", "AAPL", "--csv", "--json"), "Mutually exclusive"),
        (("trades", "AAPL", "--parquet"), "--parquet"),
        (("trades", "AAPL", "--tail=-1"), "--tail"),
        (("trades", "AAPL", "--tail", "x"), "--tail"),
    ],
)
def test_a_question_about_trades_that_makes_no_sense_is_told(
    say: Callable[..., Said], data: Path, words: tuple[str, ...], sentence: str
) -> None:
    said = say(*words, "--data-dir", data)
    assert (said.status, said.out) == (2, "")
    assert sentence in said.err
    assert said.err.count("\n") == 1


def test_a_damaged_file_is_told_and_not_shown(say: Callable[..., Said], data: Path) -> None:
    path = Layout(data).parquet("AAPL", PART)
    path.write_bytes(path.read_bytes()[:-9])
    said = say("trades", "AAPL", "--data-dir", data)
    assert said.status == 1
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    assert said.out == ""


def test_sessions_are_listed(quick: Studio, say: Callable[..., Said]) -> None:
    with quick.exchange() as exchange:
        quick.record(exchange, lasting=0.3)
    dead = Report(SESSION, ["AAPL", "MSFT"], quick.report().started)
    dead.write(quick.data_dir / "sessions" / f"{SESSION}.json")
    said = say("sessions", "--data-dir", quick.data_dir)
    assert said.status == 0
    states = [line.split()[1] for line in said.out.splitlines()]
    assert sorted(states) == ["complete", "dead", "state"]
    said = say("sessions", "--json", "--data-dir", quick.data_dir)
    reports = [json.loads(line) for line in said.out.splitlines()]
    assert sorted(report["state"] for report in reports) == ["complete", "dead"]


def test_a_report_that_is_damaged_is_named_and_the_others_are_listed(
    say: Callable[..., Said], data: Path
) -> None:
    folder = data / "sessions"
    folder.mkdir()
    (folder / "a.json").write_text('{"session": "a"')
    started = datetime(2026, 11, 23, tzinfo=UTC)
    Report(SESSION, ["AAPL"], started).write(folder / "b.json")
    said = say("sessions", "--data-dir", data)
    assert said.status == 1
    assert SESSION in said.out
    died, damaged = said.err.splitlines()
    assert died == f"stocktrace: {Died(SESSION)}"
    assert damaged.startswith(f"stocktrace: {folder / 'a.json'} is no report")


def test_an_empty_folder_has_no_sessions(say: Callable[..., Said], tmp_path: Path) -> None:
    told = "no sessions yet: record one with `stocktrace capture` or `stocktrace demo`\n"
    assert say("sessions", "--data-dir", tmp_path) == Said(0, told, "")


def test_convert_publishes_what_is_sealed_and_again_nothing(
    say: Callable[..., Said], tmp_path: Path
) -> None:
    layout = Layout(tmp_path)
    writer = SegmentWriter(layout, PART)
    writer.write(
        batch_of([Trade("A:B", 1.0, NOON // 10**6, 1.0), Trade("C", 1.0, NOON // 10**6, 1.0)])
    )
    writer.seal()
    assert say("convert", "--data-dir", tmp_path).out == "2 segments converted, 2 trades\n"
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in tree(tmp_path)}
    assert say("convert", "--data-dir", tmp_path) == Said(0, "0 segments converted, 0 trades\n", "")
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in tree(tmp_path)} == before
    said = say("convert", "--json", "--data-dir", tmp_path)
    assert json.loads(said.out) == {"files": 0, "rows": 0, "failed": []}


def test_convert_names_a_torn_segment_exits_1_and_converts_the_rest(
    say: Callable[..., Said], tmp_path: Path
) -> None:
    layout = Layout(tmp_path)
    writer = SegmentWriter(layout, PART)
    writer.write(
        batch_of([Trade("A", 1.0, NOON // 10**6, 1.0), Trade("B", 1.0, NOON // 10**6, 1.0)])
    )
    writer.seal()
    torn = layout.csv("A", PART)
    text = torn.read_bytes()[:-3]
    torn.write_bytes(text)
    foreign = torn.with_name("mine.csv")
    foreign.write_text("x")
    said = say("convert", "--data-dir", tmp_path)
    assert said.status == 1
    assert said.out == "1 segment converted, 1 trade\n"
    assert sorted(said.err.splitlines()) == [
        f"stocktrace: {torn} is torn: its last line has no end.",
        f"stocktrace: {foreign} is no file of stocktrace: move it out of the data folder.",
    ]
    assert torn.read_bytes() == text
    assert sorted(tree(tmp_path)) == sorted(
        [
            str(torn.relative_to(tmp_path)),
            str(foreign.relative_to(tmp_path)),
            str(layout.parquet("B", PART).relative_to(tmp_path)),
            str(layout.lock(SESSION).relative_to(tmp_path)),
        ]
    )


# --- the simulated exchange ------------------------------------------------------------------


def test_exchange_prints_its_address_and_plays_a_tape(studio: Studio, tmp_path: Path) -> None:
    frames = [each for _, each in synthetic_frames(["AAPL"], 200)]
    tape = tmp_path / "a.tape"
    tape.write_bytes(b"".join(b"%d\t%s\n" % (NOON + n, each) for n, each in enumerate(frames)))
    command = [sys.executable, "-m", "stocktrace", "exchange", "--tape", str(tape)]
    command += ["--speed", "0", "--key", studio.key, "--ping-every", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
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
        finally:
            process.kill()
    assert (process.returncode, err) == (130, "")
    assert "the recording is over, 200 trades were sent; connections stay open" in over
    assert report.books.recorded == 200
    assert published(studio.data_dir) == sent(frames)


def test_exchange_ends_by_itself_when_it_was_told_how_long(say: Callable[..., Said]) -> None:
    said = say("exchange", "--for", "100ms")
    assert said.status == 0
    assert re.fullmatch(r"ws://127\.0\.0\.1:\d+\n", said.out)


def test_demo_needs_no_key_and_no_network_and_reads_back_what_it_recorded(
    say: Callable[..., Said], tmp_path: Path
) -> None:
    said = say("demo", "--for", "3s", "--data-dir", tmp_path, "--min-free", 0)
    assert said.status == 0, said.err
    assert "the books balance" in said.out
    assert "stocktrace.read_trades('AAPL'" in said.out
    assert "\x1b" not in said.out + said.err
    rows = published(tmp_path)
    assert set(rows) == {"AAPL", "MSFT", "NVDA", "BRK.B", "BINANCE:BTCUSDT", "OANDA:EUR_USD"}
    last = said.out.splitlines()[-1].split()
    assert last[0] == "AAPL"
    assert float(last[5]) == rows["AAPL"][-1][1]


# --- help ------------------------------------------------------------------------------------

LOADED = """
import sys
from stocktrace.cli import run
status = run(sys.argv[1:])
heavy = {"prefect", "pandas", "pandera", "pyarrow", "polars", "duckdb", "websockets", "zstandard"}
print("LOADED", sorted(heavy & set(sys.modules)))
sys.exit(status)
"""


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--help"], 0),
        (["capture", "--help"], 0),
        (["--version"], 0),
        (["capture", "AAPL", "--for", "x"], 2),
        (["capture", "AAPL", "--for", "1s"], 2),
    ],
)
def test_help_and_mistakes_load_nothing_that_is_slow(words: list[str], status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.stdout.splitlines()[-1] == "LOADED []"
    assert done.returncode == status
    assert "\x1b" not in done.stdout + done.stderr


def test_importing_the_package_loads_nothing_that_is_slow() -> None:
    code = "import stocktrace, sys; print(sorted({'pandas', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    assert done.stdout == "[]\n"


def test_help_names_every_command_and_every_setting(say: Callable[..., Said]) -> None:
    from stocktrace.settings import Settings

    said = say("--help")
    assert said.status == 0
    for command in ("capture", "demo", "exchange", "convert", "trades", "sessions"):
        assert re.search(rf"^\W*{command}\b", said.out, re.MULTILINE)
    text = say("capture", "--help").out
    for name in Settings.model_fields:
        flag = f"--{name.replace('_', '-')}"
        assert (flag in text) == (name != "finnhub_api_key"), "a key on a command line can be seen"
    assert "--for" in text
    assert "--until" in text


def test_the_version_is_printed(say: Callable[..., Said]) -> None:
    assert say("--version") == Said(0, f"{__version__}\n", "")


def test_a_reader_that_goes_away_is_no_failure(data: Path) -> None:
    command = [sys.executable, "-m", "stocktrace", "trades", "AAPL", "--data-dir", str(data)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
        process.wait(PATIENCE_S)
    assert (process.returncode, err) == (0, "")


def test_python_m_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stocktrace", "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    assert done.stdout == f"{__version__}\n"


def test_signals_are_given_back_after_a_command(say: Callable[..., Said]) -> None:
    before = signal.getsignal(signal.SIGINT)
    say("exchange", "--for", "50ms")
    assert signal.getsignal(signal.SIGINT) is before
