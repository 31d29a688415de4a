"""The server: which requests it answers, and that a viewer that does not read delays nobody."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import msgspec
import pytest

from stocktrace.dashboard.app import STATIC, Dashboard, SessionList
from stocktrace.dashboard.broadcast import Broadcast
from stocktrace.dashboard.server import bind_port
from stocktrace.dashboard.session_view import SessionView
from stocktrace.errors import UsageError
from stocktrace.sessions.report import SessionReport
from stocktrace.simulator import ScriptedSource, SyntheticMarket, synthetic_frames
from stocktrace.store.layout import Layout
from tests.conftest import Studio, played, tree
from tests.dashboard.conftest import capturing, dashboard

TICKERS = ("AAPL", "MSFT")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, hurried: None) -> tuple[Path, SessionReport]:
    studio = Studio(tmp_path_factory.mktemp("finished") / "data")
    with studio.exchange(
        ScriptedSource(list(synthetic_frames(TICKERS, 2000, seed=2)))
    ) as simulator:
        report = studio.record(simulator, TICKERS, played(simulator), lasting=60)
    return studio.data_dir, report


@pytest.fixture(scope="module")
def site(finished: tuple[Path, SessionReport]) -> Iterator[str]:
    with dashboard(finished[0]) as address:
        yield address


def ask(
    site: str, path: str, method: str = "GET", host: str | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Send a request. Return status, headers and body of the answer."""
    place = urlsplit(site)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=20)
    connection.request(method, path, headers={"Host": host or place.netloc})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


def events(site: str, query: str, count: int = 2) -> list[tuple[str, object]]:
    """Read the first events of a stream."""
    place = urlsplit(site)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=20)
    connection.request("GET", f"/api/live?{query}")
    answer = connection.getresponse()
    found: list[tuple[str, object]] = []
    name = ""
    while len(found) < count and (line := answer.readline()):
        word, _, rest = line.decode().rstrip("\n").partition(": ")
        if word == "event":
            name = rest
        elif word == "data":
            found.append((name, json.loads(rest)))
    connection.close()
    return found


def test_every_answer_has_the_security_headers(site: str) -> None:
    for path in ("/", "/api/sessions", "/static/app.js", "/nothing"):
        _, headers, _ = ask(site, path)
        assert headers["content-security-policy"].startswith("default-src 'self';")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("host", ["example.com", "127.0.0.1.example.com", "192.168.0.1:80"])
def test_another_host_name_is_refused(site: str, host: str) -> None:
    assert ask(site, "/", host=host)[0] == 400
    assert ask(site, "/api/live", host=host)[0] == 400


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", ["/", "/api/sessions", "/api/live", "/static/app.js"])
def test_nothing_can_be_changed(site: str, method: str, path: str) -> None:
    assert ask(site, path, method)[0] == 405


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd"]
)
def test_only_the_page_is_served(site: str, path: str) -> None:
    assert ask(site, path)[0] == 404


def test_reading_changes_nothing_on_disk(finished: tuple[Path, SessionReport], site: str) -> None:
    before = {name: (finished[0] / name).stat().st_mtime_ns for name in tree(finished[0])}
    events(site, f"session={finished[1].session}&ticker=AAPL")
    ask(site, "/api/sessions")
    after = {name: (finished[0] / name).stat().st_mtime_ns for name in tree(finished[0])}
    assert after == before


@pytest.mark.parametrize("session", ["nothing", "../../x", "20261123T142958Z_3f9a1c"])
def test_a_missing_session_is_reported(site: str, session: str) -> None:
    assert events(site, f"session={session}", 1) == [
        ("failure", f"This data folder has no session {session}.")
    ]


