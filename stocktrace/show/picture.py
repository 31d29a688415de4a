"""A session as an SVG picture: price and volume of the busiest tickers, each gap shaded.

The SVG is built as a tree, so that text from the data is text in it. The price line breaks at a
gap, but not where a ticker was only quiet.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring

from stocktrace.show.view import LENGTHS_S, GapStretch, ReportBar, ReportView
from stocktrace.text import count_of

#: Most panels in one picture.
MOST_PANELS = 6

_WIDTH, _LEFT, _RIGHT, _TOP = 960.0, 12.0, 80.0, 40.0
_TITLE, _PRICE, _VOLUME, _SPACE = 20.0, 92.0, 34.0, 14.0
_PANEL = _TITLE + _PRICE + _VOLUME
# So that a gap of one second in a day is visible.
_NARROWEST = 1.5
_TICKS = 8
# Characters that XML 1.0 does not allow.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# With its own background, for light and dark pages.
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#57606a}"
    ".paper{fill:#fff;stroke:#d0d7de}.head{font-size:14px;font-weight:600;fill:#1f2328}"
    ".name{font-weight:600;fill:#1f2328}.axis{stroke:#d8dee4}"
    ".gap{fill:#bf8700;fill-opacity:.28}"
    ".range{stroke:#0969da;stroke-opacity:.25}.volume{stroke:#8c959f}"
    ".price{fill:none;stroke:#0969da;stroke-width:1.3}"
)


def draw_picture(view: ReportView) -> str:
    """Return the session as an SVG document with a ``rect`` of class ``gap`` for each gap.

    A gap of some of the tickers has one in the panel of each of them.
    """
    shown = [(name, bars) for name, bars in view.bars.items() if bars][:MOST_PANELS]
    begin = view.begin.timestamp()
    scale = _TimeScale(begin, max(view.end.timestamp(), begin + 1))
    bottom = _TOP + max(len(shown), 1) * (_PANEL + _SPACE)
    height = bottom + 24
    root = Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {_n(_WIDTH)} {_n(height)}",
            "width": _n(_WIDTH),
            "height": _n(height),
            "role": "img",
        },
    )
    _add(root, "title", text=f"Session {view.report.session}: price, volume and gaps")
    _add(root, "style", text=_STYLE)
    _add(root, "rect", "paper", x=0.5, y=0.5, width=_WIDTH - 1, height=height - 1, rx=6)
    _add(root, "text", "head", _headline(view), x=_LEFT, y=26)
    for x, text in scale.ticks():
        _add(root, "path", "axis", d=f"M{_n(x)} {_n(_TOP)}V{_n(bottom)}")
        _add(root, "text", text=text, x=x, y=bottom + 15, text_anchor="middle")
    for gap in view.gaps:
        for top, end in _gap_areas(gap, [name for name, _ in shown], bottom):
            left, right = scale.x(gap.start.timestamp()), scale.x(gap.end.timestamp())
            width = max(right - left, _NARROWEST)
            rect = _add(root, "rect", "gap", x=left, y=top, width=width, height=end - top)
            seconds = (gap.end - gap.start).total_seconds()
            _add(rect, "title", text=f"{seconds:,.1f} s: {gap.reason}")
    for panel, (name, bars) in enumerate(shown):
        _draw_panel(root, scale, _TOP + panel * (_PANEL + _SPACE), name, bars, view)
    if not shown:
        _add(root, "text", text="No trades were recorded.", x=_LEFT, y=_TOP + _PANEL / 2)
    return tostring(root, encoding="unicode")


@dataclass(frozen=True, slots=True)
class _TimeScale:
    """Maps time (epoch s) to x."""

    begin: float
    end: float

    def x(self, moment: float) -> float:
        share = (moment - self.begin) / (self.end - self.begin)
        return _LEFT + min(max(share, 0.0), 1.0) * (_WIDTH - _LEFT - _RIGHT)

    def ticks(self) -> Iterator[tuple[float, str]]:
        wanted = (self.end - self.begin) / _TICKS
        step = next((length for length in LENGTHS_S if length >= wanted), LENGTHS_S[-1])
        form = "%H:%M" if step >= 60 else "%H:%M:%S"
        tick = -(-self.begin // step) * step
        while tick <= self.end:
            yield self.x(tick), datetime.fromtimestamp(tick, UTC).strftime(form)
            tick += step


def _gap_areas(
    gap: GapStretch, shown: Sequence[str], bottom: float
) -> Iterator[tuple[float, float]]:
    """Yield top and bottom of each area that a gap covers: all panels, or those of its tickers."""
    panels = [panel for panel, name in enumerate(shown) if gap.concerns(name)]
    if len(panels) == len(shown):
        yield _TOP, bottom
        return
    for panel in panels:
        top = _TOP + panel * (_PANEL + _SPACE)
        yield top, top + _PANEL


def _draw_panel(
    root: Element,
    scale: _TimeScale,
    top: float,
    name: str,
    bars: Sequence[ReportBar],
    view: ReportView,
) -> None:
    _add(root, "text", "name", name, x=_LEFT, y=top + 14)
    base, edge = top + _PANEL, _WIDTH - _RIGHT + 8
    _add(root, "path", "axis", d=f"M{_n(_LEFT)} {_n(base)}H{_n(scale.x(1e12))}")
    middle = {bar: scale.x(bar.start + view.every_s / 2) for bar in bars}
    width = max((scale.x(scale.begin + view.every_s) - _LEFT) * 0.8, 0.5)
    most = max(bar.volume for bar in bars)
    if most > 0:
        tall = (_VOLUME - 4) / most
        lines = (f"M{_n(x)} {_n(base)}v{_n(-bar.volume * tall)}" for bar, x in middle.items())
        _add(root, "path", "volume", stroke_width=width, d="".join(lines))
        _add(root, "text", text=_short(most), x=edge, y=base - 2)
    priced = list(_priced(middle))
    if not priced:
        return
    low, high = min(point.low for point in priced), max(point.high for point in priced)

    def y(price: float) -> float:
        share = (price - low) / (high - low) if high > low else 0.5
        return top + _TITLE + (1 - share) * (_PRICE - 16)

    ranges = (f"M{_n(p.x)} {_n(y(p.high))}V{_n(y(p.low) + 0.1)}" for p in priced)
    _add(root, "path", "range", stroke_width=width, d="".join(ranges))
    gaps = sorted(scale.x(gap.start.timestamp()) for gap in view.gaps if gap.concerns(name))
    line, stretch = "", -1
    for point in priced:
        before, stretch = stretch, bisect(gaps, point.x)
        line += f"{'L' if stretch == before else 'M'}{_n(point.x)} {_n(y(point.close))}"
    _add(root, "path", "price", d=line)
    for price in dict.fromkeys((high, low)):
        _add(root, "text", text=f"{price:,.7g}", x=edge, y=y(price) + 4)


class _PricePoint(NamedTuple):
    """The place and the prices of a bar."""

    x: float
    high: float
    low: float
    close: float


def _priced(middle: Mapping[ReportBar, float]) -> Iterator[_PricePoint]:
    for bar, x in middle.items():
        if bar.high is not None and bar.low is not None and bar.close is not None:
            yield _PricePoint(x, bar.high, bar.low, bar.close)


def _short(value: float) -> str:
    """``1.2M``."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:,.3g}{unit}"
    return f"{value:.3g}"


def _headline(view: ReportView) -> str:
    summary = view.summary
    trades = "trades not counted yet"
    if summary.trades is not None:
        trades = count_of(summary.trades, "trade")
    return (
        f"{view.begin:%Y-%m-%d %H:%M:%S} to {view.end:%H:%M:%S} UTC · {summary.state} · "
        f"{trades} · {count_of(summary.gaps, 'gap')}"
    )


def _add(
    parent: Element, tag: str, kind: str = "", text: str = "", **attributes: float | str
) -> Element:
    """Add an element of the class ``kind`` with a text."""
    element = SubElement(parent, tag, {"class": kind} if kind else {})
    for name, value in attributes.items():
        element.set(name.replace("_", "-"), value if isinstance(value, str) else _n(value))
    element.text = _NO_XML.sub("\ufffd", text)
    return element


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
