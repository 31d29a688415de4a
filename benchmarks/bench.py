"""Shared by the benchmarks: start the sender and a client beside it, and read their results."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import market

# Added to the duration of the load.
_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Load:
    """The trades that the sender sends, and how."""

    per_frame: int = 5
    tickers: int = 50
    trades: int = 100_000
    rate: float = 0.0
    dialect: str = "finnhub"
    #: Over TLS: bytes a record, or 0 for one frame in each. ``None``: plain TCP.
    record: int | None = None


@dataclass(frozen=True, slots=True)
class Client:
    """A program that records: a module in ``benchmarks.peer``, run by its own Python."""

    module: str
    python: Path = Path(sys.executable)
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def run(client: Client, load: Load) -> dict[str, Any]:
    """Run a client once. Return what it measured, and what the sender measured as ``sender``.

    Raises:
        RuntimeError: the client failed; the text is its output.
    """
    market.prepare(load.dialect, load.tickers, load.per_frame)
    command = [sys.executable, "-m", "benchmarks.sender", "--dialect", load.dialect]
    command += ["--tickers", str(load.tickers), "--per-frame", str(load.per_frame)]
    command += ["--trades", str(load.trades), "--rate", str(load.rate)]
    with (
        tempfile.TemporaryDirectory(prefix="stocktrace-bench-") as folder,
        _transport(load) as (scheme, options, trust),
        subprocess.Popen(
            [*command, *options], cwd=market.ROOT, stdout=subprocess.PIPE, text=True
        ) as sender,
    ):
        try:
            assert sender.stdout is not None
            port = json.loads(sender.stdout.readline())["port"]
            process = subprocess.run(
                [
                    client.python,
                    "-m",
                    f"benchmarks.peer.{client.module}",
                    f"{scheme}://127.0.0.1:{port}",
                    str(load.trades),
                    folder,
                    str(load.tickers),
                    *client.arguments,
                ],
                cwd=market.ROOT,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **trust, **client.environment},
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S + (load.trades / load.rate if load.rate else 0),
                check=False,
            )
            if process.returncode:
                raise RuntimeError(f"{client.module}: {process.stderr[-2000:]}")
            result = json.loads(process.stdout.splitlines()[-1])
            rows = _csv_rows(Path(folder))
            if "rows" not in result and rows is not None and rows != load.trades:
                raise RuntimeError(f"{client.module} wrote {rows} rows of {load.trades} trades")
            return {**result, "sender": json.loads(sender.stdout.readline())}
        finally:
            sender.kill()


@contextlib.contextmanager
def _transport(load: Load) -> Iterator[tuple[str, list[str], dict[str, str]]]:
    """Yield the scheme, the sender's options, and the client's environment, for TCP or TLS."""
    if load.record is None:
        yield "ws", [], {}
        return
    import trustme

    authority = trustme.CA()
    with tempfile.TemporaryDirectory(prefix="stocktrace-tls-") as folder:
        key, trusted = Path(folder) / "server.pem", Path(folder) / "authority.pem"
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(key))
        authority.cert_pem.write_to_path(str(trusted))
        options = ["--certificate", str(key), "--record", str(load.record)]
        yield "wss", options, {"SSL_CERT_FILE": str(trusted)}


def _csv_rows(folder: Path) -> int | None:
    """Count the rows of CSV that a peer wrote; ``None`` if it writes no CSV."""
    files = list(folder.glob("*.csv"))
    if not files:
        return None
    return sum(path.read_bytes().count(b"\n") for path in files)


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def log(text: str) -> None:
    """Log progress to standard error: standard output has the tables."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def save(name: str, result: Mapping[str, Any]) -> Path:
    """Save a result as JSON in ``.bench/results``."""
    path = market.BENCH / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path
