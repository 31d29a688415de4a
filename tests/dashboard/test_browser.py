"""The page in a real browser: Debian's Chromium, driven by Playwright, on synthetic markets."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from stocktrace.clock import Deadline
from stocktrace.sessions.report import SessionReport
from stocktrace.sessions.status import CaptureStatus
from stocktrace.simulator import Fault, ScriptedSource, Simulator, SyntheticMarket, synthetic_frames
from stocktrace.store import lock
from stocktrace.store.layout import Layout
from tests.conftest import Studio, played
from tests.dashboard.conftest import Capture, capturing, dashboard, free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Locator, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.skipif(find_spec("playwright") is None, reason="Playwright is not installed"),
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium on this machine: apt install chromium"
    ),
]

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TICKERS = ("AAPL", "MSFT", "NVDA", "BINANCE:BTCUSDT")
PATIENCE_MS = 15_000


def expect(seen: Locator) -> Any:
    """Return assertions about ``seen`` that wait for up to ``PATIENCE_MS``."""
    from playwright import sync_api

    sync_api.expect.set_options(timeout=PATIENCE_MS)
    return sync_api.expect(seen)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page, the warnings of its console, and its requests."""

    page: Page
    console_errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.console_errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.console_errors.append(message.text)

    def text(self, selector: str) -> str:
        """Return the text of an element."""
        return self.page.inner_text(selector)

    def number(self, selector: str) -> float:
        """Return the first number in the text of an element."""
        found = re.search(r"[\d,.]+", self.text(selector))
        assert found, self.text(selector)
        return float(found[0].replace(",", ""))

    def until(self, script: str) -> None:
        """Wait until a JavaScript expression is true."""
        deadline = Deadline.after(PATIENCE_MS / 1000)
        while not self.page.evaluate(script):  # Playwright's own wait would need `eval` in the page
            assert not deadline.passed(), script
            self.page.wait_for_timeout(50)

    def painted(self, *colours: str) -> int:
        """Count the pixels of the chart that have one of the page's colours."""
        return int(self.page.evaluate(PAINTED, list(colours)))


#: Counts pixels by the custom properties of style.css; shading is transparent on the background.
PAINTED = """(names) => {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const style = getComputedStyle(document.documentElement);
  const rgb = (colour) => {
    context.fillStyle = style.getPropertyValue("--card"); context.fillRect(0, 0, 1, 1);
    context.fillStyle = colour; context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const wanted = names.map((name) => rgb(style.getPropertyValue(`--${name}`)));
  let count = 0;
  for (const canvas of document.querySelectorAll("#candles canvas")) {
    if (!canvas.width || !canvas.height) continue;
    const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    for (let n = 0; n < data.length; n += 4)
      if (wanted.some((w) => w.slice(0, 3).every((c, k) => Math.abs(data[n + k] - c) < 4))) count++;
  }
  return count;
}"""


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Watched]]:
    """Open pages. They must not load anything from elsewhere, nor log a warning or an error."""
    contexts, pages = [], []

    def go(url: str, **given: Any) -> Watched:
        options: dict[str, Any] = {
            "viewport": {"width": 1400, "height": 900},
            "color_scheme": "dark",
            **given,
        }
        context = browser.new_context(**options)
        contexts.append(context)
        watched = Watched(context.new_page())
        pages.append((watched, url.partition("?")[0]))
        watched.page.goto(url)
        return watched

    yield go
    for watched, origin in pages:
        assert watched.console_errors == []
        assert [url for url in watched.requests if not url.startswith(origin)] == []
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, hurried: None) -> Iterator[Capture]:
    """A capture that runs as long as this module."""
    studio = Studio(tmp_path_factory.mktemp("live") / "data")
    with (
        studio.exchange(SyntheticMarket(seed=5, rate=400, opening=1)) as simulator,
        capturing(
            studio, simulator, TICKERS, roll_interval="20s", flush_interval="200ms"
        ) as capture,
    ):
        yield capture


@pytest.fixture(scope="module")
def site(live: Capture) -> Iterator[str]:
    with dashboard(live.studio.data_dir) as address:
        yield address


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, hurried: None) -> tuple[Path, SessionReport]:
    """A session that has ended and is in Parquet only."""
    studio = Studio(tmp_path_factory.mktemp("finished") / "data")
    frames = list(synthetic_frames(TICKERS[:3], 6000, seed=2))
    with studio.exchange(ScriptedSource(frames)) as simulator:
        report = studio.record(simulator, TICKERS[:3], played(simulator), lasting=60)
    assert not list(studio.data_dir.glob("csv/*/*"))
    return studio.data_dir, report


