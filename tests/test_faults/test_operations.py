"""Stories 29, 42, 43 and 45: how captures end, how they overlap, and the key."""

from __future__ import annotations

import logging
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import websocket

from stocktrace import cli
from stocktrace.errors import KeyRefused
from stocktrace.simulator import Fault, ScriptedSource, Simulator, SyntheticMarket
from stocktrace.store.layout import Layout
from tests.conftest import Scenario, Studio, published, sent, taped
from tests.feed.conftest import Listener, close
from tests.test_faults.conftest import (
    SLACK,
    Launch,
    all_sent,
    events,
    findings,
    numbered,
    record,
    report_of,
)
from tests.waiting import eventually


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"]
)
def test_29_a_signal_under_load_loses_no_frame_that_was_received(
    studio: Studio, launch: Launch, number: signal.Signals, status: int
) -> None:
    with studio.exchange(SyntheticMarket(rate=5000), settle=0.05) as exchange:
        process = launch(exchange, "AAPL", "MSFT", "NVDA")
        eventually(lambda: process.taped > 200_000)
        process.signal(number)
        assert process.end()[0] == status
        everything = all_sent(exchange)
    report = report_of(studio.data_dir)
    assert (report.state, report.reason) == ("interrupted", "interrupted")
    kept = taped(studio.data_dir, report.session)
    assert kept == everything[: len(kept)]
    assert published(studio.data_dir) == sent(kept)
    assert report.books.frames == len(kept)
    assert findings(studio.data_dir) == []


def test_29_a_second_signal_exits_at_once_and_the_rest_is_recoverable(
    studio: Studio, launch: Launch
) -> None:
    # The end waits for a disk that takes its time; a person does not.
    before = """
import threading
from stocktrace.record import recorder
recorder.SegmentWriter.seal = lambda *_, **__: threading.Event().wait()
"""
    with studio.exchange(SyntheticMarket(rate=2000), settle=0.05) as exchange:
        process = launch(exchange, before=before)
        eventually(lambda: process.taped > 50_000)
        process.signal(signal.SIGINT)
        exchange.wait_for(lambda exchange: exchange.open_connections == 0, 30)
        process.signal(signal.SIGINT)
        began = time.monotonic()
        assert process.end()[0] == 130
        assert time.monotonic() - began < SLACK
        everything = all_sent(exchange)
    session = report_of(studio.data_dir).session
    kept = taped(studio.data_dir, session)
    assert kept == everything[: len(kept)]
    with studio.exchange() as exchange:
        record(studio, exchange, recovered(studio), ["MSFT"])
    assert published(studio.data_dir) == sent(kept)
    assert findings(studio.data_dir) == []


def recovered(studio: Studio) -> Scenario:
    yield lambda _: bool(events(studio.data_dir, "recover"))


@pytest.mark.parametrize(
    "fault",
    [
        Fault("stall", after_trades=5),
        Fault("half-frame", after_trades=5),
        Fault("no-answer"),
        Fault("handshake-delay"),
    ],
    ids=lambda fault: fault.kind,
)
def test_42_the_window_ends_on_time_with_a_blocked_socket(studio: Studio, fault: Fault) -> None:
    patient: dict[str, Any] = {
        "ping_interval": "60s", "pong_timeout": "60s", "frame_timeout": "60s",
        "handshake_timeout": "60s",
    }  # fmt: skip
    before = set(threading.enumerate())
    with studio.exchange(ScriptedSource(numbered(20)), [fault], settle=0.05) as exchange:
        began = time.monotonic()
        report = record(studio, exchange, lasting=1.5, **patient)
        took = time.monotonic() - began
    assert 1.5 <= took < 1.5 + 2.0 + SLACK
    if fault.is_handshake:
        assert report.state == "failed"
        assert report.reason.startswith("not connected at the end")
    else:
        assert report.state == "complete"
        assert report.books.recorded == 5
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert left <= {"stocktrace-dial"}  # a guard that is about to look up