def test_a_damaged_report_is_reported_and_does_not_hide_the_others(
    tmp_path: Path, finished: tuple[Path, SessionReport]
) -> None:
    layout = Layout(tmp_path)
    finished[1].write(layout.report(finished[1].session))
    layout.report("20261123T142958Z_3f9a1c").write_text("{")
    assert {one.state for one in SessionList(layout).sessions()} == {finished[1].state, "damaged"}
    with dashboard(tmp_path) as site:
        ((name, sentence),) = events(site, "session=20261123T142958Z_3f9a1c", 1)
    assert name == "failure"
    assert str(sentence).startswith("The report of session 20261123T142958Z_3f9a1c is damaged: ")


def test_a_session_without_a_ticker_shows_the_busiest(
    site: str, finished: tuple[Path, SessionReport]
) -> None:
    found = dict(events(site, f"session={finished[1].session}"))
    chart = found["chart"]
    assert isinstance(chart, dict)
    counts = {name: one.trades for name, one in finished[1].per_ticker.items()}
    assert chart["ticker"] == max(counts, key=lambda name: counts[name])
    assert chart["every"] == 5


def test_a_port_in_use_is_reported_in_one_sentence() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UsageError, match=r"Cannot listen on port .* another one with --port"),
    ):
        bind_port(taken.getsockname()[1])


def test_the_vendored_library_is_the_released_one() -> None:
    found = hashlib.sha256((STATIC / "lightweight-charts.standalone.production.js").read_bytes())
    # npm: lightweight-charts 5.2.1, dist/lightweight-charts.standalone.production.js
    assert found.hexdigest() == "e21cc5caa0226ef30bd8549c50b9ef926615f2a4ee6b4e486353477a55f598cf"
    assert "Apache License" in (STATIC / "LICENSE").read_text(encoding="utf-8")
    assert "TradingView" in (STATIC / "NOTICE").read_text(encoding="utf-8")
    assert "TradingView Lightweight Charts" in (STATIC / "index.html").read_text(encoding="utf-8")


def test_a_viewer_that_did_not_read_for_long_gets_the_newest_state_once(
    finished: tuple[Path, SessionReport],
) -> None:
    async def check() -> None:
        layout = Layout(finished[0])
        session = finished[1].session
        broadcast = Broadcast(SessionView(layout, session), layout, session)
        viewers = [broadcast.stream("AAPL", 5) for _ in range(50)]
        await broadcast.read()
        for viewer in viewers:
            await anext(viewer)
        broadcast.session_view.final = False
        tracemalloc.start()
        for _ in range(100):
            broadcast.session_view.final = False
            await broadcast.read()
        grown, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert grown < 2_000_000
        newest = broadcast.session_view.version
        for viewer in viewers:
            events = await anext(viewer)
            state = events.partition(b"event: session\ndata: ")[2]
            assert msgspec.json.decode(state)["version"] == newest
            await viewer.aclose()
        assert broadcast.viewers == 0

    anyio.run(check)


def test_fifty_browsers_that_do_not_read_delay_nobody(studio: Studio) -> None:
    tickers = tuple(f"T{n}" for n in range(100))
    market = SyntheticMarket(rate=500, opening=1)
    with (
        studio.exchange(market) as simulator,
        capturing(studio, simulator, tickers) as capture,
        dashboard(studio.data_dir) as site,
    ):
        place = urlsplit(site)
        request = (
            f"GET /api/live?session={capture.session} HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n"
        )
        stalled = [socket.create_connection((place.hostname, place.port)) for _ in range(50)]
        for browser in stalled:
            browser.sendall(request.encode())
        found = events(site, f"session={capture.session}", 12)
        for browser in stalled:
            browser.close()
    versions = [data["version"] for name, data in found if name == "session"]  # type: ignore[index]
    assert versions == sorted(set(versions))
    assert len(versions) >= 5


def test_latest_is_the_newest_session(finished: tuple[Path, SessionReport]) -> None:
    async def check() -> None:
        dashboard = Dashboard(Layout(finished[0]))
        broadcast = await dashboard._open_broadcast("latest")
        assert broadcast.session == finished[1].session
        await dashboard.close()

    anyio.run(check)
