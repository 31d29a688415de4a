"""A simulator that speaks TLS, REST too, and the faults that only TLS has."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial

import pytest

from stocktrace.errors import SettingsError
from stocktrace.feed.rest import RestClient, rest_url
from stocktrace.simulator import Fault, RestSettings, ScriptedSource, Simulator, SimulatorSettings
from stocktrace.simulator.tls import HALF_RECORD
from tests.feed.conftest import PATIENCE, cut, frame
from tests.simulator.conftest import UPGRADE, Dial, numbered, prices, request_upgrade
from tests.tls import Authority

SCRIPT = numbered(40)
FRAMES = [frame(each) for _, each in SCRIPT]
SUBSCRIBE = frame(b'{"type":"subscribe","symbol":"AAPL"}', masked=True)


@pytest.fixture
def simulator(authority: Authority) -> Iterator[Simulator]:
    settings = SimulatorSettings(settle=0.01, keep=True, tls=authority, rest=RestSettings())
    with Simulator(ScriptedSource(SCRIPT), settings) as simulator:
        yield simulator


@pytest.fixture
def client(simulator: Simulator, authority: Authority, sockets: ExitStack) -> ssl.SSLSocket:
    """A client that has read the answer to its handshake, of one record, and subscribes."""
    client = request_upgrade(simulator, authority)
    assert isinstance(client, ssl.SSLSocket)
    sockets.enter_context(client)
    assert client.recv(1 << 16).startswith(b"HTTP/1.1 101")
    return client


def records(client: ssl.SSLSocket, size: int) -> list[bytes]:
    """The next records, until so many bytes have come; a read returns one at most."""
    client.sendall(SUBSCRIBE)
    found: list[bytes] = []
    while sum(map(len, found)) < size:
        found.append(client.recv(1 << 16))
    return found


def test_its_address_says_so_and_its_certificate_is_for_all_names_of_this_host(
    simulator: Simulator, authority: Authority
) -> None:
    assert simulator.url == f"wss://127.0.0.1:{simulator.port}"
    for name in ("127.0.0.1", "localhost", "::1"):
        with (
            socket.create_connection(("127.0.0.1", simulator.port), timeout=PATIENCE) as plain,
            authority.client().wrap_socket(plain, server_hostname=name) as client,
        ):
            assert client.version() == "TLSv1.3"


def test_a_client_that_does_not_trust_its_authority_is_refused_and_harms_nothing(
    simulator: Simulator, dial: Dial
) -> None:
    with (
        socket.create_connection(("127.0.0.1", simulator.port), timeout=PATIENCE) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        Authority().client().wrap_socket(plain, server_hostname="127.0.0.1")
    client = dial(simulator)
    client.subscribe("AAPL")
    assert prices(client.trades(2)) == [1, 2]


def test_rest_speaks_tls_too(simulator: Simulator, dial: Dial, trusted: Authority) -> None:
    client = dial(simulator)
    client.subscribe("AAPL")
    client.trades(40)
    day = datetime.fromtimestamp(1_700_000_000, UTC).date().isoformat()
    assert rest_url(simulator.url).startswith("https://127.0.0.1:")
    with RestClient(rest_url(simulator.url), "demo") as rest:
        body = rest.get("stock/tick", symbol="AAPL", date=day)
    assert b'"total":40' in body


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault("records"), FRAMES),
        (Fault("records", size=1400), cut(b"".join(FRAMES), 1400)),
    ],
    ids=["one frame", "1,400 bytes"],
)
def test_records_have_the_size_that_was_asked_for(
    simulator: Simulator, client: ssl.SSLSocket, fault: Fault, expected: list[bytes]
) -> None:
    simulator.inject(fault)
    assert records(client, len(b"".join(FRAMES))) == expected


def test_records_have_their_own_size_again_when_the_fault_ends(
    simulator: Simulator, client: ssl.SSLSocket
) -> None:
    simulator.inject(Fault("records", duration=0.01))
    client.settimeout(0.1)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(PATIENCE)
    assert records(client, len(b"".join(FRAMES))) == [b"".join(FRAMES)]


def test_a_close_notify_ends_tls_and_not_tcp(simulator: Simulator, client: ssl.SSLSocket) -> None:
    simulator.inject(Fault("close-notify", after_trades=5))
    assert records(client, len(b"".join(FRAMES[:5]))) == [b"".join(FRAMES[:5])]
    assert client.recv(1) == b""
    client.close()
    simulator.wait_for(lambda simulator: simulator.open_connections == 0)


def test_a_drop_is_the_end_of_tcp_without_a_close_notify(
    simulator: Simulator, client: ssl.SSLSocket
) -> None:
    simulator.inject(Fault("drop", after_trades=5))
    assert records(client, len(b"".join(FRAMES[:5]))) == [b"".join(FRAMES[:5])]
    with pytest.raises(ssl.SSLEOFError):
        client.recv(1)


def test_a_drop_loses_nothing_that_was_sent_to_a_slow_reader(
    authority: Authority, sockets: ExitStack
) -> None:
    """Then more waits in TLS than TCP takes."""
    size = 3_000_000
    big = b"x" * size
    settings = SimulatorSettings(settle=0.0, tls=authority)
    with Simulator(ScriptedSource([(n, big) for n in range(3)]), settings) as simulator:
        client = sockets.enter_context(request_upgrade(simulator, authority))
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 101")
        simulator.inject(Fault("inject", frame=big))
        simulator.inject(Fault("drop"))
        seen = 0
        with contextlib.suppress(ssl.SSLEOFError):
            while data := client.recv(1 << 16):
                seen += len(data)
    assert seen == len(frame(big))


def test_a_reset_reaches_a_client_over_tls(simulator: Simulator, client: ssl.SSLSocket) -> None:
    simulator.inject(Fault("reset"))
    with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):  # the version of Python decides
        client.recv(1)
    with pytest.raises(OSError, match="not connected"):
        client.getpeername()


def test_half_a_record_is_all_that_arrives(
    simulator: Simulator, authority: Authority, sockets: ExitStack
) -> None:
    plain = socket.create_connection(("127.0.0.1", simulator.port), timeout=PATIENCE)
    sockets.enter_context(plain)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = authority.client().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            plain.sendall(outgoing.read())
            incoming.write(plain.recv(1 << 16))
    tls.write(UPGRADE)
    plain.sendall(outgoing.read())
    raw = b""
    simulator.wait_for(lambda simulator: simulator.open_connections == 1)
    simulator.inject(Fault("half-record"))
    while not raw.endswith(HALF_RECORD):
        raw += plain.recv(1 << 16)
    plain.settimeout(0.1)
    with pytest.raises(TimeoutError):
        plain.recv(1)


def has_dials(count: int, simulator: Simulator) -> bool:
    return simulator.dials == count


def test_a_dial_can_be_served_with_tls_1_2_only(simulator: Simulator, authority: Authority) -> None:
    simulator.inject(Fault("tls-1.2", after_connections=1))
    versions = []
    for dial in (1, 2, 3):
        with request_upgrade(simulator, authority) as client:
            assert isinstance(client, ssl.SSLSocket)
            versions.append(client.version())
            simulator.wait_for(partial(has_dials, dial))
    assert versions == ["TLSv1.3", "TLSv1.2", "TLSv1.3"]


def test_a_fault_of_tls_is_refused_without_tls() -> None:
    with pytest.raises(SettingsError, match="close-notify needs TLS"):
        Simulator(ScriptedSource([]), faults=[Fault("close-notify")])
    with (
        Simulator(ScriptedSource([])) as simulator,
        pytest.raises(SettingsError, match="half-record needs TLS"),
    ):
        simulator.inject(Fault("half-record"))
