"""stocktrace, watched from inside: pauses of the feed, latency to the CSV row, memory, CPU.

``BENCH_WATCH`` is JSON: ``settings`` for the capture, ``seconds`` it lasts (0: until all trades are
in), ``settle`` seconds that do not count for the share of a core.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

import numpy as np
from pydantic import SecretStr

import stocktrace.live.api
from benchmarks.peer.meter import Meter
from stocktrace.feed.socket import BatchSocket
from stocktrace.live.control import CaptureControl
from stocktrace.sessions.report import SessionReport
from stocktrace.sessions.status import CaptureStatus
from stocktrace.settings import Settings
from stocktrace.store.batch import Batch
from stocktrace.store.layout import Layout
from stocktrace.store.segments import SegmentWriter

meter = Meter()
given: dict[str, Any] = json.loads(os.environ["BENCH_WATCH"])
handle = CaptureControl()
began = time.monotonic()
pauses: list[float] = []
waits: list[tuple[float, int]] = []  # seconds from a read to its rows in CSV, and how many rows
memory: list[tuple[float, float]] = []
settled: list[tuple[float, float]] = []
last_read = last_write = 0.0
most_waiting = 0
receive, write = BatchSocket.recv_batch, SegmentWriter.write


def watched_receive(self: BatchSocket) -> Any:
    """Note how long the feed was away."""
    global last_read  # noqa: PLW0603 - one feed
    batch = receive(self)
    now = time.monotonic()
    if last_read:
        pauses.append(now - last_read)
    last_read = now
    return batch


def watched_write(self: SegmentWriter, batch: Batch) -> None:
    """Note how old the rows are when they are written."""
    global last_write  # noqa: PLW0603 - one recorder
    write(self, batch)
    last_write = time.monotonic()
    now = time.time_ns()
    reads = dict.fromkeys([read for _, some in batch for read, _ in some])
    waits.extend([((now - read.arrivals[0].stamp) / 1e9, len(read)) for read in reads])


def watch(status: CaptureStatus) -> None:
    """Twice a second."""
    global most_waiting  # noqa: PLW0603 - a maximum
    now = time.monotonic() - began
    most_waiting = max(most_waiting, status.backlog)
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - no file of ours
        memory.append((now, int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6))
    if now >= given.get("settle", 0):
        settled.append((now, time.process_time()))
    if status.trades >= meter.trades and not given.get("seconds"):
        handle.stop("all were sent")


def capture() -> SessionReport:
    """Record."""
    settings = Settings.load(
        url=meter.url,
        data_dir=meter.folder,
        finnhub_api_key=SecretStr("bench"),
        **given.get("settings", {}),
    )
    return stocktrace.live.api.capture(
        meter.tickers,
        duration=given.get("seconds") or 7200,
        settings=settings,
        on_status=watch,
        control=handle,
    )


def flow_run() -> SessionReport:
    """Record as a flow run, against a server of its own (another process)."""
    from flows import capture, progress

    os.environ["FINNHUB_API_KEY"] = "bench"
    progress.STATUS_LISTENERS.append(watch)
    duration, folder = f"{given['seconds']:g}s", str(meter.folder)
    result = capture.capture(meter.tickers, duration, data_dir=folder, url=meter.url)
    assert isinstance(result, dict), result
    return SessionReport.read(Layout(meter.folder).report(result["session"]))


def main() -> None:
    """Record, and tell what was seen."""
    if given["timed"]:  # what is noted of each read is a slope of its own, half an hour long
        BatchSocket.recv_batch = watched_receive  # type: ignore[method-assign]
        SegmentWriter.write = watched_write  # type: ignore[method-assign]
    report = flow_run() if given["flow"] else capture()
    away = np.sort(np.array(pauses[20:] or [0.0])) * 1000
    ages, rows = zip(*waits, strict=True) if waits else ((0.0,), (1,))
    late = np.sort(np.repeat(ages, rows)) * 1000
    times, sizes = np.array(memory[len(memory) // 4 :]).T
    meter.report(
        rows=report.books.recorded,
        balanced=report.balanced,
        spilled=sum(len(names) for names in report.spilled.values()),
        windows=len(report.windows),
        pause_ms=[float(away[int(len(away) * part)]) for part in (0.5, 0.99, 0.999)],
        worst_pause_ms=float(away[-1]),
        latency_ms=[float(late[int(len(late) * part)]) for part in (0.5, 0.99)],
        drained_s=last_write - last_read if pauses else 0.0,
        most_waiting=most_waiting,
        memory_mb=[float(sizes[0]), float(sizes.max()), float(sizes[-1])],
        slope_mb_h=float(np.polyfit(times, sizes, 1)[0] * 3600) if len(times) > 2 else 0.0,
        live_s=settled[-1][1] - meter.cpu if settled else 0.0,
        core=(settled[-1][1] - settled[0][1]) / (settled[-1][0] - settled[0][0])
        if len(settled) > 1
        else 0.0,
    )


main()
