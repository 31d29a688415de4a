from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from stocktrace import __version__
from stocktrace.errors import ConversionError, DiskFull, LayoutError, StoreError
from stocktrace.feed import protocol
from stocktrace.simulator import synthetic_frames
from stocktrace.store import arrow_schema, checksum, conversion, files, footer, parquet, segments
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.trade import Trade
from tests.conftest import SESSION, published, sent, tree
from tests.store.conftest import PART, T

STEM = PART.stem
FINAL = f"parquet/date=2026-11-23/symbol=AAPL/{STEM}.parquet"
SEGMENT = f"csv/AAPL/{STEM}.csv"
HEADER = "symbol,ts_event,ts_recv,price,volume,conditions\n"
ROW = "AAPL,2026-11-23 14:30:00.000Z,2026-11-23 14:30:00.123456Z,1.5,100,1 24 12\n"

Seal = Callable[..., list[Path]]
THREE = [Trade("AAPL", price, T + n, 100.0, ("1", "12")) for n, price in enumerate((3.0, 1.5, 2.0))]


def rows(path: Path) -> list[dict[str, Any]]:
    return [row for batch in parquet.read_trade_file(path) for row in batch.to_pylist()]


def boom(*_: Any, **__: Any) -> Any:
    raise OSError(5, "Input/output error")


# --- the way of one segment ------------------------------------------------------------------


def test_a_segment_becomes_one_parquet_file_and_is_deleted(layout: Layout, seal: Seal) -> None:
    (segment,) = seal(THREE)
    converted = conversion.publish_segment(layout, segment)
    final = layout.root / FINAL
    assert converted == conversion.PublishedFile("AAPL", final, 3, final.stat().st_size)
    assert tree(layout.root) == [FINAL]
    assert [row["price"] for row in rows(final)] == [3.0, 1.5, 2.0]
    assert published(layout.root) == {"AAPL": [(t.t, t.p, t.v, "1 12") for t in THREE]}


def test_converting_what_is_converted_changes_nothing(layout: Layout, seal: Seal) -> None:
    (segment,) = seal(THREE)
    conversion.publish_segment(layout, segment)
    final = layout.root / FINAL
    before = (final.read_bytes(), final.stat().st_mtime_ns, final.stat().st_ino)
    assert conversion.publish_segment(layout, segment) is None
    assert (final.read_bytes(), final.stat().st_mtime_ns, final.stat().st_ino) == before


def test_a_segment_whose_file_exists_and_is_right_is_deleted(layout: Layout, seal: Seal) -> None:
    (segment,) = seal(THREE)
    text = segment.read_bytes()
    conversion.publish_segment(layout, segment)
    final = layout.root / FINAL
    before = (final.read_bytes(), final.stat().st_mtime_ns, final.stat().st_ino)
    segment.write_bytes(text)
    converted = conversion.publish_segment(layout, segment)
    assert converted is not None
    assert converted.rows == 3
    assert (final.read_bytes(), final.stat().st_mtime_ns, final.stat().st_ino) == before
    assert tree(layout.root) == [FINAL]


def test_the_same_segment_gives_the_same_bytes(layout: Layout, seal: Seal) -> None:
    (segment,) = seal(THREE)
    text = segment.read_bytes()
    conversion.publish_segment(layout, segment)
    first = (layout.root / FINAL).read_bytes()
    (layout.root / FINAL).unlink()
    segment.write_bytes(text)
    conversion.publish_segment(layout, segment)
    assert (layout.root / FINAL).read_bytes() == first


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_planted_truncated_file_is_found_and_rebuilt(
    layout: Layout, seal: Seal, size: int
) -> None:
    (segment,) = seal(THREE)
    text = segment.read_bytes()
    conversion.publish_segment(layout, segment)
    final = layout.root / FINAL
    whole = final.read_bytes()
    segment.write_bytes(text)
    final.write_bytes(whole[:size])
    conversion.publish_segment(layout, segment)
    assert final.read_bytes() == whole
    assert tree(layout.root) == [FINAL]


