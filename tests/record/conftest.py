"""The journal of a session that has begun."""

from __future__ import annotations

from pathlib import Path

import pytest

from stocktrace.record.journal import SessionJournal, new_report
from stocktrace.store.audit import AuditLog
from stocktrace.store.layout import Layout
from tests.conftest import NOON, SESSION


@pytest.fixture
def journal(tmp_path: Path) -> SessionJournal:
    layout = Layout(tmp_path)
    report = new_report(SESSION, ["A", "B"], NOON, {"url": "ws://x"})
    return SessionJournal(layout, report, AuditLog(layout.audit, SESSION))
