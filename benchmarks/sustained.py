"""The highest rate that each client sustains: nothing is lost, nothing waits.

    python -m benchmarks.sustained [--rounds 3] [--peers NAME ...] [--per-frame K ...] [--tape FILE]

The sender sends as fast as the client reads; TCP slows it down. A client's time is from the end of
its imports to its last row, for stocktrace to its last Parquet file. ``--tape`` plays a recording
(``.tape.gz``) instead, to the clients that speak Finnhub's protocol.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks import bench, market
from benchmarks.peers import PEERS, Peer, install

# The naive client would take minutes for a recorded day.
_FASTEST = ("stocktrace", "limit", "websockets")


def synthetic(peers: list[Peer], per_frame: list[int], rounds: int) -> list[dict[str, Any]]:
    """Run every peer with synthetic trades."""
    loads = [(peer, k) for k in per_frame for peer in peers if k in peer.per_frame]
    return [
        _run(peer, f"k = {k}", bench.Load(k, 50, peer.trades, 0.0, peer.dialect))
        for _ in range(rounds)
        for peer, k in loads
    ]


def recorded(peers: list[Peer], tape: Path, rounds: int) -> list[dict[str, Any]]:
    """Run the fastest peers with a recording."""
    trades = market.make_from_tape(tape)
    load = bench.Load(1, 1, trades, 0.0, market.TAPE)
    chosen = [peer for peer in peers if peer.name in _FASTEST]
    return [_run(peer, tape.name, load) for _ in range(rounds) for peer in chosen]


def _run(peer: Peer, column: str, load: bench.Load) -> dict[str, Any]:
    result = bench.run(peer.client, load)
    rate, ns = load.trades / result["wall_s"], result["cpu_s"] / load.trades * 1e9
    bench.log(f"{column}: {peer.name} {rate:,.0f} trades/s, {ns:,.0f} ns a trade")
    return {"peer": peer.name, "column": column, "rate": rate, "ns": ns, **result}


def table(runs: list[dict[str, Any]], peers: list[Peer]) -> str:
    """Format the table of docs/performance.md, with medians."""
    columns = list(dict.fromkeys(run["column"] for run in runs))
    rows = []
    for peer in [peer for peer in peers if any(run["peer"] == peer.name for run in runs)]:
        cells = [peer.title]
        for column in columns:
            mine = [run for run in runs if (run["peer"], run["column"]) == (peer.name, column)]
            rate = bench.median([run["rate"] for run in mine]) if mine else 0
            ns = bench.median([run["ns"] for run in mine]) if mine else 0
            cells.append(f"{rate:,.0f}/s · {ns / 1000:.3g} µs" if mine else "")
        rows.append(cells)
    return bench.table(["as fast as the client reads", *columns], rows)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", nargs="*", default=[])
    parser.add_argument("--per-frame", type=int, nargs="*", default=[1, 5, 20])
    parser.add_argument("--tape", type=Path)
    given = parser.parse_args()
    chosen = [peer for peer in PEERS if not given.peers or peer.name in given.peers]
    peers = install(chosen)
    if given.tape:
        runs = recorded(peers, given.tape, given.rounds)
    else:
        runs = synthetic(peers, given.per_frame, given.rounds)
    print(table(runs, peers))
    bench.log(f"saved to {bench.save('sustained', {'runs': runs})}")


if __name__ == "__main__":
    main()
