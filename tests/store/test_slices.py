from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from stocktrace.errors import ConversionError
from stocktrace.store import parquet
from stocktrace.store.parquet import RowRangeReader
from tests.store.conftest import T
from tests.tables import table_of

ROWS = table_of([(T + n, 1.0 + n, 100.0, "1 12") for n in range(250)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of three row groups: 100, 100 and 50 rows."""
    path = tmp_path / "rows.parquet"
    with parquet.trade_writer(path) as writer:
        writer.write_table(ROWS, 100)
    return path


@pytest.mark.parametrize(("offset", "count"), [(0, 250), (0, 1), (99, 2), (150, 100), (249, 1)])
def test_a_range_of_rows_is_had_across_row_groups(path: Path, offset: int, count: int) -> None:
    with RowRangeReader(path) as file:
        found = pa.Table.from_batches(file.rows(offset, count))
    assert found.equals(ROWS.slice(offset, count))


@pytest.mark.parametrize("is_held", [False, True])
@pytest.mark.parametrize(("offset", "count"), [(0, 10), (100, 1), (200, 50), (30, 20), (230, 20)])
def test_the_first_rows_are_those_that_all_begin_with(
    path: Path, offset: int, count: int, *, is_held: bool
) -> None:
    with RowRangeReader(path) as file:
        if is_held:
            list(file.rows(offset, 1))
        assert file.head(offset, count).equals(ROWS.slice(offset, count))


def test_the_first_rows_are_of_one_row_group(path: Path) -> None:
    with RowRangeReader(path) as file:
        assert file.head(100, 150).equals(ROWS.slice(100, 100))


def test_rows_that_are_not_there_are_told(path: Path) -> None:
    with RowRangeReader(path) as file, pytest.raises(ConversionError, match="fewer rows"):
        list(file.rows(200, 51))


@pytest.mark.parametrize("read", [RowRangeReader.rows, RowRangeReader.head])
def test_a_damaged_page_is_told(path: Path, read) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[60:90] = bytes(30)
    path.write_bytes(damaged)
    with RowRangeReader(path) as file, pytest.raises(ConversionError, match="cannot be read"):
        list(read(file, 0, 50))
