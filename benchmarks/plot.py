"""The charts of ``docs/performance.md``, from the results of two benchmarks.

python -m benchmarks.plot capture docs/performance.svg
python -m benchmarks.plot archive docs/archive.svg
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
_READERS = ("#0b7285", "#e67700", "#ffd43b", "#862e9c", "#868e96", "#c92a2a")
_LEGEND_PX = 130


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


def archive_svg(times: dict[str, dict[str, float]]) -> str:
    """Draw the CPU time of each question and reader as a dot on a logarithmic scale."""
    everything = [ms for by_reader in times.values() for ms in by_reader.values()]
    low, high = math.floor(math.log10(min(everything))), math.ceil(math.log10(max(everything)))
    scale = (_WIDTH - _LEFT - _RIGHT) / (high - low)
    height = _ROW * (len(times) + 3)
    style = f'font-family="sans-serif" font-size="13" fill="{_TEXT}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" {style}>',
    ]
    names = list(next(iter(times.values())))
    for at, (name, colour) in enumerate(zip(names, _READERS, strict=False)):
        x = 16.0 + at * (_LEGEND_PX + 10)
        lines += [
            f'<circle cx="{x}" cy="14" r="5" fill="{colour}"/>',
            f'<text x="{x + 10}" y="18">{escape(name)}</text>',
        ]
    for power in range(low, high + 1):
        x = _LEFT + (power - low) * scale
        label = f"{10**power:g} ms" if power < 3 else f"{10 ** (power - 3):g} s"
        lines += [
            f'<line x1="{x:.0f}" x2="{x:.0f}" y1="44" y2="{height - 8}" stroke="#dee2e6"/>',
            f'<text x="{x:.0f}" y="40" text-anchor="middle">{label}</text>',
        ]
    for at, (title, by_reader) in enumerate(times.items()):
        y = _ROW * (at + 2.5)
        lines.append(f'<text x="{_LEFT - 16}" y="{y + 4}" text-anchor="end">{escape(title)}</text>')
        for name, colour in reversed(list(zip(names, _READERS, strict=False))):
            x = _LEFT + (math.log10(by_reader[name]) - low) * scale
            lines.append(f'<circle cx="{x:.0f}" cy="{y}" r="6" fill="{colour}"/>')
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    """Write a chart."""
    name, path = sys.argv[1:]
    result = json.loads((market.BENCH / "results" / f"{name}.json").read_text())
    text = archive_svg(result) if name == "archive" else svg(result["median_ns"])
    Path(path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