def test_a_live_session_shows_its_trades_as_they_come(
    live: Capture, site: str, opened: Callable[..., Watched]
) -> None:
    watched = opened(f"{site}?session={live.session}")
    expect(watched.page.locator("#state")).to_have_text("connected")
    expect(watched.page.locator("#lines tr.line")).to_have_count(len(TICKERS))
    watched.until("document.querySelector('#tile-trades dd').textContent !== '0'")
    before = watched.number("#tile-trades dd")
    total = "document.querySelector('#tile-trades dd span').textContent.replaceAll(',', '')"
    watched.until(f"Number({total}) > {before}")
    watched.until("document.querySelector('#tile-rate dd span').textContent !== '0.0'")
    watched.until(
        "[...document.querySelectorAll('.spark polyline')].every((s) => s.getAttribute('points'))"
    )
    watched.until("document.querySelectorAll('#event-list li').length > 1")
    watched.until(f"({PAINTED})(['up', 'down']) > 200")


def test_a_click_changes_the_chart_and_the_address_and_a_reload_keeps_them(
    live: Capture, site: str, opened: Callable[..., Watched]
) -> None:
    watched = opened(f"{site}?session={live.session}")
    watched.page.click("#lines tr.line:has-text('MSFT')")
    expect(watched.page.locator("#chart-title")).to_have_text("MSFT")
    watched.page.click("#lengths button:has-text('15s')")
    watched.until("location.search.includes('ticker=MSFT') && location.search.includes('every=15')")
    watched.page.reload()
    expect(watched.page.locator("#chart-title")).to_have_text("MSFT")
    expect(watched.page.locator("#lengths [aria-pressed=true]")).to_have_text("15s")
    expect(watched.page.locator("#lines tr[aria-selected=true]")).to_contain_text("MSFT")


def test_the_page_can_be_used_with_the_keyboard(
    live: Capture, site: str, opened: Callable[..., Watched]
) -> None:
    watched = opened(f"{site}?session={live.session}&ticker=AAPL")
    page = watched.page
    expect(page.locator("#lines tr.line")).to_have_count(len(TICKERS))
    page.click("th button:has-text('Ticker')")
    expect(page.locator("th[aria-sort]")).to_have_text("Ticker")
    assert page.get_attribute("th[aria-sort]", "aria-sort") == "ascending"
    first = page.locator("#lines tr.line td:first-child").all_inner_texts()
    assert first == sorted(first)
    page.keyboard.press("/")
    page.keyboard.type("nv")
    expect(page.locator("#lines tr.line")).to_have_count(1)
    expect(page.locator("#shown")).to_have_text(f"1 of {len(TICKERS)}")
    page.keyboard.press("Enter")
    expect(page.locator("#chart-title")).to_have_text("NVDA")
    page.keyboard.press("1")
    expect(page.locator("#lengths [aria-pressed=true]")).to_have_text("1s")
    assert watched.text("#chart-text") or page.text_content("#chart-text")


def test_a_lost_connection_is_shown_and_the_gap_is_shaded(
    live: Capture, site: str, opened: Callable[..., Watched]
) -> None:
    watched = opened(f"{site}?session={live.session}&ticker=AAPL&every=1")
    expect(watched.page.locator("#state")).to_have_text("connected")
    assert live.status is not None
    before = live.status.outages
    live.simulator.inject(Fault("status", status=503, repeat=True))
    live.simulator.drop_all()
    expect(watched.page.locator("#state")).to_have_text("reconnecting")
    expect(watched.page.locator("#banner")).to_contain_text("HTTP 503 at the handshake. Attempt")
    live.simulator.clear_faults()
    live.until(lambda status: status.connected and status.outages == before + 1)
    expect(watched.page.locator("#state")).to_have_text("connected")
    expect(watched.page.locator("#banner")).to_be_hidden()
    gaps = before + 2  # the initial connect is one, too
    expect(watched.page.locator("#tile-gaps dd span")).to_have_text(str(gaps))
    expect(watched.page.locator("#event-list li[data-kind=gap]").first).to_contain_text("gap of")
    watched.until(f"({PAINTED})(['gap']) > 500")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_does_not_scroll_sideways(
    scheme: str, live: Capture, site: str, opened: Callable[..., Watched]
) -> None:
    size = {"width": 420, "height": 800}
    for address in (f"{site}?session={live.session}", site):
        watched = opened(address, viewport=size, color_scheme=scheme)
        watched.until("document.querySelector('#lines tr.line, #sessions-table td')")
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        back = watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
        shade = sum(map(int, re.findall(r"\d+", back)[:3])) / 3
        assert (shade > 128) == (scheme == "light")


def test_the_start_page_lists_sessions_with_links(
    live: Capture, site: str, opened: Callable[..., Watched]
) -> None:
    watched = opened(site)
    row = watched.page.locator("#sessions-table tbody tr")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("live")
    row.locator("a").click()
    expect(watched.page.locator("#state")).to_have_text("connected")
    assert f"session={live.session}" in watched.page.url


