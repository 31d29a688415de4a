"""Batches by hand, strange tickers, and the data folder they go to."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from stocktrace.store import files
from stocktrace.store.batch import Batch
from stocktrace.store.decoded_batch import DecodedRead
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.segments import SegmentWriter
from stocktrace.store.tape import TapeFrames
from stocktrace.trade import Trade
from stocktrace.trade_columns import TradeColumns
from tests.conftest import NOON, SESSION, WINDOW

PART = WindowId(SESSION, WINDOW)
#: NOON in ms: the time of trades by hand.
T = NOON // 10**6
#: Names that file systems, shells or readers of Hive paths take for something else.
STRANGE = [
    "A:B", "A/B", "A-B", "A_B", "A B", "a:b", "BRK.B", "^GSPC", "..", ".", "...", "-", "a..b", "a.",
    ".a", "CON", "con", "Con.x", "NUL", "COM1", "LPT9.csv", "CONX", "IC MARKETS:1", "FXCM:EUR/USD",
    "7203", "007", "NULL", "NA", "nan", "1e5", "~", "%41", "A%3AB", "A\\B", "A\x00B", "é", "日本",
    "symbol=A", "a=b", "a\nb", "__HIVE_DEFAULT_PARTITION__", "../../etc/passwd", "/etc/passwd",
]  # fmt: skip


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


@pytest.fixture
def seal(layout: Layout) -> Callable[..., list[Path]]:
    """Writes and seals the segments of a window; gives them."""

    def seal(trades: Sequence[Trade], part: WindowId = PART, stamp: int = NOON) -> list[Path]:
        writer = SegmentWriter(layout, part)
        writer.write(batch_of(trades, stamp))
        writer.seal()
        return layout.sealed_segments(part)

    return seal


def batch_of(trades: Sequence[Trade], stamp: int = NOON, frame: bytes = b"{}") -> Batch:
    """One read with ``trades`` in one frame, parted by ticker as the intake does."""
    read = DecodedRead([TapeFrames(stamp, [frame])], TradeColumns.of([trades]))
    return [(ticker, [(read, rows)]) for ticker, rows in read.ticker_rows]


@pytest.fixture
def disk_steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files and folders that are synced or renamed, in order."""
    steps: list[str] = []
    fsync, replace, swap = os.fsync, Path.replace, files.swap_folders

    def note_sync(descriptor: int) -> None:
        steps.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def note_rename(path: Path, target: Path) -> Path:
        steps.append(f"rename {target.name}")
        return replace(path, target)

    def note_swap(staged: Path, live: Path) -> None:
        steps.append(f"swap {live.name}")
        swap(staged, live)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_rename)
    monkeypatch.setattr(files, "swap_folders", note_swap)
    return steps


class Killed(BaseException):
    """The process is no more."""


class Life:
    """Counts the calls that change or sync something; from the given one on, none is made."""

    CALLS = ("mkdir", "open", "fsync", "unlink", "rmdir", "rename", "replace")

    def __init__(self, patch: pytest.MonkeyPatch, last: int) -> None:
        self.left = last
        for name in self.CALLS:
            patch.setattr(os, name, self._counted(getattr(os, name)))
        patch.setattr(files, "swap_folders", self._counted(files.swap_folders))
        for name in ("write_table", "add_key_value_metadata"):
            whole = self._counted(getattr(pq.ParquetWriter, name))
            patch.setattr(pq.ParquetWriter, name, whole)

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Killed
            return call(*arguments, **options)

        return counted
