"""Coins around the clock: one flow run ends, the next takes over its key (``crypto``)."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stocktrace.query.coverage import read_coverage
from stocktrace.sessions.report import SessionReport
from stocktrace.simulator import Simulator, SimulatorSettings, SyntheticMarket
from stocktrace.store.layout import Layout
from stocktrace.verify import verify
from tests.conftest import published, sent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
]

KEY = "keyofthecoins"
COINS = ["BINANCE:BTCUSDT", "BINANCE:ETHUSDT"]
# The second run is started with the first one's connection, and is up long before that ends.
FIRST_S, SECOND_S = 45.0, 55.0


@contextmanager
def capturing(
    folder: Path, name: str, url: str, until: datetime
) -> Iterator[subprocess.Popen[bytes]]:
    """A flow run in a process of its own; it waits for its key as long as it needs."""
    from prefect.settings import get_current_settings

    words = [*COINS, "--until", until.isoformat(), "--url", url, "--data-dir", str(folder)]
    env = {
        **os.environ,
        **get_current_settings().to_environment_variables(exclude_unset=True),
        "FINNHUB_API_KEY": KEY,
        "STOCKTRACE_WAIT_FOR_KEY": "5m",
    }
    with (
        folder.with_name(f"{name}.log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "flows.capture", *words], env=env, stdout=log, stderr=log
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def test_the_next_flow_run_takes_over_the_key_and_the_time_between_is_a_gap(
    server: str, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    market = SyntheticMarket(seed=3, rate=200.0)
    with Simulator(market, SimulatorSettings(key=KEY, keep=True)) as exchange:
        ends = [datetime.now(UTC) + timedelta(seconds=each) for each in (FIRST_S, SECOND_S)]
        with capturing(folder, "first", exchange.url, ends[0]) as first:
            exchange.wait_for(lambda one: one.dials == 1, timeout=120)
            with capturing(folder, "second", exchange.url, ends[1]) as second:
                status = first.wait(120), second.wait(120)
        assert status == (0, 0), [one.read_text() for one in tmp_path.glob("*.log")]
        assert exchange.dials == 2
        frames = [connection.frames for connection in exchange.connections]

    layout = Layout(folder)
    reports = [SessionReport.read(path) for path in sorted(layout.sessions.glob("*.json"))]
    old, _ = reports
    assert [one.state for one in reports] == ["complete", "complete"]
    # Never two at a time: the exchange would have cut the older one.
    assert [one.reconnects for one in reports] == [0, 0]
    assert [one.balanced for one in reports] == [True, True]
    assert [problem for one in reports for problem in verify(layout, one.session)] == []

    told = f"hand-over from session {old.session}, process {old.pid}"
    for coin in COINS:
        rows = read_coverage(coin, data_dir=folder).to_dict("records")
        assert [row["reason"] for row in rows] == ["connecting", "", told, ""]
        assert all(one["end"] == other["start"] for one, other in itertools.pairwise(rows))

    # What was on its way when a connection ended may be missing, and nothing else.
    was, then = (sent(each) for each in frames)
    found = published(folder)
    for coin in COINS:
        own = found[coin].index(then[coin][0])
        assert found[coin][:own] == was[coin][:own]
        assert found[coin][own:] == then[coin][: len(found[coin]) - own]
    assert sum(map(len, found.values())) == sum(one.books.trades for one in reports)