def test_the_page_reconnects_to_a_restarted_dashboard(live: Capture, browser: Browser) -> None:
    port = free_port()
    context = browser.new_context()
    page = context.new_page()
    with dashboard(live.studio.data_dir, port) as address:
        page.goto(f"{address}?session={live.session}")
        expect(page.locator("#state")).to_have_text("connected")
    expect(page.locator("#state")).to_have_text("dashboard offline")
    expect(page.locator("#lines tr.line")).to_have_count(len(TICKERS))
    with dashboard(live.studio.data_dir, port):
        expect(page.locator("#state")).to_have_text("connected")
        context.close()


def test_a_finished_session_is_shown_from_parquet_only(
    finished: tuple[Path, SessionReport], opened: Callable[..., Watched]
) -> None:
    data_dir, report = finished
    with dashboard(data_dir) as address:
        watched = opened(f"{address}?session=latest")
        expect(watched.page.locator("#state")).to_have_text("ended")
        expect(watched.page.locator("#tile-trades dd span")).to_have_text(
            f"{report.books.recorded:,}"
        )
        for ticker, one in report.per_ticker.items():
            line = watched.page.locator(f"#lines tr.line:has-text('{ticker}')")
            expect(line.locator("td").nth(5)).to_have_text(f"{one.recorded:,}")
        expect(watched.page.locator("#time progress")).to_be_hidden()
        assert watched.painted("up", "down") > 100
        assert f"session={report.session}" in watched.page.url
    expect(watched.page.locator("#state")).to_have_text("ended")


def test_a_text_from_the_server_is_not_interpreted_as_html(
    live: Capture, site: str, opened: Callable[..., Watched]
) -> None:
    text = "<img src=x onerror=document.title='taken'>"
    live.simulator.send_raw(msgspec.json.encode({"type": "error", "msg": text}))
    watched = opened(f"{site}?session={live.session}")
    expect(watched.page.locator("#event-list li[data-kind=error]").first).to_contain_text(text)
    assert watched.page.locator("img").count() == 0


def a_running_report(data_dir: Path, finished: tuple[Path, SessionReport]) -> Layout:
    """Make a session whose report says that it runs, but no process does."""
    shutil.copytree(finished[0], data_dir)
    layout = Layout(data_dir)
    report = finished[1]
    running = msgspec.structs.replace(report, state="running", ended=None)
    running.write(layout.report(report.session))
    path = layout.status(report.session)
    path.write_bytes(
        msgspec.json.encode(msgspec.structs.replace(CaptureStatus.read(path), state="connected"))
    )
    return layout


def test_a_capture_without_heartbeat_and_a_crashed_one_are_shown(
    tmp_path: Path, finished: tuple[Path, SessionReport], opened: Callable[..., Watched]
) -> None:
    layout = a_running_report(tmp_path / "data", finished)
    session = finished[1].session
    with dashboard(layout.root) as address:
        with lock.hold_lock(layout.lock(session), {}):
            watched = opened(f"{address}?session={session}")
            expect(watched.page.locator("#state")).to_have_text("no heartbeat")
        expect(watched.page.locator("#state")).to_have_text("crashed")
        expect(watched.page.locator("#banner")).to_contain_text("stocktrace recover")


@pytest.mark.slow
def test_a_stopped_process_has_no_heartbeat_within_seven_seconds(
    studio: Studio, opened: Callable[..., Watched]
) -> None:
    with (
        studio.exchange(SyntheticMarket(rate=100)) as simulator,
        capture_beside(studio, simulator) as process,
    ):
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if "live page: " in line)
            watched = opened(line.partition("live page: ")[2].strip())
            expect(watched.page.locator("#state")).to_have_text("connected")
            os.kill(process.pid, signal.SIGSTOP)
            expect(watched.page.locator("#state")).to_have_text("no heartbeat", timeout=7000)
            os.kill(process.pid, signal.SIGCONT)
            expect(watched.page.locator("#state")).to_have_text("connected")
            process.send_signal(signal.SIGINT)
            # The page runs on until it has shown how the capture ended.
            expect(watched.page.locator("#state")).to_have_text("ended")
            process.communicate(timeout=60)
        finally:
            process.kill()  # without effect if it has ended
    assert process.returncode == 128 + signal.SIGINT


def capture_beside(studio: Studio, simulator: Simulator) -> subprocess.Popen[str]:
    command = [
        *(sys.executable, "-m", "stocktrace", "capture", "AAPL", "MSFT", "--for", "60s"),
        *("--url", simulator.url, "--data-dir", str(studio.data_dir), "--min-free-space", "0"),
        "--dashboard",
    ]
    return subprocess.Popen(
        command,
        env={**os.environ, "FINNHUB_API_KEY": studio.key},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
