"""A session as a picture and as a page: what is on them, and what can never be."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from stocktrace.sessions.report import Books, GapReport, LagReport, SessionReport, TickerBooks
from stocktrace.sessions.summary import SessionSummary
from stocktrace.show.page import render_page
from stocktrace.show.picture import MOST_PANELS, draw_picture
from stocktrace.show.view import (
    LENGTHS_S,
    MOST_BARS,
    GapStretch,
    ReportBar,
    ReportView,
    length_of_bars,
)
from tests.conftest import SESSION

BEGIN = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)
SVG = "{http://www.w3.org/2000/svg}"
NASTY = "</script><script>boom()</script><img src=x onerror=boom()> & \"'"
CHROMIUM = shutil.which("chromium")


def after(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def bars(count: int = 60, price: float = 100.0) -> list[ReportBar]:
    first = int(BEGIN.timestamp())
    return [
        ReportBar(
            first + at, price + at, price + at + 1, price + at - 1, price + at + 0.5, 10.0 * at, 3
        )
        for at in range(count)
    ]


def gap(start: float, end: float, *tickers: str, reason: str = "connection lost") -> GapStretch:
    return GapStretch(after(start), after(end), reason, frozenset(tickers) if tickers else None)


def view(**given: Any) -> ReportView:
    """Sixty seconds of two tickers."""
    report = given.get(
        "report", SessionReport(SESSION, ["A", "B"], BEGIN, state="complete", ended=after(60))
    )
    fields: dict[str, Any] = {
        "report": report,
        "summary": SessionSummary(
            SESSION,
            report.state,
            trades=report.books.trades,
            gaps=len(report.gaps),
            gap_s=report.gap_s,
            outages=len(report.outages),
        ),
        "begin": BEGIN,
        "end": after(60),
        "every_s": 1,
        "bars": {"A": bars(), "B": bars(price=1.0)},
        "gaps": [],
        "quarantine": {},
    }
    return ReportView(**{**fields, **given})


def drawn(seen: ReportView) -> ET.Element:
    return ET.fromstring(draw_picture(seen))


def shaded(seen: ReportView) -> list[ET.Element]:
    return [rect for rect in drawn(seen).iter(f"{SVG}rect") if rect.get("class") == "gap"]


# ------------------------------------------------------------------------------------ the picture


def test_each_gap_is_one_shaded_rectangle_at_its_time() -> None:
    rects = shaded(view(gaps=[gap(0, 0.01), gap(15, 30), gap(45, 60, "A", "B")]))
    edges = [(float(r.get("x", "")), float(r.get("width", ""))) for r in rects]
    left, whole = 12.0, 960.0 - 12.0 - 80.0
    assert edges == [
        (left, 1.5),  # however short, it is seen
        (pytest.approx(left + whole / 4, abs=0.1), pytest.approx(whole / 4, abs=0.1)),
        (pytest.approx(left + whole * 0.75, abs=0.1), pytest.approx(whole / 4, abs=0.1)),
    ]
    assert len({(r.get("y"), r.get("height")) for r in rects}) == 1


def test_a_gap_of_one_ticker_is_shaded_in_its_panel_only() -> None:
    (all_of_it,) = shaded(view(gaps=[gap(10, 20)]))
    (one,) = shaded(view(gaps=[gap(10, 20, "B")]))
    assert float(one.get("y", "")) > float(all_of_it.get("y", ""))
    assert float(one.get("height", "")) < float(all_of_it.get("height", "")) / 2
    assert shaded(view(gaps=[gap(10, 20, "C")])) == []


def test_the_line_breaks_at_a_gap_and_not_at_a_quiet_stretch() -> None:
    quiet = [bar for at, bar in enumerate(bars()) if not 20 <= at < 30]

    def lines(*gaps: GapStretch) -> int:
        seen = drawn(view(bars={"A": quiet}, gaps=list(gaps)))
        (line,) = [each for each in seen.iter(f"{SVG}path") if each.get("class") == "price"]
        return (line.get("d") or "").count("M")

    assert lines() == 1
    assert lines(gap(22, 25)) == 2
    assert lines(gap(22, 25, "B")) == 1


def test_only_the_busiest_tickers_have_a_panel() -> None:
    many = {f"T{number}": bars() for number in range(MOST_PANELS + 3)}
    names = [each.text for each in drawn(view(bars=many)).iter() if each.get("class") == "name"]
    assert names == [f"T{number}" for number in range(MOST_PANELS)]


def test_text_in_the_picture_is_escaped() -> None:
    nasty = f"{NASTY}\x00\x1b\ud800"
    root = drawn(view(bars={nasty: bars()}, gaps=[gap(1, 2, reason=nasty)]))
    assert {each.tag for each in root.iter()} == {
        f"{SVG}{tag}" for tag in ("svg", "title", "style", "rect", "text", "path")
    }
    assert [each.text for each in root.iter() if each.get("class") == "name"] == [f"{NASTY}���"]


def test_a_session_without_trades_has_a_picture_that_says_so() -> None:
    seen = view(bars={"A": []}, end=BEGIN, gaps=[gap(0, 0)])
    assert "No trades were recorded." in [each.text for each in drawn(seen).iter()]
    assert len(shaded(seen)) == 1


def test_bars_without_a_price_or_a_volume_are_drawn_as_far_as_possible() -> None:
    first = int(BEGIN.timestamp())
    odd = [
        ReportBar(first, None, None, None, None, 5.0, 1),
        ReportBar(first + 1, 2.0, 2.0, 2.0, 2.0, 0.0, 0),
    ]
    kinds = [each.get("class") for each in drawn(view(bars={"A": odd})).iter(f"{SVG}path")]
    assert {"volume", "range", "price"} <= set(kinds)
    none = view(bars={"A": odd[:1]})
    assert "price" not in [each.get("class") for each in drawn(none).iter(f"{SVG}path")]


def test_a_session_of_the_us_market_is_drawn_in_minutes_and_small_enough() -> None:
    assert length_of_bars(6.5 * 3600) == 60
    assert all(length_of_bars(MOST_BARS * each) == each for each in LENGTHS_S)
    assert length_of_bars(10**9) == LENGTHS_S[-1]
    seen = view(
        bars={f"T{n}": bars(390) for n in range(MOST_PANELS)}, end=after(390 * 60), every_s=60
    )
    assert len(draw_picture(seen)) < 150_000


# --------------------------------------------------------------------------------------- the page


class Page(HTMLParser):
    """What a browser would load and run, and the text it would show."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self._within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._within = tag

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within == "script":
            self.scripts.append(data)
        elif self._within != "style":
            self.text.append(data.strip())


