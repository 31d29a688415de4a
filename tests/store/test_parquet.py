from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stocktrace.errors import ConversionError, StoreError
from stocktrace.store import parquet
from stocktrace.store.parquet import RowRangeReader
from tests.conftest import tree
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
def test_a_range_of_rows_is_read_across_row_groups(path: Path, offset: int, count: int) -> None:
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


def test_missing_rows_are_an_error(path: Path) -> None:
    with RowRangeReader(path) as file, pytest.raises(ConversionError, match="fewer rows"):
        list(file.rows(200, 51))


@pytest.mark.parametrize("read", [RowRangeReader.rows, RowRangeReader.head])
def test_a_damaged_page_is_an_error(path: Path, read) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[60:90] = bytes(30)
    path.write_bytes(damaged)
    with RowRangeReader(path) as file, pytest.raises(ConversionError, match="cannot be read"):
        list(read(file, 0, 50))


# --- small files -------------------------------------------------------------------------------

SCHEMA = pa.schema([pa.field("n", pa.int64(), nullable=False)])


def numbers(*values: int) -> pa.Table:
    return pa.table({"n": list(values)}, schema=SCHEMA)


def test_a_table_is_published_as_a_whole_and_replaces_an_older_one(tmp_path: Path) -> None:
    final, temporary = tmp_path / "data" / "n.parquet", tmp_path / "temporary" / "n.parquet"
    for table in (numbers(1), numbers(1, 2)):
        parquet.publish_table(table, final, temporary)
        assert parquet.read_table(final, SCHEMA).equals(table)
    assert tree(tmp_path) == ["data/n.parquet"]


def test_a_table_that_cannot_be_written_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = tmp_path / "n.parquet"
    parquet.publish_table(numbers(1), final)

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(StoreError, match="Input/output error"):
        parquet.publish_table(numbers(2), final)
    assert tree(tmp_path) == ["n.parquet"]
    assert parquet.read_table(final, SCHEMA).equals(numbers(1))


@pytest.mark.parametrize(
    ("content", "sentence"), [(None, "No such file"), (b"PAR1 and no more", "cannot be read")]
)
def test_a_missing_or_damaged_table_is_an_error_that_names_it(
    tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    path = tmp_path / "n.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConversionError, match=rf"n\.parquet.*{sentence}"):
        parquet.read_table(path, SCHEMA)


def test_a_table_with_other_columns_is_refused(tmp_path: Path) -> None:
    parquet.publish_table(numbers(1), tmp_path / "n.parquet")
    with pytest.raises(ConversionError, match="unexpected columns"):
        parquet.read_table(tmp_path / "n.parquet", ROWS.schema)


def test_a_file_that_was_compacted_away_is_missing_and_not_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), parquet.open_parquet(tmp_path / "n.parquet"):
        pass
