"""A real Prefect server, its deployments and its workers, for the tests of this machine."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.waiting import eventually

ROOT = Path(__file__).parents[1]
FINAL = {"COMPLETED", "CANCELLED", "FAILED", "CRASHED"}


class Api:
    """Prefect's REST API, read as plain JSON: what is not here is nowhere."""

    def __init__(self, http: Any) -> None:
        self._http = http

    def one(self, path: str) -> Any:
        return self._http.get(path).raise_for_status().json()

    def all(self, what: str, **asked: Any) -> list[dict[str, Any]]:
        answer = self._http.post(f"/{what}/filter", json=asked).raise_for_status().json()
        return list(answer["events"] if what == "events" else answer)

    def of_run(self, what: str, run: str) -> list[dict[str, Any]]:
        if what == "task_runs":
            return self.all(what, flow_runs={"id": {"any_": [run]}})
        return self.all(what, **{what: {"flow_run_id": {"any_": [run]}}})

    def artifact(self, run: str, key: str) -> dict[str, Any]:
        (found,) = [one for one in self.of_run("artifacts", run) if one["key"] == key]
        return found

    def is_up(self) -> bool:
        try:
            return bool(self.one("/health"))
        except httpx.HTTPError:
            return False


@contextmanager
def reading(url: str) -> Iterator[Api]:
    with httpx.Client(base_url=url, timeout=60) as http:
        yield Api(http)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@dataclass(slots=True)
class Station:
    """A Prefect server of its own; deploys, works, serves and asks."""

    folder: Path
    key: str
    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def env(self) -> dict[str, str]:
        clean = {name: text for name, text in os.environ.items() if not name.startswith("PREFECT_")}
        leases = "prefect.server.concurrency.lease_storage.filesystem"
        return {
            **clean,
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": leases,
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "DO_NOT_TRACK": "1",
            "STOCKTRACE_HOME": str(self.folder),
            "FINNHUB_API_KEY": self.key,
            "COLUMNS": "300",
        }

    @contextmanager
    def server(self) -> Iterator[Api]:
        words = ["server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        with self.process("server", "-m", "prefect", *words), reading(self.url) as api:
            eventually(api.is_up, within=120)
            yield api

    def deploy(self) -> None:
        self.prefect("work-pool", "create", "stocktrace", "--type", "process")
        self.prefect("deploy", "--all")

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        words = ["worker", "start", "--pool", "stocktrace"]
        with self.process("worker", "-m", "prefect", *words) as started:
            yield started

    @contextmanager
    def process(self, name: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """A Python of its own; with what it started it is gone at the end."""
        with (
            (self.folder / f"{name}.log").open("ab") as output,
            subprocess.Popen(
                [sys.executable, *words],
                env=self.env,
                cwd=self.folder,
                stdout=output,
                stderr=output,
            ) as started,
        ):
            try:
                yield started
            finally:
                end(started)

    def prefect(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *words],
            env=self.env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, deployment: str, **parameters: Any) -> str:
        """Ask for a run; gives its id."""
        words = [f"-p{name}={json.dumps(value)}" for name, value in parameters.items()]
        told = self.prefect("deployment", "run", f"stocktrace-capture/{deployment}", *words)
        (run,) = set(re.findall(r"runs/flow-run/([0-9a-f-]{36})", told))
        return str(run)

    def record(self, folder: Path, url: str, tickers: Sequence[str]) -> str:
        """Have a worker capture for ten minutes; gives the run's id when trades are published."""
        window = {"duration": "10m", "roll_interval": "2s"}
        run = self.start("ad-hoc", tickers=tickers, url=url, data_dir=str(folder), **window)
        eventually(lambda: list(folder.glob("parquet/*/*.parquet")), within=120)
        return run

    def ended(self, api: Api, run: str) -> dict[str, Any]:
        def state() -> dict[str, Any] | None:
            try:
                found = api.one(f"/flow_runs/{run}")
            except httpx.TimeoutException:  # SQLite is locked now and then when runs end together
                return None
            return found if found["state_type"] in FINAL else None

        return dict(eventually(state, within=240))


def end(started: subprocess.Popen[bytes]) -> None:
    """End a process, and whatever it leaves behind."""
    if started.poll() is not None:
        return
    family = psutil.Process(started.pid).children(recursive=True)
    started.terminate()
    try:
        started.wait(30)
    except subprocess.TimeoutExpired:
        started.kill()
    for one in family:
        if one.is_running():
            one.kill()
