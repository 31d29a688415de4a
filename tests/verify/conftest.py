"""A capture with something in it to verify, and repairs that are killed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stocktrace.simulator import Simulator
from stocktrace.store.layout import Layout
from tests import remains
from tests.conftest import Scenario, all_of, connected, frame
from tests.dying import Killed, Killer, calls_of
from tests.sampling import Pick


def cut_off(exchange: Simulator) -> Scenario:
    """A trade comes, and the connection is lost and made again."""
    yield connected
    exchange.send_raw(frame(("AAPL", 1)))
    yield all_of(exchange)
    exchange.drop_all()
    yield lambda status: status.reconnects == 1 and status.connected


def killed_at_calls(
    layout: Layout, tmp_path: Path, pick: Pick, repair: Callable[[Layout], object]
) -> Iterator[tuple[int, Layout]]:
    """Yields each call that was picked, and a copy in which a repair was killed at it."""
    counted = remains.copy(layout, tmp_path / "counted")
    for call in pick(calls_of(lambda: repair(counted))):
        killed = remains.copy(layout, tmp_path / f"killed-{call}")
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
            Killer(patch, call)
            repair(killed)
        yield call, killed
