"""The chart of ``docs/performance.md``, from the results of ``benchmarks.capture``.

python -m benchmarks.plot docs/performance.svg
"""

from __future__ import annotations

import json
import math
import sys
from html import escape
from pathlib import Path

from benchmarks import market
from benchmarks.peers import OURS, PEERS

_WIDTH, _ROW, _LEFT, _RIGHT = 860, 24, 330, 90
_OURS, _OTHERS, _TEXT = "#0b7285", "#adb5bd", "#495057"


def svg(medians: dict[str, dict[str, float]], k: str = "5") -> str:
    """Draw CPU time per trade as bars on a logarithmic scale, the cheapest first."""
    titles = {peer.name: peer.title.split(":")[0].strip("*") for peer in PEERS}
    bars = sorted((values[k], name) for name, values in medians.items() if k in values)
    low, high = math.floor(math.log10(bars[0][0])), math.log10(bars[-1][0])
    scale = (_WIDTH - _LEFT - _RIGHT) / (high - low)
    height = _ROW * (len(bars) + 2)
    style = f'font-family="sans-serif" font-size="13" fill="{_TEXT}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" {style}>',
        f'<text x="8" y="18">CPU time a trade, {k} trades a frame (logarithmic)</text>',
    ]
    for at, (ns, name) in enumerate(bars):
        y = _ROW * (at + 1.5)
        width = (math.log10(ns) - low) * scale
        colour = _OURS if name == OURS else _OTHERS
        lines += [
            f'<text x="{_LEFT - 8}" y="{y + 12}" text-anchor="end">{escape(titles[name])}</text>',
            f'<rect x="{_LEFT}" y="{y}" width="{width:.0f}" height="16" fill="{colour}"/>',
            f'<text x="{_LEFT + width + 6:.0f}" y="{y + 12}">{ns / 1000:.3g} µs</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    """Write the chart."""
    result = json.loads((market.BENCH / "results" / "capture.json").read_text())
    Path(sys.argv[1]).write_text(svg(result["median_ns"]), encoding="utf-8")


if __name__ == "__main__":
    main()
