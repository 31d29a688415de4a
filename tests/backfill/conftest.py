"""A recorded day with a gap, for whoever asks REST for what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from stocktrace.store.layout import Layout
from tests.conftest import hurry
from tests.gaps import capture, market

TRADES = market()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return capture(tmp_path / "data", TRADES)
