"""CPU time per row, from sealed CSV segments to Parquet, compared with pandas without checks.

python -m benchmarks.convert [--rounds 5] [--rows 500000]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import bench, market

_OURS = """
import sys, time
from pathlib import Path
from stocktrace.store import conversion
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
layout = Layout(Path(sys.argv[1]))
window = WindowId.parse(next(layout.root.glob("csv/*/*.csv")))
began = time.process_time()
conversion.convert_window(layout, window)
print(time.process_time() - began)
"""
_PANDAS = """
import sys, time
from pathlib import Path
import pandas
from pyarrow import csv, parquet
began = time.process_time()
for path in sorted(Path(sys.argv[1]).glob("csv/*/*.csv")):
    frame = pandas.read_csv(path, parse_dates=["ts_event", "ts_recv"], keep_default_na=False)
    frame.to_parquet(path.with_suffix(".parquet"))
print(time.process_time() - began)
"""
_STEM = "20251121T143000Z_0123ab-20251121T143000Z_00001"


def write_segments(root: Path, rows: int, files: int) -> None:
    """Write segments with the recorder's own code."""
    from stocktrace.store.decoded_batch import DecodedRead
    from stocktrace.store.layout import Layout
    from stocktrace.store.names import WindowId
    from stocktrace.store.segments import SegmentWriter
    from stocktrace.store.tape import TapeFrames
    from stocktrace.trade import Trade
    from stocktrace.trade_columns import TradeColumns

    layout = Layout(root)
    writer = SegmentWriter(layout, WindowId(*_STEM.split("-")))
    for name in market.tickers(files):
        trades = [
            Trade(name, trade.price, trade.ms, float(trade.size), tuple(trade.codes or ()))
            for trade in market.synthetic_trades([name], rows)
        ]
        for begin in range(0, rows, 1000):
            chunk = trades[begin : begin + 1000]
            stamp = chunk[-1].t * 1_000_000 + 80_123_456
            read = DecodedRead([TapeFrames(stamp, [b""])], TradeColumns.of([chunk]))
            writer.write([(name, [(read, range(len(chunk)))])])
    writer.seal()


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=500_000)
    given = parser.parse_args()
    medians: dict[str, dict[str, float]] = {}
    rows = []
    for files in (1, 50, 5000):
        runs: dict[str, list[float]] = {"stocktrace": [], "pandas": []}
        with tempfile.TemporaryDirectory(prefix="stocktrace-bench-") as original:
            write_segments(Path(original), given.rows // files, files)
            for _ in range(given.rounds):
                for name, program in (("stocktrace", _OURS), ("pandas", _PANDAS)):
                    with tempfile.TemporaryDirectory(prefix="stocktrace-bench-") as folder:
                        subprocess.run(["cp", "-r", f"{original}/csv", folder], check=True)
                        process = subprocess.run(
                            [sys.executable, "-c", program, folder],
                            cwd=market.ROOT,
                            capture_output=True,
                            text=True,
                            check=True,
                        )
                        runs[name].append(json.loads(process.stdout) / given.rows * 1e9)
        medians[str(files)] = {name: bench.median(values) for name, values in runs.items()}
        ours, pandas = medians[str(files)]["stocktrace"], medians[str(files)]["pandas"]
        rows.append([str(files), f"{ours:.0f} ns", f"{pandas:.0f} ns", f"{ours / pandas:.2f}"])
    head = [f"tickers, {given.rows:,} rows", "stocktrace, verified", "pandas, unverified", "ratio"]
    print(bench.table(head, rows))
    bench.log(f"saved to {bench.save('convert', medians)}")


if __name__ == "__main__":
    main()
