"""The flow that imports files: a batch, and the form's checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stocktrace.importing.column_mapping import ColumnMapping
from stocktrace.importing.jobs import plan_imports
from stocktrace.store.layout import Layout
from tests.conftest import published

pytestmark = [
    pytest.mark.xdist_group("prefect"),
    pytest.mark.timeout(300),  # the first test waits for Prefect's import
]


def test_a_batch_is_published_once(tmp_path: Path) -> None:
    from flows.import_files import import_batch

    source = tmp_path / "a.csv"
    source.write_text("symbol,ts_event,price,volume\nAAPL,1795444200123,1.5,2\n")
    layout = Layout(tmp_path / "data")
    mapping = ColumnMapping.of(unit="ms")
    (first,) = import_batch.fn(layout, plan_imports(layout, [source]), mapping, 1, only_look=False)
    (again,) = import_batch.fn(layout, plan_imports(layout, [source]), mapping, 1, only_look=False)
    assert (first.state, again.state, first.session) == ("published", "known", again.session)
    assert published(layout.root) == {"AAPL": [(1795444200123, 1.5, 2.0, "")]}


@pytest.mark.parametrize(
    "parameters",
    [
        {"preset": "taq"},
        {"columns": ["Price"]},
        {"unit": "days"},
        {"delimiter": "::"},
        {"jobs": -1},
    ],
)
def test_a_senseless_value_is_not_a_parameter(parameters: dict[str, Any]) -> None:
    from prefect.exceptions import ParameterTypeError

    from flows.import_files import import_files

    with pytest.raises(ParameterTypeError):
        import_files.validate_parameters(parameters)
