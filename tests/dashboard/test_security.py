"""Pages of other sites and forged requests cannot read a session."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from stocktrace.dashboard.server import bind_port
from tests import remains
from tests.conftest import SESSION
from tests.dashboard.conftest import dashboard


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with dashboard(remains.dead(tmp_path_factory.mktemp("site") / "data").root) as address:
        yield address


def ask(site: str, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    place = urlsplit(site)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=20)
    connection.putrequest("GET", path, skip_host=True)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example",
     "0.0.0.0", "127.1", "2130706433", "[::ffff:127.0.0.1]", "xlocalhost", ""],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/api/sessions", "/api/live", "/static/app.js"])
def test_a_page_whose_name_resolves_to_this_machine_reads_nothing(
    site: str, host: str, path: str
) -> None:
    status, _, body = ask(site, path, Host=host)
    assert status == 400
    assert SESSION.encode() not in body


def test_no_header_makes_it_accept_another_name(site: str) -> None:
    headers = {
        "X_Forwarded_Host": "localhost",
        "Forwarded": "host=localhost",
        "Host": "evil.example",
    }
    assert ask(site, "/api/sessions", **headers)[0] == 400
    assert ask(site, "http://localhost/api/sessions", Host="evil.example")[0] in (400, 404)


def test_a_page_of_another_site_may_not_read_an_answer(site: str) -> None:
    for path in ("/", "/api/sessions", "/static/app.js"):
        status, headers, _ = ask(
            site, path, Host=urlsplit(site).netloc, Origin="https://evil.example"
        )
        assert status == 200
        assert not [name for name in headers if name.startswith("access-control-")]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


@pytest.mark.parametrize(
    "session", ["../../outside", "%2e%2e%2fx", "x%0d%0aevent:%20session%0d%0adata:%201", "%00"]
)
def test_a_session_in_an_address_opens_no_file_and_writes_no_event(site: str, session: str) -> None:
    netloc = urlsplit(site).netloc
    status, _, body = ask(site, f"/api/live?session={session}", Host=netloc)
    assert status == 200
    assert body.startswith(b"event: failure\ndata: ")
    assert body.count(b"\n") == 3
    assert b"This data folder has no session" in body


def test_it_listens_on_this_machine_only() -> None:
    with bind_port(0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"
