"""The journal of a session that has begun."""

from __future__ import annotations

from pathlib import Path

import pytest

from stocktrace.record.journal import Journal, new_report
from stocktrace.store.audit import Audit
from stocktrace.store.layout import Layout
from tests.conftest import NOON, SESSION


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    layout = Layout(tmp_path)
    report = new_report(SESSION, ["A", "B"], NOON, {"url": "ws://x"})
    return Journal(layout, report, Audit(layout.audit, SESSION))
