"""The cost of the live page for a capture: CPU with 0, 1 and 20 viewers, and with 50 stalled ones.

    python benchmarks/viewers.py [--seconds 20] [--rounds 2] [--rate 5000]

One capture of a simulator, with its dashboard, runs through all phases, which take turns, so that
only the viewers differ. A viewer reads its stream as a browser does; a stalled one requests it and
never reads.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from pathlib import Path
from statistics import mean
from urllib.parse import urlsplit

import psutil

from stocktrace.sessions.status import CaptureStatus

TICKERS = [f"T{number:02}" for number in range(50)]
PHASES = {"none": (0, 0), "1 viewer": (1, 0), "20 viewers": (20, 0), "50 stalled": (0, 50)}
SETTLE_S = 3.0


class Viewers:
    """Streams of the dashboard, some of which are not read."""

    def __init__(self, url: str, reading: int, stalled: int) -> None:
        parts = urlsplit(url)
        self._closed = threading.Event()
        self._counting = threading.Lock()
        self.received = 0
        request = f"GET /api/live?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
        self._sockets = []
        for _ in range(reading + stalled):
            stream = socket.create_connection((parts.hostname, parts.port))
            stream.sendall(request)
            self._sockets.append(stream)
        self._threads = [
            threading.Thread(target=self._read, args=(s,)) for s in self._sockets[:reading]
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, stream: socket.socket) -> None:
        stream.settimeout(1.0)
        while not self._closed.is_set():
            try:
                count = stream.recv(1 << 16).count(b"event: session")
            except TimeoutError:
                continue
            with self._counting:  # after `recv`: other threads add to the sum in the meantime
                self.received += count

    def close(self) -> None:
        """Close the streams."""
        self._closed.set()
        for thread in self._threads:
            thread.join()
        for stream in self._sockets:
            stream.close()


def measure(
    capture: psutil.Process,
    page: psutil.Process,
    data_dir: Path,
    url: str,
    phase: str,
    seconds: float,
) -> dict[str, float]:
    """Measure shares of a core (%), trades/s, the page's memory (MB) and a viewer's updates."""
    (status,) = data_dir.glob("sessions/*.status")
    reading, stalled = PHASES[phase]
    viewers = Viewers(url, reading, stalled)
    wait = threading.Event()
    wait.wait(SETTLE_S)
    before, received = [sum(p.cpu_times()[:2]) for p in (capture, page)], viewers.received
    first = CaptureStatus.read(status)
    wait.wait(seconds)
    after = [sum(p.cpu_times()[:2]) for p in (capture, page)]
    last = CaptureStatus.read(status)
    result = {
        "trades": (last.trades - first.trades) / (last.elapsed_s - first.elapsed_s),
        "capture": (after[0] - before[0]) / seconds * 100,
        "page": (after[1] - before[1]) / seconds * 100,
        "memory": page.memory_info().rss / 1e6,
        "updates": (viewers.received - received) / seconds / reading if reading else 0.0,
    }
    viewers.close()
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rate", type=int, default=5000)
    options = parser.parse_args()
    stocktrace = [sys.executable, "-m", "stocktrace"]
    simulator = subprocess.Popen(
        [*stocktrace, "simulator", "--rate", str(options.rate), "--symbol-limit", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert simulator.stdout is not None
    url = simulator.stdout.readline().strip()
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "data"
        capture = subprocess.Popen(
            [
                *(*stocktrace, "capture", *TICKERS, "--url", url, "--for", "1h", "--dashboard"),
                *("--data-dir", str(data_dir), "--roll-interval", "60s"),
            ],
            env={**os.environ, "FINNHUB_API_KEY": "demo"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert capture.stderr is not None
            lines = iter(capture.stderr.readline, "")
            address = next(
                line.partition("live page: ")[2].strip() for line in lines if "live page" in line
            )
            threading.Thread(target=capture.stderr.read, daemon=True).start()
            process = psutil.Process(capture.pid)
            (page,) = process.children()
            threading.Event().wait(10)
            results: dict[str, list[dict[str, float]]] = defaultdict(list)
            for number in range(options.rounds):
                for phase in list(PHASES)[:: 1 if number % 2 == 0 else -1]:
                    results[phase].append(
                        measure(process, page, data_dir, address, phase, options.seconds)
                    )
        finally:
            capture.terminate()
            capture.wait(60)
            simulator.terminate()
            simulator.wait(60)
    print(
        "| viewers | trades/s | capture, % of a core | page, % of a core | page, MB | updates/s |"
    )
    print("|---|---|---|---|---|---|")
    for phase in PHASES:
        rounds = results[phase]
        spread = ", ".join(f"{result['capture']:.1f}" for result in rounds)
        means = {name: mean(result[name] for result in rounds) for name in rounds[0]}
        print(
            f"| {phase} | {means['trades']:,.0f} | {means['capture']:.1f} ({spread}) "
            f"| {means['page']:.1f} | {means['memory']:.0f} | {means['updates']:.1f} |"
        )


if __name__ == "__main__":
    main()
