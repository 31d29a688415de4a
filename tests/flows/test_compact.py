"""The tasks of the nightly flow, as functions; ``test_capture.py`` has the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stocktrace.store.dataset import files_in_order
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from tests import remains
from tests.conftest import SESSION
from tests.tables import put, table_of

pytestmark = pytest.mark.timeout(300)  # the first to come waits for Prefect's import


def test_the_tasks_recover_compact_and_delete(tmp_path: Path) -> None:
    from flows.compact import compact_dates, delete
    from flows.convert import recover

    layout = remains.dead(tmp_path / "data")
    put(layout, "AAPL", WindowId(SESSION, "20201120T100000Z_00009"), table_of([(1, 1.0, 1.0, "")]))
    asked: dict[str, str | None] = {"data_dir": str(layout.root)}
    assert [one.session for one in recover.fn(str(layout.root))] == [SESSION]
    done = compact_dates.fn(asked, None, "7d")
    assert [one.date for one in done.done] == ["2020-11-20"]
    paths = files_in_order(layout.date_folder("2020-11-20"))
    assert [path.name for path in paths] == ["day-00001.parquet"]
    deleted = delete.fn({**asked, "tape_retention": "365d"})
    assert (deleted.tapes, deleted.csv, deleted.refused) == (0, 0, [])


def test_a_completed_run_has_its_result_in_a_sentence(server: str, tmp_path: Path) -> None:
    from flows.compact import compact

    layout = remains.dead(tmp_path / "data")
    put(layout, "AAPL", WindowId(SESSION, "20201120T100000Z_00009"), table_of([(1, 1.0, 1.0, "")]))
    state: Any = compact(older_than="7d", data_dir=str(layout.root), return_state=True)
    assert state.is_completed()
    assert state.message == (
        "1 session recovered, 1 day of 1 file compacted, 0 tapes and 0 CSV deleted."
    )
    found = state.result()
    assert (found["recovered"], found["compacted"]) == ([SESSION], 1)


def test_the_task_compacts_a_lake(tmp_path: Path) -> None:
    from flows.compact import compact_lake_dates

    lake = Layout(tmp_path / "lake")
    put(lake, "AAPL", WindowId(SESSION, "20201120T100000Z_00009"), table_of([(1, 1.0, 1.0, "")]))
    asked: dict[str, str | None] = {"data_dir": str(tmp_path / "data")}
    result = compact_lake_dates.fn(asked, f"file://{lake.root}", None, "7d")
    assert [done.date for done in result.done] == ["2020-11-20"]
    paths = files_in_order(lake.date_folder("2020-11-20"))
    assert [path.name for path in paths] == ["day-00001.parquet"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"date": "23.11.2026"},
        {"older_than": "a week"},
        {"older_than": "forever"},
        {"tape_retention": "-1d"},
        {"csv_retention": ""},
        {"lake": "a folder"},
    ],
)
def test_a_senseless_value_is_not_a_parameter(parameters: dict[str, str]) -> None:
    from prefect.exceptions import ParameterTypeError

    from flows.compact import compact

    with pytest.raises(ParameterTypeError):
        compact.validate_parameters(parameters)
