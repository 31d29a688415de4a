"""Bytes per trade on disk: converted, compacted, and in the formats of others.

    python -m benchmarks.size [--tape FILE]

``--tape`` is a recording, with its own receive times; by default the market is synthetic. Sizes are
exact and need no idle machine. DBN and pcodec are in an environment of their own.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import bench, market
from benchmarks.peers import SIZES, install
from stocktrace.record.publish import publish_window
from stocktrace.store import compaction
from stocktrace.store.arrow_schema import TRADE_SCHEMA
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, encode_ticker
from stocktrace.store.tape import TapeFrames, TapeReader, TapeWriter
from stocktrace.store.trade_file import TradeFileReader, with_texts

# A synthetic session; its date is that of the trades' receipt.
_SESSION = "20251121T142958Z_3f9a1c"
_WINDOW = "20251121T142958Z_00001"
_PER_FRAME = 4
_TRADES = 400_000


def record(layout: Layout, recording: Path | None) -> WindowId:
    """Publish one window with all trades, from the recording or a synthetic market."""
    part = WindowId(_SESSION, _WINDOW)
    tape = TapeWriter(layout.tape(part))
    if recording is not None:
        for entry in TapeReader(recording):
            if isinstance(entry, TapeFrames):
                tape.append(entry.stamp, entry.frames)
    else:
        trades = list(market.synthetic_trades(market.tickers(4), _TRADES))
        dice = random.Random(1)
        for begin in range(0, _TRADES, _PER_FRAME):
            chunk = trades[begin : begin + _PER_FRAME]
            stamp = chunk[-1].ms * 1_000_000 + dice.randrange(60_000_000, 69_000_000)
            tape.append(stamp, [market.finnhub_payload(chunk)])
    tape.close()
    publish_window(layout, part, whole=False)
    return part


def measure(layout: Layout, part: WindowId, plain: Path) -> dict[str, float]:
    """Return the bytes per trade of each format; ``plain`` is a folder for the others to read."""
    published = layout.window_file(part)
    pandas = rows = 0
    with TradeFileReader(published) as file:
        for ticker, count in file.count_trades().items():
            # The others have a file a ticker, so they need neither this nor our last columns.
            table = file.read(TRADE_SCHEMA.names[1:], tickers=[ticker])
            frame = with_texts([table], TRADE_SCHEMA.names[1:]).to_pandas()
            rows += count
            path_of_pandas = plain / f"{encode_ticker(ticker)}.pandas"
            frame.to_parquet(path_of_pandas)
            pandas += path_of_pandas.stat().st_size
            path_of_others = plain / f"{encode_ticker(ticker)}.parquet"
            pq.write_table(pa.Table.from_pandas(frame), path_of_others)
    converted = published.stat().st_size
    command = [str(SIZES.python), "-m", "benchmarks.peer.sizes", str(plain)]
    process = subprocess.run(command, cwd=market.ROOT, capture_output=True, text=True, check=True)
    others: dict[str, Any] = json.loads(process.stdout)
    compacted = compaction.compact_date(layout, part.date)
    assert compacted is not None
    sizes = {"pandas": pandas, "converted": converted, "compacted": compacted.size, **others}
    return {name: size / rows for name, size in sizes.items()}


_TITLES = {
    "pandas": "pandas' `to_parquet` with its defaults",
    "dbn": "Databento DBN + zstd 3 (no conditions)",
    "converted": "stocktrace, converted",
    "compacted": "**stocktrace, compacted**",
    "pcodec": "pcodec, level 12, column by column (no file)",
}


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tape", type=Path)
    given = parser.parse_args()
    if not install([SIZES]):
        raise SystemExit("databento-dbn and pcodec cannot be installed here.")
    with (
        tempfile.TemporaryDirectory(prefix="stocktrace-bench-") as root,
        tempfile.TemporaryDirectory(prefix="stocktrace-bench-") as plain,
    ):
        layout = Layout(Path(root))
        sizes = measure(layout, record(layout, given.tape), Path(plain))
    rows = [
        [title, f"{sizes[name]:.2f}", f"{sizes['compacted'] / sizes[name]:.2f}"]
        for name, title in _TITLES.items()
    ]
    print(bench.table(["", "bytes a trade", "compacted is"], rows))
    bench.log(f"saved to {bench.save('size', sizes)}")


if __name__ == "__main__":
    main()
