"""The peers, each with a virtual environment of its own in ``.bench``.

    python -m benchmarks.peers            install those that are missing
    python -m benchmarks.peers limit ...  only these

They are pinned, come from the usual index, and do not become dependencies of stocktrace.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import bench, market


@dataclass(frozen=True, slots=True)
class Peer:
    """A program to compare with; ``requires`` is empty for stocktrace, which runs from here.

    ``trades`` is the number of trades for it: about a second of work. ``base`` is the Python that
    it needs, if not the one of stocktrace.
    """

    name: str
    title: str
    module: str
    requires: tuple[str, ...] = ()
    dialect: str = "finnhub"
    trades: int = 20_000
    per_frame: tuple[int, ...] = (1, 5, 20)
    arguments: tuple[str, ...] = ()
    venv: str = ""
    base: str = ""

    @property
    def python(self) -> Path:
        """The interpreter that has its requirements."""
        if not self.requires:
            return Path(sys.executable)
        return market.BENCH / (self.venv or self.name) / "bin" / "python"

    @property
    def client(self) -> bench.Client:
        """The client that runs it."""
        return bench.Client(self.module, self.python, self.arguments)


#: The formats that ``benchmarks.size`` compares with.
SIZES = Peer(
    "sizes",
    "sizes",
    "sizes",
    ("databento-dbn==0.72.0", "pcodec==1.1.0", "pyarrow==26.0.1", "zstandard==0.25.0"),
)
#: A data base that ``benchmarks.archive`` compares with.
ARCTICDB = Peer("arcticdb", "ArcticDB", "arctic", ("arcticdb==6.28.2", "pyarrow==26.0.1"))
OURS, LIMIT = "stocktrace", "limit"
_NAUTILUS = ("nautilus_trader==1.231.0",)

PEERS = [
    Peer(OURS, "**stocktrace, everything on**", "ours", trades=1_200_000),
    Peer(
        LIMIT,
        "limit: picows + msgspec → buffered CSV, no validation, no tape",
        "limit",
        ("picows==2.3.1", "msgspec==0.22.0"),
        trades=1_200_000,
    ),
    Peer(
        "websockets",
        "websockets + orjson → buffered CSV",
        "orjson_websockets",
        ("websockets==17.4", "orjson==3.13.0"),
        trades=300_000,
    ),
    Peer(
        "cryptofeed2",
        "cryptofeed 2.4 callback → CSV",
        "cryptofeed",
        ("cryptofeed==2.4.1",),
        dialect="okx",
        trades=100_000,
    ),
    Peer(
        "cryptofeed3",
        "cryptofeed 3 callback → CSV",
        "cryptofeed",
        ("cryptofeed==3.0.1",),
        dialect="okx",
        trades=100_000,
        base="python3.13",
    ),
    Peer("massive", "massive client → CSV", "massive", ("massive==2.9.1",), dialect="massive"),
    Peer("alpaca", "alpaca-py handler → CSV", "alpaca", ("alpaca-py==0.44.0",), dialect="alpaca"),
    Peer(
        "nautilus",
        "nautilus_trader (Rust core) handler → CSV",
        "nautilus",
        _NAUTILUS,
        trades=50_000,
        base="python3.12",
    ),
    Peer(
        "nautilus-feather",
        "nautilus_trader, its streaming Feather writer",
        "nautilus",
        _NAUTILUS,
        trades=5_000,
        per_frame=(1,),
        arguments=("feather",),
        venv="nautilus",
        base="python3.12",
    ),
    Peer(
        "naive",
        "naive: WebSocketApp, `json`, a thread per ticker, the file opened for each row",
        "naive",
        ("websocket-client==1.9.2",),
        trades=10_000,
    ),
]


def install(peers: Sequence[Peer]) -> list[Peer]:
    """Make the environments that are missing. Return the peers that can run."""
    return [peer for peer in peers if peer.python.exists() or _make(peer)]


def _make(peer: Peer) -> bool:
    bench.log(f"installing {' '.join(peer.requires)}")
    base = shutil.which(peer.base) or peer.base or sys.executable
    pip = [str(peer.python), "-m", "pip", "--disable-pip-version-check", "-q", "install"]
    for command in ([base, "-m", "venv", str(peer.python.parent.parent)], [*pip, *peer.requires]):
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError):
            peer.python.unlink(missing_ok=True)
            bench.log(f"{peer.name} cannot be installed here and is left out")
            return False
    return True


if __name__ == "__main__":
    chosen = sys.argv[1:]
    install([peer for peer in PEERS if not chosen or peer.name in chosen])