def test_the_page_loads_nothing() -> None:
    page = Page(render_page(view(gaps=[gap(1, 2)])))
    loading = {"src", "srcset", "data", "poster", "action", "background", "manifest"}
    for tag, attributes in page.tags:
        assert not loading & set(attributes), tag
        assert "href" not in attributes or tag == "a", tag
    (policy,) = [each.get("content") for _, each in page.tags if each.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "url(" not in render_page(view()).partition("<script")[0]


def test_text_on_the_page_is_escaped() -> None:
    report = SessionReport(
        SESSION,
        [NASTY, "B"],
        BEGIN,
        state="failed",
        reason=NASTY,
        ended=after(60),
        books=Books(3, 3, 0, 0, 3, 2, 1),
        per_ticker={NASTY: TickerBooks(3, 2, 1)},
        gaps=[GapReport(after(1), after(2), NASTY, 2)],
        refused={"B": NASTY},
        errors={NASTY: 2},
        notices=[NASTY],
        host=NASTY,
        settings={NASTY: NASTY},
    )
    seen = view(
        report=report,
        bars={NASTY: bars()},
        gaps=[gap(1, 2, reason=NASTY)],
        quarantine={NASTY: 1},
    )
    page, harmless = Page(render_page(seen)), Page(render_page(view(gaps=[gap(1, 2)])))
    assert {tag for tag, _ in page.tags} - {tag for tag, _ in harmless.tags} <= {"ul", "li"}
    assert not [each for _, each in page.tags if any(name.startswith("on") for name in each)]
    assert len(page.scripts) == 3
    assert list(json.loads(page.scripts[0])["tickers"]) == [NASTY]
    assert page.text.count(NASTY) >= 6


def test_what_the_free_feed_of_us_stocks_contains_is_among_the_notes() -> None:
    report = SessionReport(
        SESSION, ["AAPL"], BEGIN, ended=after(60), settings={"url": "wss://ws.finnhub.io"}
    )
    assert "Notes US stocks: Finnhub's free feed has the trades of one venue, IEX" in text_of(
        view(report=report)
    )


def text_of(seen: ReportView) -> str:
    return re.sub(r"\s+", " ", " ".join(Page(render_page(seen)).text))


def test_the_page_shows_what_a_person_must_know() -> None:
    report = SessionReport(
        SESSION,
        ["A", "B", "C", "D"],
        BEGIN,
        state="complete",
        reason="its end time was reached",
        ended=after(60),
        books=Books(10, 9, 1, 0, 9, 8, 1),
        per_ticker={"A": TickerBooks(5, 5, 0, 5), "B": TickerBooks(4, 3, 1, 3)},
        gaps=[GapReport(after(1), after(3.5), "connection lost", 4)],
        reconnects=1,
        latency=LagReport(80.0, 250.0, 900.0),
        silent={"D": 1800.0},
    )
    seen = view(report=report, gaps=[gap(1, 3.5)], quarantine={"price: > 0": 1})
    text = text_of(seen)
    for told in (
        "complete",
        "It ended: its end time was reached.",
        "Gaps 1 2.5 s",
        "Quarantined 1",
        "Books balance",
        "Lag, p50 80 ms p99 250 ms, maximum 900 ms",
        "price: > 0 1",
        "no trades for 00:30:00 of market hours",
        "C 0 0 0 no trades",
    ):
        assert told in text


def test_the_page_of_a_running_session_says_how_old_its_books_are() -> None:
    report = SessionReport(SESSION, ["A"], BEGIN, windows={"w": Books()})
    text = text_of(view(report=report, summary=SessionSummary(SESSION, "running", trades=7)))
    assert "The books below cover the 1 window that ended so far" in text
    assert "Trades 7" in text
    assert "Books not closed" in text


@pytest.mark.parametrize(
    ("trades", "told"),
    [(1234, "Trades 1,234 at the last status"), (None, "Trades ? on its tape")],
)
def test_the_page_of_a_crashed_session_says_so_and_not_that_nothing_was_received(
    trades: int | None, told: str
) -> None:
    text = text_of(
        view(
            report=SessionReport(SESSION, ["A"], BEGIN),
            summary=SessionSummary(SESSION, "crashed", trades=trades, gaps=2, gap_s=1.5, outages=1),
        )
    )
    assert told in text
    assert "Books not closed" in text
    assert "It crashed. Everything it received is on its tape; run stocktrace recover" in text
    assert "Gaps 2 1.5 s, connecting among them" in text
    assert "2 gaps will be listed when the session is recovered" in text


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
def test_a_browser_without_a_network_draws_the_charts(tmp_path: Path) -> None:
    assert CHROMIUM is not None
    page = tmp_path / "page.html"
    seen = view(bars={NASTY: bars(), "B": bars()}, gaps=[gap(10, 20)])
    page.write_text(render_page(seen), encoding="utf-8")
    done = subprocess.run(
        [
            CHROMIUM,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=3000",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    shown = Page(done.stdout)
    tags = [tag for tag, _ in shown.tags]
    assert tags.count("canvas") > 2
    assert tags.count("option") == 2
    assert tags.count("script") == 3
    assert NASTY in shown.text
    assert any(text.startswith("O 159  H 160") for text in shown.text)
