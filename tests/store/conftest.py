"""Batches by hand, and the data folder they go to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from stocktrace.store.batch import Batch
from stocktrace.store.layout import Layout, Part
from stocktrace.store.read import Read
from stocktrace.store.segment import SegmentWriter
from stocktrace.store.tape import Frames
from stocktrace.trade import Trade
from tests.conftest import NOON, SESSION, WINDOW

PART = Part(SESSION, WINDOW)
#: NOON in ms: the time of trades by hand.
T = NOON // 10**6


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


@pytest.fixture
def seal(layout: Layout) -> Callable[..., list[Path]]:
    """Writes and seals the segments of a window; gives them."""

    def seal(trades: Sequence[Trade], part: Part = PART, stamp: int = NOON) -> list[Path]:
        writer = SegmentWriter(layout, part)
        writer.write(batch_of(trades, stamp))
        writer.seal()
        return layout.sealed_segments(part)

    return seal


def batch_of(trades: Sequence[Trade], stamp: int = NOON, frame: bytes = b"{}") -> Batch:
    """One read with ``trades`` in one frame, parted by ticker as the intake does."""
    read = Read([Frames(stamp, [frame])], [trades])
    return [(ticker, [(read, rows)]) for ticker, rows in read.parts]
