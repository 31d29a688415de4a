"""Stories 58 and 59: a terminal that hangs up, and Ctrl-C before anything has begun."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

from stocktrace.cli.signals import handle_signals
from stocktrace.simulator import SyntheticMarket
from tests.cli.conftest import (
    PATIENCE_S,
    everything_is_recorded,
    ran,
    started,
)
from tests.conftest import Studio

MARKET = SyntheticMarket(rate=2000)

# --- 58 ------------------------------------------------------------------------------------------


def test_58_a_capture_whose_terminal_is_closed_stops_cleanly(studio: Studio) -> None:
    reading, writing = pty.openpty()
    with studio.exchange(MARKET, settle=0.1) as exchange:
        with started(studio, exchange, preexec_fn=lambda: os.login_tty(writing)) as process:
            os.close(writing)
            shown = b""
            while b"connected" not in shown:
                shown += os.read(reading, 4096)
            exchange.wait_for(lambda each: each.sent_trades > 1000, PATIENCE_S)
            os.close(reading)  # the system sends SIGHUP; what is written is an error from now on
            assert process.wait(PATIENCE_S) == 129
        everything_is_recorded(studio, exchange)
    report = studio.report()
    assert (report.state, report.reason, report.unpublished) == ("interrupted", "interrupted", [])


def test_58_an_ignored_hang_up_stops_nothing(studio: Studio) -> None:
    nohup = ("bash", "-c", 'trap "" HUP; exec "$@"', "_")
    with studio.exchange(MARKET, settle=0.1) as exchange:
        none: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with started(studio, exchange, *nohup, **none) as process:
            exchange.wait_for(lambda each: each.sent_trades > 1000, PATIENCE_S)
            process.send_signal(signal.SIGHUP)
            sent = exchange.sent_trades
            exchange.wait_for(lambda each: each.sent_trades > sent + 1000, PATIENCE_S)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 143
        everything_is_recorded(studio, exchange)


def test_58_a_second_hang_up_does_not_end_the_process_at_once() -> None:
    asked: list[None] = []
    before = signal.getsignal(signal.SIGHUP)
    with handle_signals(lambda: asked.append(None)) as caught:
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(number)  # the shell, the terminal and systemd
    assert caught.status == 129
    assert asked
    assert signal.getsignal(signal.SIGHUP) is before


# --- 59 ------------------------------------------------------------------------------------------

INTERRUPTED = """
import signal, sys

class Finder:
    def find_spec(name, path=None, target=None):
        if name == sys.argv[1]:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder)
from stocktrace.cli import main
main(sys.argv[2:])
"""


@pytest.mark.parametrize(
    "module", ["logging", "cyclopts", "pydantic", "stocktrace.live.api", "pyarrow.lib"]
)
def test_59_ctrl_c_during_imports_is_one_sentence(studio: Studio, module: str) -> None:
    words = ("capture", "AAPL", "--for", "60s", "--url", "ws://127.0.0.1:1")
    env = {**os.environ, "FINNHUB_API_KEY": studio.key}
    done = ran(sys.executable, "-c", INTERRUPTED, module, *words, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stocktrace: interrupted\n")


def test_a_signal_that_interrupts_a_wait_on_the_event_that_it_sets_does_not_hang() -> None:
    stop = threading.Event()
    with handle_signals(stop.set) as caught:
        with stop._cond:  # type: ignore[attr-defined]  # the main thread is inside Event.wait()
            signal.raise_signal(signal.SIGTERM)
        assert stop.wait(30)
    assert caught.status == 143
