"""Story 102: a capture that ends while it dials."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from stocktrace.sessions.report import SessionReport
from tests.conftest import Studio
from tests.feed.conftest import Listener, deaf
from tests.test_faults.conftest import Launch, Process, findings, record, report_of
from tests.waiting import eventually

PATIENT: dict[str, Any] = {"handshake_timeout": "60s"}
#: A name lookup that never ends; it creates a file when it begins.
BLACK_HOLE = """
import pathlib, socket, threading
def getaddrinfo(*_, **__):
    pathlib.Path({file!r}).touch()
    threading.Event().wait()
socket.getaddrinfo = getaddrinfo
"""


@dataclass(slots=True)
class Silence:
    """A server that never answers: its address, and how to see that a process waits for it."""

    url: str
    waits: Callable[[Process], object]
    before: str = ""
    environment: dict[str, str] = field(default_factory=dict)


def silences(sockets: ExitStack, folder: Path) -> dict[str, Silence]:
    listener = Listener(sockets)
    server = listener.url.removeprefix("ws://")
    file = folder / "looking"
    deaf_port = deaf(sockets)
    ours = {"no_proxy": "", "http_proxy": f"http://{server}"}
    return {
        "handshake": Silence(listener.url, lambda _: listener.accept()),
        "TLS": Silence(f"wss://{server}", lambda _: listener.accept()),
        "proxy": Silence("ws://exchange.example", lambda _: listener.accept(), environment=ours),
        "TCP": Silence(
            f"ws://127.0.0.1:{deaf_port}",
            lambda process: eventually(lambda: dials(process.popen.pid, deaf_port)),
        ),
        "name lookup": Silence(
            listener.url, lambda _: eventually(file.exists), BLACK_HOLE.format(file=str(file))
        ),
    }


def dials(pid: int, port: int) -> bool:
    """Return true while a process waits for an answer of ``port``."""
    return any(
        each.status == psutil.CONN_SYN_SENT and each.raddr[1] == port
        for each in psutil.Process(pid).net_connections("tcp")
    )


def nothing_false(report: SessionReport, said: str) -> None:
    """Nothing arrived: the feed is not blamed, and the tape is not said to hold anything."""
    assert (report.spilled, report.notices, report.books.frames) == ({}, [], 0)
    for word in ("did not end", "tape", "verify", "faster than", "left behind", "Traceback"):
        assert word not in said
        assert word not in report.reason
    assert [gap.reason for gap in report.gaps] == ["connecting"]


@pytest.mark.parametrize("step", ["name lookup", "TCP", "proxy", "TLS", "handshake"])
@pytest.mark.parametrize(
    ("number", "status"),
    [
        pytest.param(signal.SIGINT, 130, id="INT", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, id="TERM"),
    ],
)
def test_102_a_signal_in_a_dial_interrupts(
    studio: Studio,
    launch: Launch,
    sockets: ExitStack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    number: signal.Signals,
    status: int,
) -> None:
    silence = silences(sockets, tmp_path)[step]
    for name, value in silence.environment.items():
        monkeypatch.setenv(name, value)
    process = launch(silence.url, before=silence.before, **PATIENT)
    silence.waits(process)
    process.signal(number)
    ended, said = process.end()
    assert ended == status
    report = report_of(studio.data_dir)
    assert (report.state, report.reason) == ("interrupted", "interrupted")
    nothing_false(report, said)
    assert findings(studio.data_dir) == []


@pytest.mark.parametrize("step", ["name lookup", "TCP", "proxy", "TLS", "handshake"])
def test_102_a_dial_at_the_end_time_is_reported_with_its_stage(
    studio: Studio,
    sockets: ExitStack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step: str,
) -> None:
    silence = silences(sockets, tmp_path)[step]
    for name, value in silence.environment.items():
        monkeypatch.setenv(name, value)
    if step == "name lookup":
        answer = threading.Event()
        sockets.callback(answer.set)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer.wait(60) and [])
    report = record(studio, silence.url, lasting=0.5, **PATIENT)
    assert report.state == "failed"
    stage = {
        "name lookup": "the name lookup of 127.0.0.1",
        "TCP": f"the connection attempt to {silence.url.removeprefix('ws://')}",
        "proxy": f"CONNECT from the proxy {silence.environment.get('http_proxy', '')[7:]}",
        "TLS": "the TLS handshake",
        "handshake": "the handshake",
    }[step]
    assert report.reason == (
        f"not connected at the end: no connection was ever made; no answer yet to {stage}"
    )
    nothing_false(report, caplog.text)
    assert findings(studio.data_dir) == []
