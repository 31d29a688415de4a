"""FAULTS.md 46: what is another thing over TLS."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from stocktrace.feed.pace import GATHER_S, Pace
from stocktrace.feed.socket import BatchSocket
from tests.conftest import Scenario, Studio, published, sent, taped, trades
from tests.conftest import frame as trade_frame
from tests.feed.conftest import PATIENCE, Listener, Peer, frame, paired
from tests.test_faults.conftest import findings, record
from tests.tls import Authority

MESSAGE = trade_frame(("AAPL", 1.0))


def of_size(size: int) -> bytes:
    """A frame of so many bytes, header and all."""
    header = 2 if size < 128 else 4
    return frame(b"x" * (size - header))


@pytest.mark.parametrize("size", [len(frame(MESSAGE)), 1434, 4096, 16384])
def test_46_a_read_takes_all_records_that_have_arrived_up_to_its_bound(
    authority: Authority, sockets: ExitStack, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr("stocktrace.feed.socket.READ_BYTES", 2 * size)
    ours, one = BatchSocket(), of_size(size)
    theirs = paired(sockets, ours, authority)
    for _ in range(3):
        theirs.send(one)  # a record each
    full, rest = ours.recv_batch(), ours.recv_batch()
    assert [(len(batch.frames), batch.size) for batch in (full, rest)] == [
        (2, 2 * size),
        (1, size),
    ]
    pace = busy()
    assert [pace.after(batch.size, 1.0, drained=batch.drained) for batch in (full, rest)] == [
        0.0,
        GATHER_S,
    ]


def busy() -> Pace:
    """One that has seen a busy connection until just now."""
    pace = Pace(0.0)
    for at in range(1000):
        pace.after(7_000, at / 1000)
    return pace


def test_46_a_capture_over_tls_records_what_comes_in_records_of_any_size(
    studio: Studio, sockets: ExitStack, trusted: Authority
) -> None:
    listener = Listener(sockets, trusted.server())
    frames = [trade_frame(("AAPL", n + 1.0)) for n in range(4000)]
    stream = b"".join(map(frame, frames))
    assert len(stream) > 16384 * 5

    def serve() -> Peer:
        peer = listener.upgrade()
        peer.commands(1)
        at = 0
        for size in (1, 100, 1434, 4096, 16384, len(stream)):
            peer.send(stream[at : at + size])
            at += size
        return peer

    def scenario() -> Scenario:
        yield trades(len(frames))

    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve)
        report = record(studio, listener.url, scenario())
        served.result(PATIENCE)
    assert (report.books.frames, report.reconnects) == (len(frames), 0)
    assert taped(studio.data_dir) == frames
    assert published(studio.data_dir) == sent(frames)
    assert findings(studio.data_dir) == []
