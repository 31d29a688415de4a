"""How often the judgement of duplicates is wrong, and how often it is right (docs/reading.md).

    python benchmarks/duplicates.py TAPE    # a recording without duplicates; prints both rates

Honest markets: the tape as it is; its reads in another order, so that equal trades meet other
neighbours; and synthetic tickers in which orders are filled as two equal trades so many times in a
row. Planted duplicates, as in Finnhub #143: the tape with the trades of each read again, in the
same read (A, B, A, B) or 60 ms later.
"""

from __future__ import annotations

import random
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from stocktrace.feed.protocol import decode
from stocktrace.query import duplicates
from stocktrace.store.tape import TapeFrames, TapeReader
from stocktrace.trade import Trade

#: The trades of one read, and when it was received (us).
Read = tuple[int, list[Trade]]
MS = 1000


def read_tape(path: Path) -> list[Read]:
    """Return the reads of a tape."""
    return [
        (
            entry.stamp // 1000,
            [trade for some in decode(entry.frames).rows.messages() for trade in some],
        )
        for entry in TapeReader(path)
        if isinstance(entry, TapeFrames)
    ]


def judge(reads: list[Read]) -> dict[str, np.ndarray]:
    """Return the flags of each ticker's rows."""
    rows: dict[str, list[tuple[int, Trade]]] = defaultdict(list)
    for stamp, trades in reads:
        for trade in trades:
            rows[trade.s].append((stamp, trade))
    flags = {}
    for ticker, some in rows.items():
        numbers: dict[tuple[object, ...], int] = {}
        keys = [
            numbers.setdefault((trade.t, trade.p, trade.v, trade.c), len(numbers))
            for _, trade in some
        ]
        times = np.array([stamp for stamp, _ in some], np.int64)
        flags[ticker] = duplicates.find_duplicates(np.array(keys, np.int64), times)
    return flags


def shuffled(reads: list[Read], seed: int) -> list[Read]:
    """Exchange the contents of reads, within about a hundred of them."""
    draw = random.Random(seed)
    order = sorted(range(len(reads)), key=lambda at: at + draw.uniform(0, 100))
    return [(stamp, reads[at][1]) for (stamp, _), at in zip(reads, order, strict=True)]


def split_orders(length: int, seed: int) -> list[Read]:
    """A ticker of 400 keys; in the middle ``length`` in a row are filled as two equal trades."""
    draw = random.Random(seed)
    reads = []
    for at in range(400):
        count = 2 if 200 <= at < 200 + length else draw.choices([1, 2, 3], [80, 15, 5])[0]
        trade = Trade("AAPL", 100 + draw.randrange(100) / 100, at * 40, 100.0, ("1",))
        reads.append((at * 40 * MS, [trade] * count))
    return reads


def in_the_frame(reads: list[Read]) -> list[Read]:
    """Repeat the trades of each frame in it."""
    return [(stamp, trades * 2) for stamp, trades in reads]


def in_the_next(reads: list[Read]) -> list[Read]:
    """Repeat each frame 60 ms later."""
    again = [(stamp + 60 * MS, trades) for stamp, trades in reads]
    return sorted([*reads, *again], key=lambda read: read[0])


def share(reads: list[Read]) -> str:
    """Return how many rows are judged to be duplicates."""
    flags = judge(reads)
    wrong, total = sum(int(some.sum()) for some in flags.values()), sum(map(len, flags.values()))
    tickers = sum(bool(some.any()) for some in flags.values())
    return f"{wrong:,} of {total:,} rows ({wrong / total:.4%}), {tickers} of {len(flags)} tickers"


def main() -> None:
    """Print the rates."""
    tape = read_tape(Path(sys.argv[1]))
    for before in (True, False):
        if before:
            duplicates.MIN_RUN_TOGETHER = duplicates.MIN_RUN  # the judgement by count alone
        else:
            duplicates.MIN_RUN_TOGETHER = 3 * duplicates.MIN_RUN
        print("by count alone:" if before else "by count, delay and order:")
        print("  the tape, honest:", share(tape))
        runs = [
            int(some.sum()) for seed in range(5) for some in judge(shuffled(tape, seed)).values()
        ]
        print(f"  shuffled five times: {sum(runs):,} rows, {np.count_nonzero(runs)} tickers")
        for length in (8, 16, 24, 32, 47, 64):
            hit = sum(judge(split_orders(length, seed))["AAPL"].any() for seed in range(200))
            print(f"  {length} orders in a row filled as two: {hit / 200:.1%} of tickers")
        print("  planted in the frame (50 % is right):", share(in_the_frame(tape)))
        print("  planted 60 ms later (50 % is right):", share(in_the_next(tape)))


if __name__ == "__main__":
    main()
