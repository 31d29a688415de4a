"""How stocktrace behaves at its limits: peak, idle, many tickers, latency, pauses, memory.

    python -m benchmarks.scale [peak tls idle tickers latency pause prefect memory] [--seconds 60]

The parts that are named (all but ``memory``, if none is) run one after another.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from benchmarks import bench

_PEAK = 240_000.0  # trades a second: about the highest second of the whole US tape


def watched(
    load: bench.Load,
    *,
    seconds: float = 0.0,
    settle: float = 0.0,
    timed: bool = True,
    flow: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """One run of stocktrace that is watched from inside; each read and write if ``timed``."""
    watch = {
        "settings": settings,
        "seconds": seconds,
        "settle": settle,
        "timed": timed,
        "flow": flow,
    }
    told = json.dumps(watch)
    said = bench.run(bench.Client("watched", environment={"BENCH_WATCH": told}), load)
    if not said["balanced"] or (not seconds and said["rows"] != load.trades):
        raise RuntimeError(f"{load.trades} were sent: {said}")
    return said


def _load(
    rate: float,
    seconds: float,
    per_frame: int = 5,
    tickers: int = 50,
    record: int | None = None,
) -> bench.Load:
    trades = int(rate * seconds) // per_frame * per_frame
    return bench.Load(per_frame, tickers, trades, rate, record=record)


def _facts(said: dict[str, Any], load: bench.Load) -> list[str]:
    return [
        f"{said['sender']['behind_s']:.2f} s",
        f"{said['drained_s']:.2f} s",
        f"{said['most_waiting']:,}",
        str(said["spilled"]),
        f"{said['cpu_s'] / load.trades * 1e6:.2f} µs",
        f"{said['peak_mb']:.0f} MB",
    ]


def peak(seconds: float) -> dict[str, Any]:
    """The highest second of the US tape, for as long as is asked."""
    runs, rows = {}, []
    for k in (1, 5, 20):
        load = _load(_PEAK, seconds, k)
        said = runs[str(k)] = watched(load)
        rows.append([f"k = {k}", *_facts(said, load)])
    head = ["240,000 trades/s", "sender held back", "drained in", "most waiting"]
    print(bench.table([*head, "spilled tickers", "CPU a trade", "memory"], rows))
    return runs


def tls(seconds: float) -> dict[str, Any]:
    """The same over TLS, by the size of its records."""
    runs, rows = {}, []
    for title, record in {
        "plain TCP": None,
        "16 KiB a record": 16384,
        "4 KiB": 4096,
        "1.4 KiB": 1434,
        "one frame a record": 0,
    }.items():
        load = _load(_PEAK, seconds, record=record)
        said = runs[title] = watched(load)
        rows.append([title, *_facts(said, load)])
    head = ["240,000 trades/s, k = 5", "sender held back", "drained in", "most waiting"]
    print(bench.table([*head, "spilled tickers", "CPU a trade", "memory"], rows))
    return runs


def idle(seconds: float) -> dict[str, Any]:
    """Ten trades a second."""
    runs, rows = {}, []
    for tickers in (50, 5000):
        lasts = seconds + 10
        load = _load(10.0, lasts + 30, 1, tickers)
        said = runs[str(tickers)] = watched(load, seconds=lasts, settle=10, timed=False)
        rows.append([f"{tickers:,}", f"{said['core']:.2%}", f"{said['memory_mb'][-1]:.0f} MB"])
    print(bench.table(["tickers, 10 trades/s", "of a core", "memory"], rows))
    return runs


def tickers(seconds: float) -> dict[str, Any]:
    """The cost of a trade at 50 and at 5,000 tickers: while it is recorded, and until all is done.

    A window's file costs the same whatever it holds: what is in all depends on ``seconds``.
    """
    rate = 20_000.0
    found: dict[int, list[dict[str, Any]]] = {50: [], 5000: []}
    for _ in range(3):
        for count, runs in found.items():
            load = _load(rate, seconds + 30, 5, count)
            runs.append(watched(load, seconds=seconds, settle=5, timed=False))
    rows = []
    for count, runs in found.items():
        live = bench.median([one["core"] / rate for one in runs]) * 1e6
        whole = bench.median([one["cpu_s"] / one["rows"] for one in runs]) * 1e6
        files = bench.median([(one["cpu_s"] - one["live_s"]) / count for one in runs]) * 1e3
        rows.append([f"{count:,}", f"{live:.2f} µs", f"{whole:.2f} µs", f"{files:.1f} ms"])
    head = ["tickers, 20,000 trades/s", "CPU a trade, recording", "in all", "then, a file"]
    print(bench.table(head, rows))
    return {str(count): runs for count, runs in found.items()}


def latency(seconds: float) -> dict[str, Any]:
    """From the read of a frame to its row in the CSV."""
    runs, rows = {}, []
    for rate in (100.0, 10_000.0, 100_000.0):
        said = runs[f"{rate:.0f}"] = watched(_load(rate, seconds))
        p50, p99 = said["latency_ms"]
        rows.append([f"{rate:,.0f} trades/s", f"{p50:.0f} ms", f"{p99:.0f} ms"])
    print(bench.table(["socket → CSV row", "p50", "p99"], rows))
    return runs


def pause(seconds: float) -> dict[str, Any]:
    """How long the feed is away from its socket while windows are converted, one after another."""
    said = watched(_load(100_000.0, seconds), roll_interval=5)
    p50, p99, p999 = said["pause_ms"]
    row = [f"{p50:.1f} ms", f"{p99:.1f} ms", f"{p999:.1f} ms", f"{said['worst_pause_ms']:.0f} ms"]
    print(bench.table(["between two reads, p50", "p99", "p99.9", "worst"], [row]))
    return said


def prefect(seconds: float) -> dict[str, Any]:
    """What a flow around it costs the capture; imports and Prefect's server are not counted."""
    runs: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for _ in range(5):
        for flow, said in runs.items():
            load = _load(20_000.0, seconds + 60)
            said.append(watched(load, seconds=seconds, settle=5, flow=flow))
    rows = []
    for flow, said in runs.items():
        figures = [(one["core"], *one["latency_ms"], one["pause_ms"][1]) for one in said]
        core, p50, p99, pause = (bench.median(column) for column in zip(*figures, strict=True))
        title = "in a flow run" if flow else "by itself"
        rows.append([title, f"{core:.1%}", f"{p50:.0f} ms", f"{p99:.0f} ms", f"{pause:.1f} ms"])
    head = ["20,000 trades/s", "of a core", "socket → CSV row, p50", "p99", "between reads, p99"]
    print(bench.table(head, rows))
    return {"flow": runs[True], "plain": runs[False]}


def memory(seconds: float) -> dict[str, Any]:
    """Whether memory grows: 10,000 trades/s for as long as is asked."""
    said = watched(_load(10_000.0, seconds), timed=False)
    row = [*(f"{size:.0f} MB" for size in said["memory_mb"]), f"{said['slope_mb_h']:+.0f} MB/h"]
    print(bench.table(["after a quarter", "highest", "at the end", "slope"], [row]))
    return said


PARTS: dict[str, Callable[[float], dict[str, Any]]] = {
    "peak": peak,
    "tls": tls,
    "idle": idle,
    "tickers": tickers,
    "latency": latency,
    "pause": pause,
    "prefect": prefect,
    "memory": memory,
}


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []])
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    for name in given.parts or [name for name in PARTS if name != "memory"]:
        bench.say(name)
        bench.say(f"kept in {bench.save(name, PARTS[name](given.seconds))}")
        print()


if __name__ == "__main__":
    main()
