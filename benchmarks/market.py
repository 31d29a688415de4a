"""The trades that every benchmark sends, framed once and kept in ``.bench/pool``.

One list of synthetic trades, spelled the way each client's own server spells them. A pool is
about 200,000 trades; the sender goes round in it. Only the standard library, but for Alpaca's
msgpack, which is why a pool is made by the peer's own Python: ``-m benchmarks.market DIALECT ...``.
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
class Print:
    """One synthetic trade."""

    symbol: str
    price: float
    size: int
    ms: int
    codes: list[str] | None


def tickers(count: int) -> list[str]:
    """Names of ``count`` tickers, four letters each."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return [
        "Z" + letters[at // 676 % 26] + letters[at // 26 % 26] + letters[at % 26]
        for at in range(count)
    ]


def prints(names: Sequence[str], count: int) -> Iterator[Print]:
    """A market that is the same each time: cents that walk, round and odd lots."""
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
        yield Print(name, round(price, 4), size, ms, rng.choice(_CODES))


def spelled(trades: Sequence[Print]) -> bytes:
    """The payload in which Finnhub sends trades."""
    data = [
        {"c": each.codes, "p": each.price, "s": each.symbol, "t": each.ms, "v": each.size}
        for each in trades
    ]
    return _json({"data": data, "type": "trade"})


def _massive(trades: Sequence[Print]) -> bytes:
    return _json(
        [
            {
                "ev": "T",
                "sym": each.symbol,
                "x": 4,
                "i": "52983525029461",
                "z": 3,
                "p": each.price,
                "s": each.size,
                "c": [int(code) for code in each.codes or ()],
                "t": each.ms,
                "q": 3_681_328,
            }
            for each in trades
        ]
    )


def _okx(trades: Sequence[Print]) -> bytes:
    # OKX sends the trades of one instrument in a frame.
    instrument = f"{trades[0].symbol}-USDT"
    data = [
        {
            "instId": instrument,
            "tradeId": "130639474",
            "px": str(each.price),
            "sz": str(each.size),
            "side": "buy",
            "ts": str(each.ms),
        }
        for each in trades
    ]
    return _json({"arg": {"channel": "trades", "instId": instrument}, "data": data})


def _alpaca(trades: Sequence[Print]) -> bytes:
    import msgpack

    packed: bytes = msgpack.packb(
        [
            {
                "T": "t",
                "S": each.symbol,
                "i": 96_921,
                "x": "D",
                "p": each.price,
                "s": each.size,
                "t": msgpack.Timestamp.from_datetime(datetime.fromtimestamp(each.ms / 1000, UTC)),
                "c": ["@", "I"],
                "z": "C",
            }
            for each in trades
        ]
    )
    return packed


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


_DIALECTS: dict[str, Callable[[Sequence[Print]], bytes]] = {
    "finnhub": spelled,
    "massive": _massive,
    "okx": _okx,
    "alpaca": _alpaca,
}


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """``payload`` as a server's WebSocket frame (RFC 6455, 5.2)."""
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
        """How many there are."""
        return len(self.ends) - 1


def _path(dialect: str, names: int, per_frame: int) -> Path:
    return BENCH / "pool" / f"{dialect}-{names}-{per_frame}"


def make_of_tape(tape: Path) -> int:
    """Write the pool of a recording (``.tape.gz``), each frame once; how many trades it has."""
    lines = gzip.decompress(tape.read_bytes()).splitlines()
    frames = [payload for line in lines if (payload := line.partition(b"\t")[2])[:1] != b"#"]
    _write(_path(TAPE, 1, 1), [frame(payload) for payload in frames])
    return sum(len(json.loads(payload).get("data", [])) for payload in frames)


def make(dialect: str, names: int, per_frame: int) -> None:
    """Write a pool."""
    trades = list(prints(tickers(names), POOL_TRADES))
    opcode = 2 if dialect == "alpaca" else 1
    spell = _DIALECTS[dialect]
    frames = [
        frame(spell(trades[at : at + per_frame]), opcode)
        for at in range(0, len(trades) - per_frame + 1, per_frame)
    ]
    _write(_path(dialect, names, per_frame), frames)


def _write(path: Path, frames: Sequence[bytes]) -> None:
    ends = array.array("q", [0])
    for each in frames:
        ends.append(ends[-1] + len(each))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".ends").write_bytes(ends.tobytes())
    path.with_suffix(".data").write_bytes(b"".join(frames))


def load(dialect: str, names: int, per_frame: int) -> Pool:
    """A pool that was made."""
    path = _path(dialect, names, per_frame)
    ends = array.array("q")
    ends.frombytes(path.with_suffix(".ends").read_bytes())
    return Pool(memoryview(path.with_suffix(".data").read_bytes()), ends, per_frame)


def prepare(dialect: str, names: int, per_frame: int) -> None:
    """Make a pool unless it is there."""
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
