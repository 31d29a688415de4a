"""stocktrace at its limits: peak, idle, many tickers, latency, pauses, memory.

    python -m benchmarks.scale [peak tls idle tickers latency pause prefect memory] [--seconds 60]

The named parts run one after another; by default all but ``memory``.
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
    """Run stocktrace once, measured from inside; with ``timed`` each read and write is."""
    watch = {
        "settings": settings,
        "seconds": seconds,
        "settle": settle,
        "timed": timed,
        "flow": flow,
    }
    environment = {"BENCH_WATCH": json.dumps(watch)}
    result = bench.run(bench.Client("watched", environment=environment), load)
    if not result["balanced"] or (not seconds and result["rows"] != load.trades):
        raise RuntimeError(f"{load.trades} trades were sent: {result}")
    return result


def _load(
    rate: float,
    seconds: float,
    per_frame: int = 5,
    tickers: int = 50,
    record: int | None = None,
) -> bench.Load:
    trades = int(rate * seconds) // per_frame * per_frame
    return bench.Load(per_frame, tickers, trades, rate, record=record)


def _facts(result: dict[str, Any], load: bench.Load) -> list[str]:
    return [
        f"{result['sender']['behind_s']:.2f} s",
        f"{result['drained_s']:.2f} s",
        f"{result['max_waiting']:,}",
        str(result["spilled"]),
        f"{result['cpu_s'] / load.trades * 1e6:.2f} µs",
        f"{result['peak_mb']:.0f} MB",
    ]


def peak(seconds: float) -> dict[str, Any]:
    """Run at the rate of the highest second of the US tape, for ``seconds``."""
    runs, rows = {}, []
    for k in (1, 5, 20):
        load = _load(_PEAK, seconds, k)
        result = runs[str(k)] = watched(load)
        rows.append([f"k = {k}", *_facts(result, load)])
    head = ["240,000 trades/s", "sender delayed", "drained in", "max waiting"]
    print(bench.table([*head, "spilled tickers", "CPU a trade", "memory"], rows))
    return runs


def tls(seconds: float) -> dict[str, Any]:
    """Run at the same rate over TLS, with records of several sizes."""
    runs, rows = {}, []
    for title, record in {
        "plain TCP": None,
        "16 KiB a record": 16384,
        "4 KiB": 4096,
        "1.4 KiB": 1434,
        "one frame a record": 0,
    }.items():
        load = _load(_PEAK, seconds, record=record)
        result = runs[title] = watched(load)
        rows.append([title, *_facts(result, load)])
    head = ["240,000 trades/s, k = 5", "sender delayed", "drained in", "max waiting"]
    print(bench.table([*head, "spilled tickers", "CPU a trade", "memory"], rows))
    return runs


def idle(seconds: float) -> dict[str, Any]:
    """Run with ten trades a second."""
    runs, rows = {}, []
    for tickers in (50, 5000):
        lasts = seconds + 10
        load = _load(10.0, lasts + 30, 1, tickers)
        result = runs[str(tickers)] = watched(load, seconds=lasts, settle=10, timed=False)
        rows.append([f"{tickers:,}", f"{result['core']:.2%}", f"{result['memory_mb'][-1]:.0f} MB"])
    print(bench.table(["tickers, 10 trades/s", "of a core", "memory"], rows))
    return runs


def tickers(seconds: float) -> dict[str, Any]:
    """Measure the cost of a trade at 50 and at 5,000 tickers, and the time from the end to exit.

    A window's file costs the same whatever it holds, so the total depends on ``seconds``.
    """
    rate = 100_000.0
    results: dict[int, list[dict[str, Any]]] = {50: [], 5000: []}
    for _ in range(3):
        for count, runs in results.items():
            load = _load(rate, seconds + 30, 5, count)
            runs.append(watched(load, seconds=seconds, settle=5, timed=False))
    rows = []
    for count, runs in results.items():
        live = bench.median([run["core"] / rate for run in runs]) * 1e6
        whole = bench.median([run["cpu_s"] / run["rows"] for run in runs]) * 1e6
        end = bench.median([run["end_s"] for run in runs])
        spilled = sum(run["spilled"] for run in runs)
        facts = [f"{live:.2f} µs", f"{whole:.2f} µs", f"{end:.1f} s", f"{spilled:,}"]
        rows.append([f"{count:,}", *facts])
    head = [
        "tickers, 100,000 trades/s",
        "CPU a trade, recording",
        "in all",
        "end",
        "spilled tickers",
    ]
    print(bench.table(head, rows))
    return {str(count): runs for count, runs in results.items()}


def latency(seconds: float) -> dict[str, Any]:
    """Measure the time from the read of a frame to its row in the CSV."""
    runs, rows = {}, []
    for rate in (100.0, 10_000.0, 100_000.0):
        result = runs[f"{rate:.0f}"] = watched(_load(rate, seconds))
        p50, p99 = result["latency_ms"]
        rows.append([f"{rate:,.0f} trades/s", f"{p50:.0f} ms", f"{p99:.0f} ms"])
    print(bench.table(["socket → CSV row", "p50", "p99"], rows))
    return runs


def pause(seconds: float) -> dict[str, Any]:
    """Measure the pauses between reads of the socket while windows are converted."""
    result = watched(_load(100_000.0, seconds), roll_interval=5)
    p50, p99, p999 = result["pause_ms"]
    row = [f"{p50:.1f} ms", f"{p99:.1f} ms", f"{p999:.1f} ms", f"{result['worst_pause_ms']:.0f} ms"]
    print(bench.table(["between two reads, p50", "p99", "p99.9", "worst"], [row]))
    return result


def prefect(seconds: float) -> dict[str, Any]:
    """Measure the cost of a flow around a capture, without imports and Prefect's server."""
    runs: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for _ in range(5):
        for flow, results in runs.items():
            load = _load(20_000.0, seconds + 60)
            results.append(watched(load, seconds=seconds, settle=5, flow=flow))
    rows = []
    for flow, results in runs.items():
        figures = [(r["core"], *r["latency_ms"], r["pause_ms"][1]) for r in results]
        core, p50, p99, pause = (bench.median(column) for column in zip(*figures, strict=True))
        title = "in a flow run" if flow else "by itself"
        rows.append([title, f"{core:.1%}", f"{p50:.0f} ms", f"{p99:.0f} ms", f"{pause:.1f} ms"])
    head = ["20,000 trades/s", "of a core", "socket → CSV row, p50", "p99", "between reads, p99"]
    print(bench.table(head, rows))
    return {"flow": runs[True], "plain": runs[False]}


def memory(seconds: float) -> dict[str, Any]:
    """Measure the growth of memory at 10,000 trades/s for ``seconds``."""
    result = watched(_load(10_000.0, seconds), timed=False)
    row = [*(f"{size:.0f} MB" for size in result["memory_mb"]), f"{result['slope_mb_h']:+.0f} MB/h"]
    print(bench.table(["after a quarter", "highest", "at the end", "slope"], [row]))
    return result


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
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []])
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    for name in given.parts or [name for name in PARTS if name != "memory"]:
        bench.log(name)
        bench.log(f"saved to {bench.save(name, PARTS[name](given.seconds))}")
        print()


if __name__ == "__main__":
    main()
