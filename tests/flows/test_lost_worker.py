"""A fleet on one machine: two keys, two homes, Prefect on PostgreSQL, an S3 store."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

import stocktrace
from stocktrace.sessions.report import SessionReport
from stocktrace.simulator import Simulator, SimulatorSettings, SyntheticMarket
from stocktrace.store.lake import Lake
from tests.cloud import Store, postgres, s3
from tests.conftest import Row, sent
from tests.station import Station

TICKERS = [f"T{number:03}" for number in range(400)]
KEYS = ("firstkeyofthefleet", "secondkeyofthefleet")
# Prefect marks a dead run after 120 s; then the heir has a minute, and some more for what is late.
LASTING_S = 270
SCRIPT = """
import json, sys
from flows.fleet import fleet
print(json.dumps(fleet(**json.loads(sys.argv[1]))))
"""


@dataclass(slots=True)
class Site(Station):
    """A machine of the fleet, all but for the machine."""

    more: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        found = {**super(Site, self).env, **self.more}
        if not self.key:
            del found["STOCKTRACE_HOME"]  # set when deploying, it would be that of all workers
        return found

    @property
    def data(self) -> Path:
        return self.folder / "data"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    with s3(tmp_path / "store") as running:
        for name, text in running.env.items():
            monkeypatch.setenv(name, text)
        yield running


def recorded(lake: str) -> dict[str, list[Row]]:
    """What is in the lake, by ticker, in the order of arrival."""
    table = stocktrace.read_trades(TICKERS, data_dir=lake, backend="pyarrow")
    found: dict[str, list[Row]] = {ticker: [] for ticker in TICKERS}
    columns = (table["ts_event"].cast("int64"), *table.select(["price", "volume", "conditions"]))
    for ticker, *row in zip(
        table["symbol"].to_pylist(), *(each.to_pylist() for each in columns), strict=True
    ):
        found[ticker].append((row[0], row[1], row[2], row[3]))
    return found


def reports(lake: str) -> list[SessionReport]:
    return [SessionReport.decode(text) for text in Lake.open(lake).reports(9)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_fleet_loses_a_worker_and_nothing_else(tmp_path: Path, store: Store) -> None:
    lake = store.url("fleet")
    with ExitStack() as stack:
        exchanges = [
            stack.enter_context(
                Simulator(
                    SyntheticMarket(seed=number, rate=150.0),
                    SimulatorSettings(key=key, symbol_limit=0, keep=True),
                )
            )
            for number, key in enumerate(KEYS)
        ]
        head = Site(tmp_path / "head", "")
        head.more = {"PREFECT_API_DATABASE_CONNECTION_URL": stack.enter_context(postgres())}
        sites = [
            Site(
                tmp_path / f"site{number}", key, head.port, {**store.env, "STOCKTRACE_URL": one.url}
            )
            for number, (key, one) in enumerate(zip(KEYS, exchanges, strict=True))
        ]
        for site in (head, *sites):
            site.folder.mkdir()
        stack.enter_context(head.server())
        head.deploy()
        words = [
            "worker",
            "start",
            "--pool",
            "stocktrace",
            "--work-queue",
            "shards",
            "--limit",
            "1",
        ]
        workers = [
            stack.enter_context(site.process("worker", "-m", "prefect", *words)) for site in sites
        ]
        asked = {
            "tickers": TICKERS,
            "keys": 2,
            "limit": 0,
            "lake": lake,
            "duration": f"{LASTING_S}s",
            "roll_interval": "20s",
        }
        parent = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", SCRIPT, json.dumps(asked)],
                env={**head.env, **store.env},
                cwd=head.folder,
                stdout=subprocess.PIPE,
                stderr=stack.enter_context((tmp_path / "fleet.log").open("ab")),
                text=True,
            )
        )
        for one in exchanges:
            one.wait_for(lambda one: one.sent_trades > 3000, timeout=180)
        doomed, heir = exchanges
        assert {len(one.connections[0].subscriptions) for one in exchanges} == {200}

        family = psutil.Process(workers[0].pid).children(recursive=True)
        workers[0].kill()
        for each in family:
            each.kill()
        killed = time.time()
        # The heir takes them over, and listens to them for a while.
        heir.wait_for(lambda one: len(one.subscriptions) == 400, timeout=240)
        more = heir.sent_trades + 2000
        heir.wait_for(lambda one: one.sent_trades > more, timeout=60)
        heir.mute()  # what was sent can then be received to its end
        told, _ = parent.communicate(timeout=LASTING_S + 120)
        assert parent.returncode == 0, (tmp_path / "fleet.log").read_text()[-3000:]

        # The dead machine comes back: what its capture had read is published, too.
        run = [sys.executable, "-m", "stocktrace", "recover", "--data-dir", str(sites[0].data)]
        subprocess.run(run, env=sites[0].env, cwd=sites[0].folder, check=True)

    result = json.loads(told.splitlines()[-1])
    assert sorted(one["state"] for one in result["shards"].values()) == ["COMPLETED", "CRASHED"]
    dead, alive = (sent(one.connections[0].frames) for one in exchanges)
    found = recorded(lake)
    lost = 0
    for ticker in TICKERS:
        first, then = dead.get(ticker, []), alive.get(ticker, [])
        # All that was sent to the one that lived, and before it all that the dead one had read.
        own = len(found[ticker]) - len(then)
        # Sessions stand in the order in which they began, whoever was first.
        assert found[ticker] in (first[:own] + then, then + first[:own]), ticker
        # What it had not read was on its way when it was killed.
        late = first[own:]
        lost += len(late)
        assert all(row[0] > (killed - 2) * 1000 for row in late), ticker
    assert sum(map(len, found.values())) == heir.sent_trades + doomed.sent_trades - lost
    told_by = {report.state: report for report in reports(lake)}
    assert set(told_by) == {"recovered", "complete"}
    assert all(report.balanced and not report.upload_error for report in told_by.values())

    gaps = stocktrace.read_gaps(data_dir=lake)
    named = gaps[gaps["reason"] == "its shard was lost"]
    assert result["gaps"] == 200
    assert set(named["symbol"]) == set(doomed.connections[0].subscriptions)
    # From the last heartbeat, 30 s before the kill at most, until the heir listened.
    assert (named["start"].astype("int64") / 1e6 > killed - 35).all()
    assert ((named["end"] - named["start"]).dt.total_seconds() > 60).all()
    assert not list(leaks(tmp_path, [store.secret, *KEYS]))


def leaks(folder: Path, secrets: list[str]) -> Iterator[Path]:
    """Files that hold a secret; the store's own may."""
    for path in folder.rglob("*"):
        if path.is_file() and "store" not in path.relative_to(folder).parts:
            data = path.read_bytes()
            if any(secret.encode() in data for secret in secrets):
                yield path