def test_43_a_run_that_overlaps_is_refused_and_the_next_one_is_not(
    studio: Studio,
    launch: Launch,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FINNHUB_API_KEY", studio.key)
    with studio.exchange(SyntheticMarket(rate=500), settle=0.05) as exchange:
        first = launch(exchange)
        eventually(lambda: first.taped > 5_000)
        session = report_of(studio.data_dir).session
        command = ["capture", "MSFT", "--for", "60s", "--url", exchange.url]
        status = cli.run([*command, "--data-dir", str(studio.data_dir)])
        said = capsys.readouterr().err
        assert status == 1
        assert said.splitlines()[-1] == (
            f"stocktrace: Another capture on this host already uses this API key (session {session}"
            f", process {first.popen.pid}). Stop it first, or use a second key."
        )
        assert (exchange.dials, exchange.open_connections) == (1, 1)
        first.signal(signal.SIGTERM)
        assert first.end()[0] == 143
        assert record(studio, exchange, lasting=0.5).state == "complete"
    assert events(studio.data_dir, "start")[0]["session"] == session
    assert len(list(Layout(studio.data_dir).sessions.glob("*.json"))) == 2
    assert findings(studio.data_dir) == []


#: Characters that a URL and a regular expression treat as their own.
NASTY = "s3cr3t/k+y=%7E&x"


def everything_written(folder: Path) -> bytes:
    return b"\n".join(
        str(path).encode() + b"\n" + path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    )


def test_45_the_key_is_nowhere(
    studio: Studio,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    websocket.enableTrace(True)  # as websocket-client's users do to find an error
    studio.key = NASTY
    faults = [
        Fault("status", status=524),
        Fault("status", status=200, after_connections=1),
        Fault("no-answer", after_connections=2),
        Fault("drop", after_trades=1),
        Fault("reset", after_trades=1, after_connections=1),
        Fault("close", after_trades=1, after_connections=2, code=1008),
        Fault("stall", after_trades=1, after_connections=3),
        Fault("half-frame", after_trades=1, after_connections=4),
        Fault("malformed", after_connections=5),
        Fault("inject", after_connections=5, frame=b'{"type":"error","msg":"bad key"}'),
        Fault("truncate", after_connections=5),
    ]

    def scenario(exchange: Simulator) -> Scenario:
        yield lambda status: status.reconnects >= 5
        yield lambda _: exchange.sent_frames > 60

    said: list[str] = []
    try:
        with studio.exchange(SyntheticMarket(rate=500), faults, settle=None) as exchange:
            report = record(studio, exchange, scenario(exchange), handshake_timeout="500ms")
        said += [repr(report), str(report.settings)]
        said += list(unfriendly(studio))
    finally:
        websocket.enableTrace(False)
        logging.getLogger("websocket").handlers.clear()
    out, err = capfd.readouterr()
    said += [out, err, caplog.text, *(repr(vars(record)) for record in caplog.records)]
    said += [repr(studio.settings("ws://127.0.0.1:1"))]
    assert any("Sec-WebSocket-Key" in text for text in said)  # the trace did trace
    text = "\n".join(said).encode() + everything_written(tmp_path)
    for key in (NASTY, quote(NASTY), quote(NASTY, safe=""), "s3cr3t"):
        place = text.find(key.encode())
        assert place < 0, text[max(0, place - 200) : place + 100]


def unfriendly(studio: Studio):
    """Answers of a server that repeats everything it received: in bodies, reasons and headers."""

    def answer(listener: Listener, seen: list[str]) -> None:
        for status in (503, 301, 403):
            peer = listener.accept()
            request = peer.request()
            seen.append(request)
            body = request.encode()
            where = f"Location: {listener.url}/?token={NASTY}\r\n" if status == 301 else ""
            peer.send(
                b"HTTP/1.1 %d token=%s\r\n%sContent-Length: %d\r\n\r\n%s"
                % (status, NASTY.encode(), where.encode(), len(body), body)
            )
            peer.sock.close()
            if status == 503:
                peer = listener.upgrade()
                peer.send(close(1008, f"bad key {NASTY}".encode()))
                peer.ended()

    seen: list[str] = []
    with ExitStack() as sockets:
        listener = Listener(sockets)
        server = threading.Thread(target=answer, args=(listener, seen))
        server.start()
        try:
            record(studio, listener.url)
        except KeyRefused as error:
            told = error
        finally:
            server.join(30)
    assert len(seen) == 3
    assert all(quote(NASTY) in request for request in seen)
    link: BaseException | None = told
    while link is not None:
        yield f"{link!r} {link}"
        link = link.__cause__ or link.__context__
    yield report_of(studio.data_dir).reason


def test_45_a_key_that_is_refused_is_not_shown(studio: Studio, launch: Launch) -> None:
    other = studio.key
    with studio.exchange() as exchange:
        studio.key = "s3cr3t" + other
        process = launch(exchange)
        status, said = process.end()
    assert status == 1
    assert said.splitlines()[-1] == (
        "stocktrace: The server refused the API key (HTTP 401). "
        "Check FINNHUB_API_KEY at https://finnhub.io/dashboard."
    )
    assert "s3cr3t" not in said
    assert b"s3cr3t" not in everything_written(studio.data_dir)
    assert exchange.dials == 1
