from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stocktrace.errors import ConversionError, StoreError
from stocktrace.store import parquet
from stocktrace.store.arrow_schema import TRADE_SCHEMA
from tests.conftest import tree

SCHEMA = pa.schema([pa.field("n", pa.int64(), nullable=False)])


def numbers(*values: int) -> pa.Table:
    return pa.table({"n": list(values)}, schema=SCHEMA)


def test_a_table_is_published_as_a_whole_and_replaces_an_older_one(tmp_path: Path) -> None:
    final, temporary = tmp_path / "data" / "n.parquet", tmp_path / "temporary" / "n.parquet"
    for table in (numbers(1), numbers(1, 2)):
        parquet.publish_table(table, final, temporary)
        assert parquet.read_table(final, SCHEMA).equals(table)
    assert tree(tmp_path) == ["data/n.parquet"]


def test_70_a_table_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, disk_steps: list[str]
) -> None:
    parquet.publish_table(numbers(1), tmp_path / "n.parquet")
    synced, *rest = disk_steps
    assert synced.startswith("sync .n.parquet.")
    assert rest == ["rename n.parquet", f"sync {tmp_path.name}"]


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
        parquet.read_table(tmp_path / "n.parquet", TRADE_SCHEMA)


def test_a_file_that_was_compacted_away_is_missing_and_not_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), parquet.open_parquet(tmp_path / "n.parquet"):
        pass
