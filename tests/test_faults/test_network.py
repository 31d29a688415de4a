"""Real paths to a server: through a proxy program, and over a slow and lossy network."""

from __future__ import annotations

import logging
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from stocktrace.errors import ProxyUnusable
from stocktrace.sessions.report import SessionReport
from stocktrace.simulator import Fault, Simulator, SyntheticMarket
from tests.conftest import Scenario, Studio, published, sent, taped
from tests.network import Namespace, lossy_path
from tests.test_faults.conftest import all_sent, findings, record
from tests.waiting import eventually

pytestmark = pytest.mark.slow
log = logging.getLogger(__name__)

TINYPROXY = """
Port 8888
Listen 10.9.0.1
Allow 10.9.0.1
BasicAuth me secret
"""


@pytest.fixture
def network() -> Iterator[Namespace]:
    with closing(Namespace()) as network:
        yield network


def muted_after(exchange: Simulator, trades: int, reconnects: int) -> Scenario:
    yield lambda status: status.trades >= trades and status.reconnects >= reconnects
    exchange.mute()
    yield lambda status: status.connected and status.trades >= exchange.sent_trades


def assert_exact(studio: Studio, report: SessionReport, exchange: Simulator) -> None:
    assert taped(studio.data_dir, report.session) == all_sent(exchange)
    assert published(studio.data_dir) == sent(all_sent(exchange))
    assert findings(studio.data_dir) == []


def test_50_a_capture_through_tinyproxy_is_exact(
    studio: Studio, network: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = shutil.which("tinyproxy")
    if program is None:
        pytest.skip("tinyproxy is not installed: see .ci/packages")
    settings = tmp_path / "tinyproxy.conf"
    settings.write_text(TINYPROXY)
    monkeypatch.setattr("stocktrace.simulator.simulator.HOST", "10.9.0.1")
    for name in ("http_proxy", "all_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://me:secret@10.9.0.1:8888")

    def listens() -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("10.9.0.1", 8888)) == 0

    def capture() -> None:
        with subprocess.Popen([program, "-d", "-c", settings], stdout=subprocess.DEVNULL) as proxy:
            try:
                eventually(listens)
                market = SyntheticMarket(rate=1000)
                with studio.exchange(
                    market, [Fault("drop", after_trades=1000)], settle=0.05
                ) as exchange:
                    scenario = muted_after(exchange, 2000, 1)
                    report = record(studio, exchange, scenario, ["AAPL", "MSFT"])
                    assert_exact(studio, report, exchange)
                    assert [gap.reason for gap in report.outages] == [
                        "connection lost: TCP ended without a close frame"
                    ]
                monkeypatch.setenv("HTTP_PROXY", "http://me:wrong@10.9.0.1:8888")
                with pytest.raises(ProxyUnusable, match=r"Correct the user and the password"):
                    record(studio, exchange)
            finally:
                proxy.terminate()

    network.run(capture)


@pytest.mark.parametrize("rate", [57, 300, 1500])
def test_a_capture_over_a_slow_and_lossy_network_is_exact(
    studio: Studio, network: Namespace, monkeypatch: pytest.MonkeyPatch, rate: int
) -> None:
    """A round trip of 200 ms, 1 % loss, 10 Mbit/s; the bounds of the feed are the default ones."""
    monkeypatch.setattr("stocktrace.simulator.simulator.HOST", "10.9.1.2")
    defaults: dict[str, Any] = {"ping_interval": "8s", "pong_timeout": "8s"}
    with closing(Namespace()) as far, lossy_path(network, far) as (up, down):
        drop = Fault("drop", after_trades=10 * rate)
        exchange = studio.exchange(SyntheticMarket(rate=rate), [drop], settle=0.05)
        far.run(exchange.start)
        try:
            scenario = muted_after(exchange, 25 * rate, 1)
            report = network.run(
                lambda: record(
                    studio, exchange, scenario, ["AAPL", "MSFT"], lasting=110.0, **defaults
                )
            )
            assert_exact(studio, report, exchange)
        finally:
            exchange.stop()
    assert [gap.reason for gap in report.outages] == [
        "connection lost: TCP ended without a close frame"
    ]
    assert up.lost > 0 or down.lost > 0
    log.info(
        "%d/s: %d trades, %d packets, %d lost; %s; gaps of %s s",
        rate,
        report.books.trades,
        up.packets + down.packets,
        up.lost + down.lost,
        report.latency,
        [round(gap.seconds, 2) for gap in report.gaps],
    )
