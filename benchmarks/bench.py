"""What the benchmarks share: start the sender and a client beside it, read what they say."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import market

# Beyond what the load itself lasts.
_LONGEST_S = 300


@dataclass(frozen=True, slots=True)
class Load:
    """What the sender sends."""

    per_frame: int = 5
    tickers: int = 50
    trades: int = 100_000
    rate: float = 0.0
    dialect: str = "finnhub"


@dataclass(frozen=True, slots=True)
class Client:
    """A program that records: a module below ``benchmarks.peer``, run by a Python of its own."""

    module: str
    python: Path = Path(sys.executable)
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def run(client: Client, load: Load, times: Path | None = None) -> dict[str, Any]:
    """One run; what the client measured, and under ``sender`` what the sender did.

    Raises:
        RuntimeError: the client failed; with what it said.
    """
    market.prepare(load.dialect, load.tickers, load.per_frame)
    command = [sys.executable, "-m", "benchmarks.sender", "--dialect", load.dialect]
    command += ["--tickers", str(load.tickers), "--per-frame", str(load.per_frame)]
    command += ["--trades", str(load.trades), "--rate", str(load.rate)]
    command += ["--times", str(times)] if times else []
    with (
        tempfile.TemporaryDirectory(prefix="stocktrace-bench-") as folder,
        subprocess.Popen(command, cwd=market.ROOT, stdout=subprocess.PIPE, text=True) as sender,
    ):
        try:
            assert sender.stdout is not None
            port = json.loads(sender.stdout.readline())["port"]
            done = subprocess.run(
                [
                    client.python,
                    "-m",
                    f"benchmarks.peer.{client.module}",
                    f"ws://127.0.0.1:{port}",
                    str(load.trades),
                    folder,
                    str(load.tickers),
                    *client.arguments,
                ],
                cwd=market.ROOT,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **client.environment},
                capture_output=True,
                text=True,
                timeout=_LONGEST_S + (load.trades / load.rate if load.rate else 0),
                check=False,
            )
            if done.returncode:
                raise RuntimeError(f"{client.module}: {done.stderr[-2000:]}")
            said = json.loads(done.stdout.splitlines()[-1])
            rows = _rows(Path(folder))
            if "rows" not in said and rows is not None and rows != load.trades:
                raise RuntimeError(f"{client.module} wrote {rows} rows of {load.trades} trades")
            return {**said, "sender": json.loads(sender.stdout.readline())}
        finally:
            sender.kill()


def _rows(folder: Path) -> int | None:
    """Rows of CSV that a peer has written; ``None`` if it writes no CSV."""
    files = list(folder.glob("*.csv"))
    if not files:
        return None
    return sum(path.read_bytes().count(b"\n") for path in files)


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def say(text: str) -> None:
    """Progress, on standard error: standard output has the tables."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def save(name: str, result: Mapping[str, Any]) -> Path:
    """Keep a result as JSON in ``.bench/results``."""
    path = market.BENCH / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path