def test_a_whole_file_with_other_rows_is_rebuilt(layout: Layout, seal: Seal) -> None:
    (segment,) = seal(THREE)
    text = segment.read_bytes()
    conversion.publish_segment(layout, segment)
    whole = (layout.root / FINAL).read_bytes()
    (segment,) = seal(THREE[:2])
    conversion.publish_segment(layout, segment)
    segment.write_bytes(text)
    conversion.publish_segment(layout, segment)
    assert (layout.root / FINAL).read_bytes() == whole


def test_a_file_of_other_columns_is_rebuilt(layout: Layout, seal: Seal) -> None:
    (segment,) = seal(THREE)
    final = layout.root / FINAL
    final.parent.mkdir(parents=True)
    pq.write_table(pa.table({"a": [1]}), final)
    conversion.publish_segment(layout, segment)
    assert len(rows(final)) == 3


# --- killed at each step ---------------------------------------------------------------------

STEPS: dict[str, tuple[object, str]] = {
    "making the writer": (pq, "ParquetWriter"),
    "writing": (pq.ParquetWriter, "write_table"),
    "writing the footer": (pq.ParquetWriter, "add_key_value_metadata"),
    "closing": (pq.ParquetWriter, "close"),
    "reading it again": (pq, "ParquetFile"),
    "syncing": (os, "fsync"),
    "renaming": (Path, "replace"),
    "deleting the segment": (Path, "unlink"),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("died", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_killed_at_any_step_nothing_is_lost_and_the_next_run_gives_one_right_file(
    layout: Layout,
    seal: Seal,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    died: BaseException,
) -> None:
    (segment,) = seal(THREE)
    text = segment.read_bytes()
    target, name = STEPS[step]
    whole = getattr(target, name)

    def killed(*arguments: Any, **options: Any) -> Any:
        if arguments[:1] == (segment,) or step != "deleting the segment":
            raise died
        return whole(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(target, name, killed)
        with pytest.raises((StoreError, OSError, KeyboardInterrupt)):
            conversion.publish_segment(layout, segment)
    assert segment.read_bytes() == text
    deleting = step == "deleting the segment"
    assert tree(layout.root) == ([SEGMENT, FINAL] if deleting else [SEGMENT])
    converted = conversion.publish_segment(layout, segment)
    assert converted is not None
    assert tree(layout.root) == [FINAL]
    assert [row["price"] for row in rows(converted.path)] == [3.0, 1.5, 2.0]


def test_readers_of_the_whole_folder_never_meet_a_half_written_file(
    layout: Layout, seal: Seal, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversion.publish_segment(layout, *seal(THREE))
    (segment,) = seal([Trade("7203", 9.0, T, 1.0)])  # the first of its kind brings an anchor, too
    read: list[list[list[float]]] = []
    sync = files.sync_file

    def reading(path: Path) -> None:
        """At each step that a conversion has: written, renamed."""
        read.append([sorted(prices) for prices in whole_folder(layout.dataset)])
        sync(path)

    monkeypatch.setattr(files, "sync_file", reading)
    monkeypatch.setattr(pq.ParquetWriter, "close", noticing(pq.ParquetWriter.close, read, layout))
    conversion.publish_segment(layout, segment)
    before, after = [[1.5, 2.0, 3.0]] * 3, [[1.5, 2.0, 3.0, 9.0]] * 3
    assert read[0] == before
    assert read[-1] == after
    assert all(each in (before, after) for each in read)
    assert len(read) > 4


def noticing(whole: Callable[..., Any], read: list[Any], layout: Layout) -> Callable[..., Any]:
    """``whole``, and what is read before it: while the file has no footer yet."""

    def notice(*arguments: Any) -> Any:
        read.append([sorted(prices) for prices in whole_folder(layout.dataset)])
        return whole(*arguments)

    return notice


def whole_folder(folder: Path) -> list[list[float]]:
    """The prices that others find, each given the folder and nothing else."""
    import duckdb
    import polars as pl

    return [
        pl.scan_parquet(folder).collect()["price"].to_list(),
        duckdb.read_parquet(f"{folder}/**/*.parquet").fetchnumpy()["price"].tolist(),
        ds.dataset(folder, partitioning="hive").to_table()["price"].to_pylist(),
    ]


def test_the_folder_is_synced_after_the_rename_and_before_the_segment_is_deleted(
    layout: Layout, seal: Seal, monkeypatch: pytest.MonkeyPatch
) -> None:
    (segment,) = seal(THREE)
    steps: list[str] = []

    def noting(name: str, whole: Callable[..., Any]) -> Callable[..., Any]:
        def note(path: Any, *arguments: Any, **options: Any) -> Any:
            shown = Path(f"/proc/self/fd/{path}").readlink() if isinstance(path, int) else path
            steps.append(f"{name} {shown.name.split('.')[-1]}")
            return whole(path, *arguments, **options)

        return note

    monkeypatch.setattr(os, "fsync", noting("sync", os.fsync))
    monkeypatch.setattr(Path, "replace", noting("rename", Path.replace))
    monkeypatch.setattr(Path, "unlink", noting("delete", Path.unlink))
    conversion.publish_segment(layout, segment)
    folders = ["date=2026-11-23", "parquet", layout.root.name]  # those that have a new name in them
    assert steps == [
        *(f"sync {name}" for name in folders),
        *["sync tmp", "rename tmp", "sync symbol=AAPL", "delete tmp", "delete csv"],
    ]


def test_a_full_disk_is_told_and_keeps_the_segment(
    layout: Layout, seal: Seal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    (segment,) = seal(THREE)
    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(DiskFull):
        conversion.publish_segment(layout, segment)
    assert tree(layout.root) == [SEGMENT]


def test_what_is_written_wrong_is_not_published(
    layout: Layout, seal: Seal, monkeypatch: pytest.MonkeyPatch
) -> None:
    (segment,) = seal(THREE)
    write = pq.ParquetWriter.write_table
    monkeypatch.setattr(
        pq.ParquetWriter, "write_table", lambda self, table, size: write(self, table[1:], size)
    )
    with pytest.raises(ConversionError, match="does not hold the 3 rows"):
        conversion.publish_segment(layout, segment)
    assert tree(layout.root) == [SEGMENT]


def test_a_segment_that_another_process_converts_is_left_to_it(layout: Layout, seal: Seal) -> None:
    (segment,) = seal(THREE)
    with segment.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert conversion.publish_segment(layout, segment) is None
    assert tree(layout.root) == [SEGMENT]


# --- segments that are none ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "does not begin with the header"),
        (HEADER[:-1], "does not begin with the header"),
        (f"a,b\n{ROW}", "does not begin with the header"),
        (HEADER, "has no rows"),
        (HEADER + ROW[:-1], "is truncated"),
        (HEADER + ROW + ROW[:-9], "is truncated"),
        (HEADER + ROW.replace(",1.5,", ",x,"), "is not a segment"),
        (HEADER + ROW.replace(",1.5,", ",,"), "is not a segment"),
        (HEADER + ROW.replace(",1.5,", ","), "is not a segment"),
        (HEADER + ROW.replace("2026-11-23 14:30:00.000Z", "yesterday"), "is not a segment"),
        (f"{HEADER}{ROW}\x00\n", "is not a segment"),
    ],
)
def test_an_invalid_segment_is_refused_and_stays(layout: Layout, text: str, sentence: str) -> None:
    segment = layout.root / SEGMENT
    segment.parent.mkdir(parents=True)
    segment.write_text(text)
    with pytest.raises(ConversionError, match=sentence):
        conversion.publish_segment(layout, segment)
    assert tree(layout.root) == [SEGMENT]
    assert segment.read_text() == text


def test_a_segment_truncated_at_any_byte_is_refused_unless_the_line_is_complete(
    layout: Layout,
) -> None:
    segment = layout.root / SEGMENT
    segment.parent.mkdir(parents=True)
    text = HEADER + ROW + ROW
    for size in range(len(HEADER) + 1, len(text)):
        if text[size - 1] == "\n":
            continue
        segment.write_text(text[:size])
        with pytest.raises(ConversionError, match="is truncated"):
            conversion.publish_segment(layout, segment)


def test_a_file_of_somebody_else_is_refused(layout: Layout) -> None:
    path = layout.root / "csv" / "AAPL" / "mine.csv"
    path.parent.mkdir(parents=True)
    path.write_text(HEADER + ROW)
    with pytest.raises(LayoutError):
        conversion.publish_segment(layout, path)
    assert tree(layout.root) == ["csv/AAPL/mine.csv"]


# --- the file --------------------------------------------------------------------------------


def test_any_flipped_byte_is_noticed_or_does_no_harm(layout: Layout, seal: Seal) -> None:
    (segment,) = seal(THREE)
    converted = conversion.publish_segment(layout, segment)
    assert converted is not None
    whole = converted.path.read_bytes()
    wanted = footer.read_footer(converted.path)["content"]
    by_reader, by_hash = 0, 0
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        converted.path.write_bytes(damaged)
        try:
            content = checksum.content_hash(parquet.read_trade_file(converted.path)).hexdigest()
            told = footer.read_footer(converted.path).get("content")
        except ConversionError:
            by_reader += 1
        else:
            # The header of a page is under no checksum: the hash in the footer is what is left.
            by_hash += content != told
            assert content == wanted or content != told, f"byte {position} of {len(whole)}"
    assert by_reader > 0
    assert by_hash > 0


def test_the_footer_says_what_the_file_is(layout: Layout, seal: Seal) -> None:
    (segment,) = seal(THREE)
    content = checksum.content_hash(segments.read_segment(segment)).hexdigest()
    converted = conversion.publish_segment(layout, segment)
    assert converted is not None
    assert footer.read_footer(converted.path) == {
        "session": SESSION,
        "window": PART.window,
        "content": content,
        "version": __version__,
        "rows": "3",
    }


def test_a_file_without_a_footer_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(ConversionError, match="cannot be read"):
        footer.read_footer(path)


def test_columns_types_and_settings_are_those_that_were_measured(
    layout: Layout, seal: Seal
) -> None:
    (segment,) = seal(THREE)
    converted = conversion.publish_segment(layout, segment)
    assert converted is not None
    with pq.ParquetFile(converted.path) as file:
        assert [(field.name, str(field.type), field.nullable) for field in file.schema_arrow] == [
            ("ts_event", "timestamp[ms, tz=UTC]", False),
            ("ts_recv", "timestamp[us, tz=UTC]", False),
            ("price", "double", False),
            ("volume", "double", False),
            ("conditions", "string", False),
        ]
        group = file.metadata.row_group(0)
        columns = [group.column(n) for n in range(group.num_columns)]
        assert {column.compression for column in columns} == {"ZSTD"}
        assert [set(column.encodings) >= {"DELTA_BINARY_PACKED"} for column in columns] == [
            True, True, False, False, False,
        ]  # fmt: skip
        assert [column.has_dictionary_page for column in columns] == [
            False, False, True, True, True,
        ]  # fmt: skip
        assert all(column.is_stats_set for column in columns)
        assert b"ARROW:schema" not in file.metadata.metadata


def test_pages_carry_checksums(layout: Layout, seal: Seal) -> None:
    (segment,) = seal(THREE)
    converted = conversion.publish_segment(layout, segment)
    assert converted is not None
    with pq.ParquetFile(converted.path) as file:
        column = file.metadata.row_group(0).column(2)
        end = column.data_page_offset + column.total_compressed_size
        end -= column.data_page_offset - column.dictionary_page_offset
    damaged = bytearray(converted.path.read_bytes())
    damaged[end - 1] ^= 1  # the last byte of the last page of prices
    converted.path.write_bytes(damaged)
    with pytest.raises(ConversionError, match=r"crc|CRC"):
        list(parquet.read_trade_file(converted.path))


def trades_of(count: int, tickers: Sequence[str]) -> tuple[dict[str, list[Any]], list[Trade]]:
    frames = [frame for _, frame in synthetic_frames(tickers, count)]
    trades = [trade for message in protocol.decode(frames).rows.messages() for trade in message]
    return sent(frames), trades


def test_rows_are_gathered_into_row_groups_and_pages_not_cut_by_blocks_of_csv(
    layout: Layout, seal: Seal, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, trades = trades_of(30_000, ["AAPL"])
    monkeypatch.setattr(segments, "_BLOCK_BYTES", 1 << 16)
    monkeypatch.setattr(conversion, "ROW_GROUP", 10_000)
    (segment,) = seal(trades)
    converted = conversion.publish_segment(layout, segment)
    assert converted is not None
    with pq.ParquetFile(converted.path) as file:
        groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    assert sum(groups) == 30_000
    assert max(groups) <= 10_000
    assert len(groups) <= 6
    assert published(layout.root) == wanted


def test_a_large_segment_is_one_row_group(layout: Layout, seal: Seal) -> None:
    wanted, trades = trades_of(60_000, ["AAPL"])  # some 4 MB of CSV: several blocks
    (segment,) = seal(trades)
    converted = conversion.publish_segment(layout, segment)
    assert converted is not None
    with pq.ParquetFile(converted.path) as file:
        assert file.num_row_groups == 1
    assert published(layout.root) == wanted
    assert converted.size / converted.rows < 8  # bytes a trade; 70 in CSV


def test_the_hash_does_not_depend_on_how_rows_are_cut(layout: Layout, seal: Seal) -> None:
    (segment,) = seal(THREE)
    (batch,) = segments.read_segment(segment)
    whole = checksum.content_hash(iter([batch])).hexdigest()
    cut = [batch.slice(0, 1), batch.slice(1, 0), batch.slice(1, 2)]
    assert checksum.content_hash(iter(cut)).hexdigest() == whole
    other = [batch.slice(1, 1), batch.slice(0, 1), batch.slice(2, 1)]
    assert checksum.content_hash(iter(other)).hexdigest() != whole


def test_the_hash_depends_on_where_texts_begin_and_end() -> None:
    def batch(*codes: str) -> pa.RecordBatch:
        columns = [pa.array([0] * len(codes), kind) for kind in arrow_schema.TRADE_SCHEMA.types[:4]]
        return pa.RecordBatch.from_arrays(
            [*columns, pa.array(codes)], schema=arrow_schema.TRADE_SCHEMA
        )

    one, other = batch("1", "2 12"), batch("12", " 12")
    assert (
        checksum.content_hash(iter([one])).hexdigest()
        != checksum.content_hash(iter([other])).hexdigest()
    )


def test_no_condition_is_the_empty_text_and_never_null(layout: Layout, seal: Seal) -> None:
    (segment,) = seal([Trade("AAPL", 1.0, T, 1.0, codes) for codes in (None, (), ("NA",))])
    converted = conversion.publish_segment(layout, segment)
    assert converted is not None
    assert [row["conditions"] for row in rows(converted.path)] == ["", "", "NA"]


def test_windows_of_two_days_go_to_two_partitions(layout: Layout, seal: Seal) -> None:
    for window in ("20261123T235900Z_00001", "20261124T000000Z_00002"):
        (segment,) = seal(THREE, WindowId(SESSION, window))
        conversion.publish_segment(layout, segment)
    assert tree(layout.root) == [
        f"parquet/date=2026-11-23/symbol=AAPL/{SESSION}-20261123T235900Z_00001.parquet",
        f"parquet/date=2026-11-24/symbol=AAPL/{SESSION}-20261124T000000Z_00002.parquet",
    ]


@pytest.mark.parametrize(
    "ticker", ["7203", "007", "1e5", "-5", "inf", "NaN", "TRUE", "0x10", "9:30"]
)
def test_a_ticker_that_readers_may_take_for_another_type_gets_an_anchor(
    layout: Layout, seal: Seal, ticker: str
) -> None:
    (segment,) = seal([Trade(ticker, 1.0, T, 1.0)])
    conversion.publish_segment(layout, segment)
    anchor = layout.anchor("2026-11-23")
    assert tree(layout.root)[-1] == "parquet/date=2026-11-23/symbol=~/anchor.parquet"
    assert pq.read_metadata(anchor).num_rows == 0
    before = anchor.stat().st_mtime_ns
    shutil.rmtree(layout.root / "csv")
    (segment,) = seal([Trade(ticker, 1.0, T, 1.0)], WindowId(SESSION, "20261123T144000Z_00002"))
    conversion.publish_segment(layout, segment)
    assert anchor.stat().st_mtime_ns == before


def test_an_ordinary_ticker_needs_no_anchor(layout: Layout, seal: Seal) -> None:
    for segment in seal(
        [Trade(ticker, 1.0, T, 1.0) for ticker in ("AAPL", "A1", "INFY", "NANO", "TRUEX")]
    ):
        conversion.publish_segment(layout, segment)
    assert not layout.anchor("2026-11-23").exists()
