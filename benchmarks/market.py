"""The trades that every benchmark sends, framed once and stored in ``.bench/pool``.

One list of synthetic trades, encoded as each client's own server does. A pool has about 200,000
trades, which the sender repeats. Only Alpaca's msgpack is not in the standard library, so a pool is
made by the peer's own Python: ``-m benchmarks.market DIALECT ...``.
"""

from __future__ import annotations

import argparse
import array
import gzip
import json
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BENCH = ROOT / ".bench"
POOL_TRADES = 200_000
#: The dialect of a recording: Finnhub's, frames of any size.
TAPE = "tape"
# Friday, 2025-11-21, 14:30 UTC: the opening bell in New York.
OPENING_MS = 1_763_735_400_000
# About what a US stock's trades carry (FINNHUB.md), the odd lot in more than half of them.
_CODES = (["1"], ["1", "12"], ["1", "12"], ["1", "8", "12"], ["1", "8"], ["1", "24", "12"], None)


@dataclass(frozen=True, slots=True)
class SyntheticTrade:
    """One synthetic trade."""

    symbol: str
    price: float
    size: int
    ms: int
    codes: list[str] | None


def tickers(count: int) -> list[str]:
    """Return ``count`` tickers of four letters."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return [
        "Z" + letters[at // 676 % 26] + letters[at // 26 % 26] + letters[at % 26]
        for at in range(count)
    ]


def synthetic_trades(names: Sequence[str], count: int) -> Iterator[SyntheticTrade]:
    """Yield trades, the same ones each time: prices that walk in cents, round and odd lots."""
    rng = random.Random(7)
    cents = {name: rng.randrange(1_000, 50_000) for name in names}
    # A few tickers have most of the trades, as on any real day.
    heavy = names[: max(1, len(names) // 5)]
    ms = OPENING_MS
    for _ in range(count):
        name = rng.choice(heavy if rng.random() < 0.6 else names)
        cents[name] = max(100, cents[name] + rng.randrange(-3, 4))
        price = cents[name] / 100 if rng.random() < 0.9 else cents[name] / 100 + 0.0025
        size = 100 * rng.randrange(1, 9) if rng.random() < 0.4 else rng.randrange(1, 100)
        ms += rng.random() < 0.2
        yield SyntheticTrade(name, round(price, 4), size, ms, rng.choice(_CODES))


def finnhub_payload(trades: Sequence[SyntheticTrade]) -> bytes:
    """Encode trades as Finnhub does."""
    data = [
        {"c": trade.codes, "p": trade.price, "s": trade.symbol, "t": trade.ms, "v": trade.size}
        for trade in trades
    ]
    return _json({"data": data, "type": "trade"})


def _massive(trades: Sequence[SyntheticTrade]) -> bytes:
    return _json(
        [
            {
                "ev": "T",
                "sym": trade.symbol,
                "x": 4,
                "i": "52983525029461",
                "z": 3,
                "p": trade.price,
                "s": trade.size,
                "c": [int(code) for code in trade.codes or ()],
                "t": trade.ms,
                "q": 3_681_328,
            }
            for trade in trades
        ]
    )


def _okx(trades: Sequence[SyntheticTrade]) -> bytes:
    # OKX sends the trades of one instrument in a frame.
    instrument = f"{trades[0].symbol}-USDT"
    data = [
        {
            "instId": instrument,
            "tradeId": "130639474",
            "px": str(trade.price),
            "sz": str(trade.size),
            "side": "buy",
            "ts": str(trade.ms),
        }
        for trade in trades
    ]
    return _json({"arg": {"channel": "trades", "instId": instrument}, "data": data})


def _alpaca(trades: Sequence[SyntheticTrade]) -> bytes:
    import msgpack

    packed: bytes = msgpack.packb(
        [
            {
                "T": "t",
                "S": trade.symbol,
                "i": 96_921,
                "x": "D",
                "p": trade.price,
                "s": trade.size,
                "t": msgpack.Timestamp.from_datetime(datetime.fromtimestamp(trade.ms / 1000, UTC)),
                "c": ["@", "I"],
                "z": "C",
            }
            for trade in trades
        ]
    )
    return packed


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


_DIALECTS: dict[str, Callable[[Sequence[SyntheticTrade]], bytes]] = {
    "finnhub": finnhub_payload,
    "massive": _massive,
    "okx": _okx,
    "alpaca": _alpaca,
}


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """Return ``payload`` as a server's WebSocket frame (RFC 6455, 5.2)."""
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", 0x80 | opcode, size) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", 0x80 | opcode, 126, size) + payload
    return struct.pack("!BBQ", 0x80 | opcode, 127, size) + payload


@dataclass(frozen=True, slots=True)
class Pool:
    """Frames of ``per_frame`` trades each: frame ``i`` is ``data[ends[i]:ends[i + 1]]``."""

    data: memoryview
    ends: array.array[int]
    per_frame: int

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.ends) - 1


def _path(dialect: str, names: int, per_frame: int) -> Path:
    return BENCH / "pool" / f"{dialect}-{names}-{per_frame}"


def make_from_tape(tape: Path) -> int:
    """Write the pool of a recording (``.tape.gz``). Return its number of trades."""
    lines = gzip.decompress(tape.read_bytes()).splitlines()
    frames = [payload for line in lines if (payload := line.partition(b"\t")[2])[:1] != b"#"]
    _write(_path(TAPE, 1, 1), [frame(payload) for payload in frames])
    return sum(len(json.loads(payload).get("data", [])) for payload in frames)


def make(dialect: str, names: int, per_frame: int) -> None:
    """Write a pool."""
    trades = list(synthetic_trades(tickers(names), POOL_TRADES))
    opcode = 2 if dialect == "alpaca" else 1
    encode = _DIALECTS[dialect]
    frames = [
        frame(encode(trades[at : at + per_frame]), opcode)
        for at in range(0, len(trades) - per_frame + 1, per_frame)
    ]
    _write(_path(dialect, names, per_frame), frames)


def _write(path: Path, frames: Sequence[bytes]) -> None:
    ends = array.array("q", [0])
    for frame in frames:
        ends.append(ends[-1] + len(frame))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".ends").write_bytes(ends.tobytes())
    path.with_suffix(".data").write_bytes(b"".join(frames))


def load(dialect: str, names: int, per_frame: int) -> Pool:
    """Read a pool."""
    path = _path(dialect, names, per_frame)
    ends = array.array("q")
    ends.frombytes(path.with_suffix(".ends").read_bytes())
    return Pool(memoryview(path.with_suffix(".data").read_bytes()), ends, per_frame)


def prepare(dialect: str, names: int, per_frame: int) -> None:
    """Make a pool unless it exists."""
    if not _path(dialect, names, per_frame).with_suffix(".data").exists():
        python = BENCH / "alpaca" / "bin" / "python" if dialect == "alpaca" else sys.executable
        subprocess.run(
            [python, "-m", "benchmarks.market", dialect, str(names), str(per_frame)],
            cwd=ROOT,
            check=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dialect", choices=_DIALECTS)
    parser.add_argument("tickers", type=int)
    parser.add_argument("per_frame", type=int)
    given = parser.parse_args()
    make(given.dialect, given.tickers, given.per_frame)
