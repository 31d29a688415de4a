"""stocktrace, measured from inside: pauses of the feed, latency to the CSV row, memory, CPU.

``BENCH_WATCH`` is JSON: ``settings`` of the capture, its duration in ``seconds`` (0: until all
trades have arrived), and ``settle``: seconds that do not count for the share of a core.
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
control = CaptureControl()
began = time.monotonic()
pauses: list[float] = []
waits: list[tuple[float, int]] = []  # seconds from a read to its rows in CSV, and how many rows
memory: list[tuple[float, float]] = []
settled: list[tuple[float, float]] = []
last_read = last_write = ending_at = 0.0
max_waiting = 0
receive, write = BatchSocket.recv_batch, SegmentWriter.write


def watched_receive(self: BatchSocket) -> Any:
    """Measure the time since the last read."""
    global last_read  # noqa: PLW0603 - one feed
    batch = receive(self)
    now = time.monotonic()
    if last_read:
        pauses.append(now - last_read)
    last_read = now
    return batch


def watched_write(self: SegmentWriter, batch: Batch) -> None:
    """Measure the age of the rows when they are written."""
    global last_write  # noqa: PLW0603 - one recorder
    write(self, batch)
    last_write = time.monotonic()
    now = time.time_ns()
    reads = dict.fromkeys([read for _, parts in batch for read, _ in parts])
    waits.extend([((now - read.arrivals[0].stamp) / 1e9, len(read)) for read in reads])


def watch(status: CaptureStatus) -> None:
    """Measure queue, memory and CPU; called twice a second."""
    global max_waiting, ending_at  # noqa: PLW0603 - a maximum, and one end
    now = time.monotonic() - began
    max_waiting = max(max_waiting, status.backlog)
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - not our file
        memory.append((now, int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6))
    if status.state == "ending":
        ending_at = ending_at or time.monotonic()
    elif now >= given.get("settle", 0):
        settled.append((now, time.process_time()))
    if status.trades >= meter.trades and not given.get("seconds"):
        control.stop("all trades were received")


def capture() -> SessionReport:
    """Record with the Python API."""
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
        control=control,
    )


def flow_run() -> SessionReport:
    """Record as a flow run, with a Prefect server in another process."""
    from flows import capture, progress

    os.environ["FINNHUB_API_KEY"] = "bench"
    progress.STATUS_LISTENERS.append(watch)
    duration, folder = f"{given['seconds']:g}s", str(meter.folder)
    result = capture.capture(meter.tickers, duration, data_dir=folder, url=meter.url)
    assert isinstance(result, dict), result
    return SessionReport.read(Layout(meter.folder).report(result["session"]))


def main() -> None:
    """Record, and report the measurements."""
    if given["timed"]:  # measuring each read needs memory, which grows for half an hour
        BatchSocket.recv_batch = watched_receive  # type: ignore[method-assign]
        SegmentWriter.write = watched_write  # type: ignore[method-assign]
    report = flow_run() if given["flow"] else capture()
    ended_at = time.monotonic()
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
        max_waiting=max_waiting,
        end_s=ended_at - ending_at,
        memory_mb=[float(sizes[0]), float(sizes.max()), float(sizes[-1])],
        slope_mb_h=float(np.polyfit(times, sizes, 1)[0] * 3600) if len(times) > 2 else 0.0,
        live_s=settled[-1][1] - meter.cpu if settled else 0.0,
        core=(settled[-1][1] - settled[0][1]) / (settled[-1][0] - settled[0][0])
        if len(settled) > 1
        else 0.0,
    )


main()
