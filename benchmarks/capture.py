"""CPU time a trade, from a loopback WebSocket to a row in a file: stocktrace beside its peers.

    python -m benchmarks.capture [--rounds 5] [--peers NAME ...] [--per-frame K ...]

All programs run in turn, round after round, so that a disturbance of the machine affects all of
them; the table has the medians. Every client gets the same sender: at most 100,000 trades a second
over 50 tickers, slowed down by TCP if a client is slower.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks import bench
from benchmarks.peers import LIMIT, OURS, PEERS, Peer, install

RATE = 100_000.0


def measure(peers: list[Peer], per_frame: list[int], rounds: int) -> list[dict[str, Any]]:
    """Run every peer with every number of trades per frame."""
    runs = []
    for turn in range(1, rounds + 1):
        for k in per_frame:
            for peer in peers:
                if k not in peer.per_frame:
                    continue
                load = bench.Load(k, 50, peer.trades, RATE, peer.dialect)
                try:
                    result = bench.run(peer.client, load)
                except (RuntimeError, OSError) as error:
                    bench.log(f"{peer.name} failed: {error}")
                    continue
                ns = result["cpu_s"] / peer.trades * 1e9
                bench.log(f"round {turn}, k={k}: {peer.name} {ns:,.0f} ns a trade")
                runs.append({"peer": peer.name, "k": k, "ns": ns, **result})
    return runs


def summary(
    runs: list[dict[str, Any]], peers: list[Peer], per_frame: list[int]
) -> dict[str, dict[int, float]]:
    """Return the median of each peer and k, in ns per trade."""
    medians: dict[str, dict[int, float]] = {}
    for peer in peers:
        for k in per_frame:
            values = [run["ns"] for run in runs if run["peer"] == peer.name and run["k"] == k]
            if values:
                medians.setdefault(peer.name, {})[k] = bench.median(values)
    return medians


def _ratio(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def tables(medians: dict[str, dict[int, float]], peers: list[Peer], per_frame: list[int]) -> str:
    """Format the table of docs/performance.md."""
    rows = []
    for peer in peers:
        cells = [peer.title]
        for k in per_frame:
            ns, ours = medians.get(peer.name, {}).get(k), medians.get(OURS, {}).get(k)
            limit = medians.get(LIMIT, {}).get(k)
            if ns is None:
                cells.append("")
                continue
            of_limit = f" · {_ratio(ns / limit)} of the limit" if limit else ""
            of_ours = f" · {_ratio(ns / ours)} of ours" if ours and peer.name != OURS else ""
            cells.append(f"{ns / 1000:.3g} µs{of_limit}{of_ours}")
        rows.append(cells)
    return bench.table(["CPU a trade", *(f"k = {k}" for k in per_frame)], rows)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", nargs="*", default=[])
    parser.add_argument("--per-frame", type=int, nargs="*", default=[1, 5, 20])
    given = parser.parse_args()
    chosen = [peer for peer in PEERS if not given.peers or peer.name in given.peers]
    peers = install(chosen)
    runs = measure(peers, given.per_frame, given.rounds)
    medians = summary(runs, peers, given.per_frame)
    print(tables(medians, peers, given.per_frame))
    bench.log(f"saved to {bench.save('capture', {'runs': runs, 'median_ns': medians})}")


if __name__ == "__main__":
    main()
