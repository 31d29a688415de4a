"""The flow of the backup; what is copied is tested in ``tests/maintenance/test_backup.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stocktrace.store.layout import Layout

pytestmark = pytest.mark.timeout(300)  # the first to come waits for Prefect's import


def test_a_run_says_what_it_copied_or_why_it_could_not(
    server: str, tmp_path: Path, a_whole_session: Layout
) -> None:
    from flows.backup import backup

    source, dest = str(a_whole_session.root), tmp_path / "dest"
    state: Any = backup(str(dest), data_dir=source, return_state=True)
    assert state.is_completed(), state.message
    assert state.result()["copied"] > 0
    assert (dest / "data" / "tape").is_dir()
    state = backup(str(tmp_path / "dest"), data_dir=str(tmp_path), return_state=True)
    assert state.is_failed()
    assert state.message == f"{tmp_path} is not a data folder. Name another one with --data-dir."
