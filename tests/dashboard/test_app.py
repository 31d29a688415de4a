"""The server: who may ask what, and what a viewer that does not take is kept from."""

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

from stocktrace.dashboard.app import STATIC, Dashboard
from stocktrace.dashboard.broadcast import Broadcast
from stocktrace.dashboard.server import bind_port
from stocktrace.dashboard.session_state import SessionView
from stocktrace.dashboard.sessions import SessionList
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
    with studio.exchange(ScriptedSource(list(synthetic_frames(TICKERS, 2000, seed=2)))) as exchange:
        report = studio.record(exchange, TICKERS, played(exchange), lasting=60)
    return studio.data_dir, report


@pytest.fixture(scope="module")
def site(finished: tuple[Path, SessionReport]) -> Iterator[str]:
    with dashboard(finished[0]) as address:
        yield address


def ask(
    site: str, path: str, method: str = "GET", host: str | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer."""
    place = urlsplit(site)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=20)
    connection.request(method, path, headers={"Host": host or place.netloc})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


def events(site: str, query: str, count: int = 2) -> list[tuple[str, object]]:
    """The first events of a stream."""
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


def test_every_answer_keeps_the_page_to_itself(site: str) -> None:
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


def test_looking_changes_nothing_on_disk(finished: tuple[Path, SessionReport], site: str) -> None:
    before = {name: (finished[0] / name).stat().st_mtime_ns for name in tree(finished[0])}
    events(site, f"session={finished[1].session}&ticker=AAPL")
    ask(site, "/api/sessions")
    after = {name: (finished[0] / name).stat().st_mtime_ns for name in tree(finished[0])}
    assert after == before


@pytest.mark.parametrize("session", ["nothing", "../../x", "20261123T142958Z_3f9a1c"])
def test_a_session_that_is_not_there_is_told(site: str, session: str) -> None:
    assert events(site, f"session={session}", 1) == [
        ("failure", f"There is no session {session} here.")
    ]


def test_a_damaged_report_is_told_and_does_not_hide_the_others(
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


def test_a_port_that_is_taken_is_one_sentence() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UsageError, match=r"cannot be had .* give another one with --port"),
    ):
        bind_port(taken.getsockname()[1])


def test_what_is_vendored_is_what_was_released() -> None:
    found = hashlib.sha256((STATIC / "lightweight-charts.standalone.production.js").read_bytes())
    # npm: lightweight-charts 5.2.1, dist/lightweight-charts.standalone.production.js
    assert found.hexdigest() == "e21cc5caa0226ef30bd8549c50b9ef926615f2a4ee6b4e486353477a55f598cf"
    assert "Apache License" in (STATIC / "LICENSE").read_text(encoding="utf-8")
    assert "TradingView" in (STATIC / "NOTICE").read_text(encoding="utf-8")
    assert "TradingView Lightweight Charts" in (STATIC / "index.html").read_text(encoding="utf-8")


def test_whoever_did_not_take_for_long_is_given_the_newest_once(
    finished: tuple[Path, SessionReport],
) -> None:
    async def check() -> None:
        layout = Layout(finished[0])
        session = finished[1].session
        room = Broadcast(SessionView(layout, session), layout, session)
        viewers = [room.view("AAPL", 5) for _ in range(50)]
        await room.read()
        for viewer in viewers:
            await anext(viewer)
        room.board.final = False
        tracemalloc.start()
        for _ in range(100):
            room.board.final = False
            await room.read()
        grown, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert grown < 2_000_000
        newest = room.board.version
        for viewer in viewers:
            told = await anext(viewer)
            board = told.partition(b"event: board\ndata: ")[2]
            assert msgspec.json.decode(board)["version"] == newest
            await viewer.aclose()
        assert room.viewers == 0

    anyio.run(check)


def test_fifty_browsers_that_do_not_read_hold_up_nobody(studio: Studio) -> None:
    tickers = tuple(f"T{n}" for n in range(100))
    market = SyntheticMarket(rate=500, opening=1)
    with (
        studio.exchange(market) as exchange,
        capturing(studio, exchange, tickers) as capture,
        dashboard(studio.data_dir) as site,
    ):
        place = urlsplit(site)
        request = (
            f"GET /api/live?session={capture.session} HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n"
        )
        stalled = [socket.create_connection((place.hostname, place.port)) for _ in range(50)]
        for one in stalled:
            one.sendall(request.encode())
        found = events(site, f"session={capture.session}", 12)
        for one in stalled:
            one.close()
    versions = [data["version"] for name, data in found if name == "board"]  # type: ignore[index]
    assert versions == sorted(set(versions))
    assert len(versions) >= 5


def test_the_newest_session_is_the_latest(finished: tuple[Path, SessionReport]) -> None:
    async def check() -> None:
        board = Dashboard(Layout(finished[0]))
        room = await board._room("latest")
        assert room.session == finished[1].session
        await board.close()

    anyio.run(check)
