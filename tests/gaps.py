"""A session that lost its connection, and the market it would have heard: for repairs.

Everything happens on Friday 2025-11-21 in New York, long ago, from ten minutes past the bell on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from stocktrace.feed.rest import RestClient, rest_url
from stocktrace.marks import ConnectedMark, DisconnectedMark, EndedMark, GapMark, Mark, OpeningMark
from stocktrace.record.recovery import recover
from stocktrace.simulator import RestSettings, ScriptedSource, Simulator, SimulatorSettings
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.tape import TapeFrames
from tests.conftest import Row, published
from tests.remains import STILL, write_tape

SECOND = 10**9
DAY = date(2025, 11, 21)
#: 2025-11-21 14:40 UTC, epoch ns.
BELL = 1_763_736_000 * SECOND
SESSION = "20251121T144000Z_3f9a1c"
OTHER = "20251121T144000Z_777777"
KEY = "demo-s3cret"
_LATENCY = SECOND // 10

#: Ticker, milliseconds from BELL, price, volume.
Trade = tuple[str, int, float, float]


def market(tickers: Sequence[str] = ("AAPL", "MSFT"), seconds: int = 60) -> list[Trade]:
    """Trades every 100 ms, every seventh of them twice."""
    found = []
    for at in range(0, seconds * 1000, 100):
        for ticker in tickers:
            one = (ticker, at + 7, 100 + at / 1000, float(100 + at % 300))
            found += [one, one] if at % 700 == 0 else [one]
    return found


def frame_of(trade: Trade) -> bytes:
    ticker, at, price, volume = trade
    data = [{"c": ["1", "12"], "p": price, "s": ticker, "t": ms(at), "v": volume}]
    return json.dumps({"data": data, "type": "trade"}, separators=(",", ":")).encode()


def ms(at: int) -> int:
    return BELL // 10**6 + at


def stamp(seconds: float) -> int:
    return BELL + int(seconds * SECOND)


def capture(
    root: Path,
    trades: Iterable[Trade],
    gaps: Sequence[tuple[float, float]] = ((20, 30),),
    *,
    seconds: float = 61,
    session: str = SESSION,
    copies: int = 1,
    lake: str = "",
) -> Layout:
    """What a session recorded of ``trades`` that did not listen during ``gaps`` (seconds)."""
    trades = list(trades)
    tickers = list(dict.fromkeys(ticker for ticker, *_ in trades))
    entries: list[tuple[int, Mark | TapeFrames]] = [
        (stamp(0), ConnectedMark(stamp(0), tuple(tickers))),
        (stamp(seconds), EndedMark(stamp(seconds))),
    ]
    for start, end in gaps:
        lost = DisconnectedMark(stamp(start), "lost")
        told = GapMark(stamp(end), stamp(start), "lost")
        back = ConnectedMark(stamp(end), tuple(tickers))
        entries += [(lost.stamp, lost), (told.stamp, told), (back.stamp, back)]
    for trade in trades:
        received = stamp(trade[1] / 1000) + _LATENCY
        if not any(stamp(start) <= received < stamp(end) for start, end in gaps):
            entries.append((received, TapeFrames(received, (frame_of(trade),) * copies)))
    layout = Layout(root, lake=lake)
    part = WindowId(session, "20251121T144000Z_00001")
    opening = OpeningMark(stamp(0), session=session, connected=False, tickers=tuple(tickers))
    in_order = sorted(entries, key=lambda entry: entry[0])
    write_tape(layout, part, [opening, *(entry for _, entry in in_order)])
    recover(layout, STILL)
    return layout


def exchange(trades: Iterable[Trade], *, key: str = KEY, **rest: Any) -> Simulator:
    """A server that has these as ticks."""
    settings = SimulatorSettings(key=key, rest=RestSettings(**{"per_minute": 100_000, **rest}))
    return Simulator(ScriptedSource([]), settings, history=map(frame_of, trades))


def client(server: Simulator, key: str = KEY, **given: Any) -> RestClient:
    """One that is not patient: time passes at once."""
    return RestClient(rest_url(server.url), key, pause=lambda _: None, **given)


def rows(trades: Iterable[Trade]) -> dict[str, Counter[Row]]:
    """What should be published of them."""
    found: dict[str, Counter[Row]] = {}
    for ticker, at, price, volume in trades:
        found.setdefault(ticker, Counter())[ms(at), price, volume, "1 12"] += 1
    return found


def here(layout: Layout) -> dict[str, Counter[Row]]:
    """What is published."""
    return {ticker: Counter(some) for ticker, some in published(layout.root).items()}
