"""A session as one HTML file that needs no server, no network and no other file.

The template escapes all values, so that text from the data is text on the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from stocktrace._version import __version__
from stocktrace.sessions.report import TickerBooks
from stocktrace.show.picture import draw_picture
from stocktrace.show.view import NAMELESS, ReportView
from stocktrace.text import count_of, format_clock, format_duration

#: Most rows of a table; the session's report on disk has all of them.
MOST_ROWS = 500

_CHARTS = "dashboard/static/lightweight-charts.standalone.production.js"


def render_page(view: ReportView) -> str:
    """Return the page of a session as HTML."""
    environment = Environment(
        loader=PackageLoader("stocktrace.show", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.filters |= {
        "clock": format_clock,
        "counted": count_of,
        "lasting": format_duration,
        "number": number,
        "moment": moment,
    }
    return environment.get_template("session.html").render(
        view=view,
        report=view.report,
        rows=list(_rows(view)),
        data=_data(view),
        picture=draw_picture(view),
        charts=resources.files("stocktrace").joinpath(_CHARTS).read_text(encoding="utf-8"),
        version=__version__,
        most=MOST_ROWS,
    )


@dataclass(frozen=True, slots=True)
class _TickerRow:
    """A ticker with its prices and books."""

    name: str
    books: TickerBooks
    first: float | None
    high: float | None
    low: float | None
    last: float | None
    volume: float | None
    silent_s: float | None
    refused: str

    @property
    def change(self) -> float | None:
        """Change from the first price to the last, in percent."""
        if not self.first or self.last is None:
            return None
        return round(100 * (self.last / self.first - 1), 2)


def _rows(view: ReportView) -> Iterator[_TickerRow]:
    report = view.report
    for name in dict.fromkeys([*view.bars, *report.per_ticker, *report.tickers]):
        bars = view.bars.get(name, [])
        priced = [bar for bar in bars if bar.close is not None]
        yield _TickerRow(
            name or NAMELESS,
            report.per_ticker.get(name, TickerBooks()),
            priced[0].open if priced else None,
            max((bar.high for bar in priced if bar.high is not None), default=None),
            min((bar.low for bar in priced if bar.low is not None), default=None),
            priced[-1].close if priced else None,
            sum(bar.volume for bar in bars) if name in view.bars else None,
            report.silent.get(name),
            report.refused.get(name, ""),
        )


def _data(view: ReportView) -> dict[str, Any]:
    """Return the data of the charts; times are epoch seconds, bars are ``ReportBar``s."""
    return {
        "begin": view.begin.timestamp(),
        "end": view.end.timestamp(),
        "every": view.every_s,
        "tickers": {
            # Without the rounding errors of a sum of floats.
            name: [bar._replace(volume=float(f"{bar.volume:.9g}")) for bar in bars]
            for name, bars in view.bars.items()
            if bars
        },
        "gaps": [
            [
                gap.start.timestamp(),
                gap.end.timestamp(),
                gap.reason,
                None if gap.tickers is None else [t for t in view.bars if t in gap.tickers],
            ]
            for gap in view.gaps
        ],
    }


def number(value: float | None, form: str = ",") -> str:
    """Return ``value`` as text, empty for ``None``."""
    return "" if value is None else format(value, form)


def moment(when: datetime | None) -> str:
    """Return a time in UTC, to the millisecond; empty for ``None``."""
    return "" if when is None else when.isoformat(" ", "milliseconds").removesuffix("+00:00")
