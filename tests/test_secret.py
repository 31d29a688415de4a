"""The key is never written: every way a capture can go, at DEBUG, then a search of everything."""

from __future__ import annotations

import io
import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import websocket
import zstandard
from pydantic import SecretStr

from stocktrace import cli
from stocktrace.errors import StocktraceError
from stocktrace.feed.client import FeedClient
from stocktrace.settings import Settings
from stocktrace.simulator import Fault, Simulator
from tests.conftest import Scenario, Studio, connected, frame, trades

# With signs that an URL must quote: either spelling would be the key.
KEY = "s3cret+key/with=signs&more%41"


@pytest.fixture
def trace() -> Iterator[io.StringIO]:
    """All that is logged at DEBUG, the trace of websocket-client included."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    root = logging.getLogger()
    before = root.level, logging.getLogger("stocktrace").level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    logging.getLogger("stocktrace").setLevel(logging.DEBUG)
    websocket.enableTrace(True, handler, level="DEBUG")
    yield text
    websocket.enableTrace(False)
    logging.getLogger("websocket").removeHandler(handler)
    root.removeHandler(handler)
    root.setLevel(before[0])
    logging.getLogger("stocktrace").setLevel(before[1])


@pytest.fixture
def secretive(studio: Studio) -> Studio:
    studio.key = KEY
    return studio


def spelled(text: str | bytes) -> list[str]:
    """The spellings of the key that stand in ``text``."""
    found = text.decode(errors="replace") if isinstance(text, bytes) else text
    spellings = {KEY, quote(KEY), quote(KEY, safe=""), KEY.encode().hex()}
    return [spelling for spelling in spellings if spelling in found]


def assert_silent(folder: Path, *texts: str) -> None:
    for path in folder.rglob("*"):
        assert not spelled(str(path))
        if path.is_file():
            assert not spelled(path.read_bytes()), path
    for text in texts:
        assert not spelled(text)


def by_trade(studio: Studio, exchange: Simulator) -> Scenario:
    yield connected
    exchange.send_raw(frame(("AAPL", 1), ("AAPL", -1)))
    exchange.send_raw(b"nonsense")
    yield trades(1)


def after_a_drop(studio: Studio, exchange: Simulator) -> Scenario:
    yield connected
    exchange.drop_all()
    yield lambda status: status.reconnects > 0 and status.connected


def after_a_close(studio: Studio, exchange: Simulator) -> Scenario:
    yield connected
    exchange.drop_all(1001)
    yield lambda status: status.reconnects > 0 and status.connected


def after_a_refusal(studio: Studio, exchange: Simulator) -> Scenario:
    yield lambda _: exchange.dials >= 2
    yield connected


def in_a_bug(studio: Studio, exchange: Simulator) -> Scenario:
    yield connected
    raise ZeroDivisionError("a watcher's own")


def never(studio: Studio, exchange: Simulator) -> Scenario:
    yield lambda _: False


WAYS: dict[str, tuple[Callable[[Studio, Simulator], Scenario], Fault | None]] = {
    "trades": (by_trade, None),
    "drop": (after_a_drop, None),
    "close": (after_a_close, None),
    "401": (never, Fault("status", status=401)),
    "403": (never, Fault("status", status=403)),
    "503": (after_a_refusal, Fault("status", status=503)),
    "200": (after_a_refusal, Fault("status", status=200)),
    "no answer": (after_a_refusal, Fault("no-answer")),
    "a bug": (in_a_bug, None),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_key_is_written_nowhere_whatever_happens(
    secretive: Studio,
    tmp_path: Path,
    trace: io.StringIO,
    capfd: pytest.CaptureFixture[str],
    way: str,
) -> None:
    scenario, fault = WAYS[way]
    said = ""
    with secretive.exchange(faults=[fault] if fault else []) as exchange:
        try:
            report = secretive.record(
                exchange,
                scenario=scenario(secretive, exchange),
                backoff_base=0.01,
                backoff_floor=0.01,
                handshake_timeout=0.2,
            )
            said = repr(report)
        except (StocktraceError, ZeroDivisionError) as error:
            said = "".join(traceback.format_exception(error)) + repr(error)
        assert exchange.dials >= 1
    out, err = capfd.readouterr()
    assert secretive.files()
    assert "token=***" in trace.getvalue() + err, "the trace was meant to be on"
    assert_silent(tmp_path, trace.getvalue(), said, out, err)


@pytest.mark.parametrize("url", ["ws://127.0.0.1:1", "ws://no.such.host.invalid"])
def test_a_connection_attempt_without_an_answer_does_not_show_it(
    secretive: Studio, tmp_path: Path, trace: io.StringIO, url: str
) -> None:
    report = secretive.record(url, lasting=0.3)
    assert report.state == "failed"
    assert_silent(tmp_path, trace.getvalue(), repr(report))


def test_the_command_line_does_not_show_it(
    secretive: Studio,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FINNHUB_API_KEY", KEY)
    with secretive.exchange() as exchange:
        words = [
            "--url",
            exchange.url,
            "--data-dir",
            str(secretive.data_dir),
            "--min-free-space",
            "0",
        ]
        assert cli.run(["capture", "AAPL", "--for", "300ms", *words]) == 0
        assert cli.run(["capture", "AAPL", "--for", "300ms", "--json", *words]) == 0
    monkeypatch.setenv("FINNHUB_API_KEY", f"{KEY} with a blank")
    assert cli.run(["capture", "AAPL", "--for", "1s", *words]) == 2
    assert cli.run(["capture", "AAPL", "--for", "1s", "--url", f"ws://x/?token={KEY}"]) == 2
    assert_silent(tmp_path, *capsys.readouterr())


def test_settings_do_not_show_it() -> None:
    settings = Settings.load().model_copy(update={"finnhub_api_key": SecretStr(KEY)})
    assert settings.key() == KEY
    shown = [repr(settings), str(settings), str(settings.public()), settings.model_dump_json()]
    assert not spelled(" ".join(shown))


def test_objects_that_hold_it_do_not_show_it(secretive: Studio) -> None:
    with secretive.exchange() as exchange:
        assert not spelled(repr(exchange) + repr(exchange.settings))
    assert not spelled(repr(FeedClient.__new__(FeedClient)))


def test_a_compressed_tape_does_not_contain_it(secretive: Studio, tmp_path: Path) -> None:
    with secretive.exchange() as exchange:
        secretive.record(exchange, scenario=by_trade(secretive, exchange))
    (tape,) = secretive.data_dir.glob("tape/*/*.zst")
    text = zstandard.ZstdDecompressor().stream_reader(tape.read_bytes()).read()
    assert b"AAPL" in text
    assert not spelled(text)
