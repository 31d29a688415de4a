from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from stocktrace import __version__
from stocktrace.errors import ConversionError, DiskFull, StoreError
from stocktrace.feed import protocol
from stocktrace.simulator import synthetic_frames
from stocktrace.store import arrow_schema, checksum, conversion, files, footer, segments
from stocktrace.store.checksum import Content
from stocktrace.store.dataset import hash_windows
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.trade_file import FileFormat, TradeFileReader
from stocktrace.trade import Trade
from tests.conftest import SESSION, published, sent, tree
from tests.sampling import SAMPLED, Pick, every
from tests.store.conftest import PART, Killed, Life, T, batch_of

STEM = PART.stem
FINAL = f"parquet/date=2026-11-23/{STEM}.parquet"
SEGMENT = f"csv/AAPL/{STEM}.csv"
HEADER = "symbol,ts_event,ts_recv,price,volume,conditions\n"
ROW = "AAPL,2026-11-23 14:30:00.000Z,2026-11-23 14:30:00.123456Z,1.5,100,1 24 12\n"

Seal = Callable[..., list[Path]]
THREE = [Trade("AAPL", price, T + n, 100.0, ("1", "12")) for n, price in enumerate((3.0, 1.5, 2.0))]


def rows(path: Path) -> list[dict[str, Any]]:
    with TradeFileReader(path) as file:
        return list(file.read().to_pylist())


def convert(layout: Layout, window: WindowId = PART) -> conversion.PublishedFile:
    converted = conversion.convert_window(layout, window)
    assert converted is not None
    return converted


def boom(*_: Any, **__: Any) -> Any:
    raise OSError(5, "Input/output error")


# --- the way of one window -------------------------------------------------------------------


def test_the_segments_of_a_window_become_one_file_and_are_deleted(
    layout: Layout, seal: Seal
) -> None:
    seal([*THREE, Trade("MSFT", 9.0, T, 1.0), Trade("7203", 8.0, T, 1.0)])
    converted = convert(layout)
    final = layout.root / FINAL
    counts = {"7203": 1, "AAPL": 3, "MSFT": 1}
    assert converted == conversion.PublishedFile(final, counts, final.stat().st_size)
    assert tree(layout.root) == [FINAL]
    assert [(row["symbol"], row["price"]) for row in rows(final)] == [
        ("7203", 8.0), ("AAPL", 3.0), ("AAPL", 1.5), ("AAPL", 2.0), ("MSFT", 9.0),
    ]  # fmt: skip
    assert {(row["session"], row["window_number"]) for row in rows(final)} == {(SESSION, 1)}
    assert published(layout.root)["AAPL"] == [(t.t, t.p, t.v, "1 12") for t in THREE]


def test_a_window_without_segments_is_left_alone(layout: Layout, seal: Seal) -> None:
    assert conversion.convert_window(layout, PART) is None
    seal(THREE)
    convert(layout)
    final = layout.root / FINAL
    before = (final.read_bytes(), final.stat().st_mtime_ns, final.stat().st_ino)
    assert conversion.convert_window(layout, PART) is None
    assert (final.read_bytes(), final.stat().st_mtime_ns, final.stat().st_ino) == before


def test_segments_that_are_left_of_a_published_window_are_compared_and_deleted(
    layout: Layout, seal: Seal
) -> None:
    seal([*THREE, Trade("MSFT", 9.0, T, 1.0)])
    text = (layout.root / SEGMENT).read_bytes()
    first = convert(layout)
    final = layout.root / FINAL
    before = (final.read_bytes(), final.stat().st_mtime_ns, final.stat().st_ino)
    (layout.root / SEGMENT).write_bytes(text)
    assert convert(layout) == first
    assert (final.read_bytes(), final.stat().st_mtime_ns, final.stat().st_ino) == before
    assert tree(layout.root) == [FINAL]


def test_segments_that_differ_from_the_published_window_are_an_error_and_stay(
    layout: Layout, seal: Seal
) -> None:
    seal(THREE)
    convert(layout)
    before = (layout.root / FINAL).read_bytes()
    seal(THREE[:2])
    with pytest.raises(ConversionError, match="holds other rows"):
        conversion.convert_window(layout, PART)
    assert tree(layout.root) == [SEGMENT, FINAL]
    assert (layout.root / FINAL).read_bytes() == before


def test_the_same_segments_give_the_same_bytes(layout: Layout, seal: Seal) -> None:
    for trades in (THREE, THREE):
        (layout.root / FINAL).unlink(missing_ok=True)
        seal(trades)
        content = (convert(layout).path).read_bytes()
    assert (layout.root / FINAL).read_bytes() == content


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_damaged_file_is_an_error_until_it_is_overwritten(
    layout: Layout, seal: Seal, size: int
) -> None:
    seal(THREE)
    text = (layout.root / SEGMENT).read_bytes()
    convert(layout)
    final = layout.root / FINAL
    whole = final.read_bytes()
    (layout.root / SEGMENT).write_bytes(text)
    final.write_bytes(whole[:size])
    with pytest.raises(ConversionError):
        conversion.convert_window(layout, PART)
    assert (layout.root / SEGMENT).read_bytes() == text
    conversion.convert_window(layout, PART, overwrite=True)
    assert final.read_bytes() == whole
    assert tree(layout.root) == [FINAL]


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
            conversion.convert_window(layout, PART)
    assert segment.read_bytes() == text
    deleting = step == "deleting the segment"
    assert tree(layout.root) == ([SEGMENT, FINAL] if deleting else [SEGMENT])
    converted = conversion.convert_window(layout, PART)
    assert converted is not None
    assert tree(layout.root) == [FINAL]
    assert [row["price"] for row in rows(converted.path)] == [3.0, 1.5, 2.0]


@SAMPLED
@pytest.mark.parametrize("keeps_csv", [False, True])
def test_killed_at_any_call_the_window_is_published_whole_or_not_and_the_next_run_finishes(
    tmp_path: Path, pick: Pick, keeps_csv: bool
) -> None:
    wanted = {"7203": [8.0], "AAPL": [3.0, 1.5, 2.0], "MSFT": [9.0]}
    trades = [*THREE, Trade("MSFT", 9.0, T, 1.0), Trade("7203", 8.0, T, 1.0)]

    def kill(last: int) -> tuple[Layout, int]:
        """Convert a window until the call ``last``; gives the calls that were left."""
        layout = Layout(tmp_path / f"killed-{last}", keeps_csv=keeps_csv)
        layout.root.mkdir()
        writer = segments.SegmentWriter(layout, PART)
        writer.write(batch_of(trades))
        writer.seal()
        with pytest.MonkeyPatch.context() as patch:
            life = Life(patch, last)
            with contextlib.suppress(Killed):
                conversion.convert_window(layout, PART)
        return layout, life.left

    whole, left = kill(1000)
    assert 10 < 1000 - left < 100
    for last in pick(range(1000 - left)):
        layout, _ = kill(last)
        assert by_price(layout) in ({}, wanted), last
        if not by_price(layout):
            assert len(layout.sealed_segments(PART)) == 3
        conversion.convert_window(layout, PART)
        assert by_price(layout) == wanted, last
        assert [name for name in tree(layout.root) if not name.endswith(".tmp")] == tree(whole.root)


def by_price(layout: Layout) -> dict[str, list[float]]:
    return {ticker: [row[1] for row in rows] for ticker, rows in published(layout.root).items()}


def test_readers_of_the_whole_folder_never_meet_a_half_written_file(
    layout: Layout, seal: Seal, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal(THREE)
    convert(layout)
    late = WindowId(SESSION, "20261123T144000Z_00002")
    seal([Trade("7203", 9.0, T, 1.0)], late)
    read: list[list[list[float]]] = []
    sync = files.sync_file

    def reading(path: Path) -> None:
        """At each step that a conversion has: written, renamed."""
        read.append([sorted(prices) for prices in whole_folder(layout.dataset)])
        sync(path)

    monkeypatch.setattr(files, "sync_file", reading)
    monkeypatch.setattr(pq.ParquetWriter, "close", noticing(pq.ParquetWriter.close, read, layout))
    convert(layout, late)
    before, after = [[1.5, 2.0, 3.0]] * 3, [[1.5, 2.0, 3.0, 9.0]] * 3
    assert read == [before, before, after]


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
    seal(THREE)
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
    conversion.convert_window(layout, PART)
    folders = ["parquet", layout.root.name]  # those that have a new name in them
    assert steps == [
        *(f"sync {name}" for name in folders),
        *["sync tmp", "rename tmp", "sync date=2026-11-23", "delete tmp", "delete csv"],
    ]


def test_a_full_disk_is_told_and_keeps_the_segment(
    layout: Layout, seal: Seal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    seal(THREE)
    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(DiskFull):
        conversion.convert_window(layout, PART)
    assert tree(layout.root) == [SEGMENT]


def test_what_is_written_wrong_is_not_published(
    layout: Layout, seal: Seal, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal(THREE)
    write = pq.ParquetWriter.write_table
    monkeypatch.setattr(
        pq.ParquetWriter, "write_table", lambda self, table, size: write(self, table[1:], size)
    )
    with pytest.raises(ConversionError, match="does not hold the 3 rows"):
        conversion.convert_window(layout, PART)
    assert tree(layout.root) == [SEGMENT]


def test_a_segment_with_rows_of_another_ticker_is_refused(layout: Layout, seal: Seal) -> None:
    seal(THREE)
    path = layout.root / "csv" / "MSFT" / f"{STEM}.csv"
    path.parent.mkdir()
    path.write_text(HEADER + ROW)
    with pytest.raises(ConversionError, match="rows of another ticker"):
        conversion.convert_window(layout, PART)
    assert tree(layout.root) == [SEGMENT, f"csv/MSFT/{STEM}.csv"]


# --- segments that are none ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "does not begin with the header"),
        (HEADER[:-1], "does not begin with the header"),
        (f"a,b\n{ROW}", "does not begin with the header"),
        (HEADER, "rows of another ticker, or none"),
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
        conversion.convert_window(layout, PART)
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
            conversion.convert_window(layout, PART)


# --- the file --------------------------------------------------------------------------------


@SAMPLED
def test_a_flipped_bit_of_any_byte_is_noticed_or_does_no_harm(
    layout: Layout, seal: Seal, pick: Pick
) -> None:
    seal([*THREE, Trade("MSFT", 9.0, T, 1.0)])
    path = convert(layout).path
    whole = path.read_bytes()
    wanted, some_rows = footer.read_windows(path), rows_of_aapl(path)
    by_reader, by_hash, by_statistics = 0, 0, 0
    for position in pick(range(len(whole))):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        try:
            content, windows = hash_windows([path]), footer.read_windows(path)
            found = rows_of_aapl(path)
        except ConversionError:
            by_reader += 1
            continue
        # The header of a page is under no checksum: the hash in the footer is what is left. The
        # name of the file proves the name of the window in the footer.
        if content != windows or windows.keys() != wanted.keys():
            by_hash += 1
        elif footer.has_wrong_statistics(path):
            by_statistics += 1
        else:
            assert (content, found) == (wanted, some_rows), f"byte {position} of {len(whole)}"
    assert by_reader > 0
    assert (by_hash > 0 and by_statistics > 0) or pick is not every


def rows_of_aapl(path: Path) -> list[float]:
    """Read as queries do, by what the footer says of tickers and times."""
    with TradeFileReader(path) as file:
        table = file.read(["price"], tickers=["AAPL"], bounds={"ts_event": (T + 1, T + 3)})
        assert len(list(file.read_heads(1, ["symbol"]))) <= 1
        file.count_trades()
    return list(table["price"].to_pylist())


def test_the_footer_says_what_the_file_is(layout: Layout, seal: Seal) -> None:
    seal(THREE)
    content = content_of(layout)
    converted = convert(layout)
    assert footer.read_windows(converted.path) == {PART: Content(3, content)}
    assert pq.read_metadata(converted.path).metadata == {
        b"stocktrace.windows": f'{{"{SESSION}":{{"{PART.window}":[3,"{content}"]}}}}'.encode(),
        b"stocktrace.version": __version__.encode(),
    }


def content_of(layout: Layout) -> str:
    return checksum.hash_tables(segments.read_segments(layout.sealed_segments(PART))).hash


def test_a_file_without_a_footer_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(ConversionError, match="cannot be read"):
        footer.read_windows(path)


def test_columns_types_and_settings_are_those_that_were_measured(
    layout: Layout, seal: Seal
) -> None:
    seal(THREE)
    converted = convert(layout)
    with pq.ParquetFile(converted.path) as file:
        assert [(field.name, str(field.type), field.nullable) for field in file.schema_arrow] == [
            ("symbol", "string", False),
            ("ts_event", "timestamp[ms, tz=UTC]", False),
            ("ts_recv", "timestamp[us, tz=UTC]", False),
            ("price", "double", False),
            ("volume", "double", False),
            ("conditions", "string", False),
            ("session", "string", False),
            ("window_number", "int32", False),
        ]
        group = file.metadata.row_group(0)
        columns = [group.column(n) for n in range(group.num_columns)]
        assert [column.compression for column in columns] == [
            "UNCOMPRESSED", "ZSTD", "ZSTD", "ZSTD", "ZSTD", "ZSTD", "UNCOMPRESSED", "UNCOMPRESSED",
        ]  # fmt: skip
        assert [set(column.encodings) >= {"DELTA_BINARY_PACKED"} for column in columns] == [
            False, True, True, False, False, False, False, False,
        ]  # fmt: skip
        assert [column.has_dictionary_page for column in columns] == [
            True, False, False, True, True, True, True, True,
        ]  # fmt: skip
        assert [column.is_stats_set for column in columns] == [
            True, True, True, False, False, False, False, False,
        ]  # fmt: skip
        assert b"ARROW:schema" not in file.metadata.metadata


def test_pages_carry_checksums(layout: Layout, seal: Seal) -> None:
    seal(THREE)
    converted = convert(layout)
    with pq.ParquetFile(converted.path) as file:
        column = file.metadata.row_group(0).column(3)
        end = column.data_page_offset + column.total_compressed_size
        end -= column.data_page_offset - column.dictionary_page_offset
    damaged = bytearray(converted.path.read_bytes())
    damaged[end - 1] ^= 1  # the last byte of the last page of prices
    converted.path.write_bytes(damaged)
    with pytest.raises(ConversionError, match=r"crc|CRC"):
        rows(converted.path)


def trades_of(count: int, tickers: Sequence[str]) -> tuple[dict[str, list[Any]], list[Trade]]:
    frames = [frame for _, frame in synthetic_frames(tickers, count)]
    trades = [trade for message in protocol.decode(frames).rows.messages() for trade in message]
    return sent(frames), trades


def test_rows_are_gathered_into_row_groups_and_pages_not_cut_by_blocks_of_csv(
    layout: Layout, seal: Seal, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, trades = trades_of(30_000, ["AAPL"])
    monkeypatch.setattr(segments, "_BLOCK_BYTES", 1 << 16)
    monkeypatch.setattr(conversion, "WINDOW_FORMAT", FileFormat(3, 10_000))
    seal(trades)
    converted = convert(layout)
    with pq.ParquetFile(converted.path) as file:
        groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    assert sum(groups) == 30_000
    assert max(groups) <= 10_000
    assert len(groups) <= 6
    assert published(layout.root) == wanted


def test_a_large_segment_is_one_row_group(layout: Layout, seal: Seal) -> None:
    wanted, trades = trades_of(60_000, ["AAPL"])  # some 4 MB of CSV: several blocks
    seal(trades)
    converted = convert(layout)
    with pq.ParquetFile(converted.path) as file:
        assert file.num_row_groups == 1
    assert published(layout.root) == wanted
    assert converted.size / converted.rows["AAPL"] < 8  # bytes a trade; 70 in CSV


def test_the_hash_does_not_depend_on_how_rows_are_cut(layout: Layout, seal: Seal) -> None:
    (table,) = segments.read_segments(seal(THREE))
    whole = checksum.hash_tables([table])
    cut = [table.slice(0, 1), table.slice(1, 0), table.slice(1, 2)]
    assert checksum.hash_tables(cut) == whole
    other = [table.slice(1, 1), table.slice(0, 1), table.slice(2, 1)]
    assert checksum.hash_tables(other) != whole


@pytest.mark.parametrize("name", ["symbol", "conditions"])
def test_the_hash_depends_on_where_texts_begin_and_end(name: str) -> None:
    def rows_of(*texts: str) -> pa.Table:
        columns = [
            pa.array(texts if field.name == name else [0] * len(texts), field.type)
            if field.name == name or not pa.types.is_string(field.type)
            else pa.array([""] * len(texts))
            for field in arrow_schema.TRADE_SCHEMA
        ]
        return pa.Table.from_arrays(columns, schema=arrow_schema.TRADE_SCHEMA)

    one, other = rows_of("1", "2 12"), rows_of("12", " 12")
    assert checksum.hash_tables([one]) != checksum.hash_tables([other])


def test_no_condition_is_the_empty_text_and_never_null(layout: Layout, seal: Seal) -> None:
    seal([Trade("AAPL", 1.0, T, 1.0, codes) for codes in (None, (), ("NA",))])
    converted = convert(layout)
    assert [row["conditions"] for row in rows(converted.path)] == ["", "", "NA"]


def test_windows_of_two_days_go_to_two_folders(layout: Layout, seal: Seal) -> None:
    for window in ("20261123T235900Z_00001", "20261124T000000Z_00002"):
        seal(THREE, WindowId(SESSION, window))
        convert(layout, WindowId(SESSION, window))
    assert tree(layout.root) == [
        f"parquet/date=2026-11-23/{SESSION}-20261123T235900Z_00001.parquet",
        f"parquet/date=2026-11-24/{SESSION}-20261124T000000Z_00002.parquet",
    ]


def test_five_hundred_tickers_are_one_file_with_few_row_groups(layout: Layout, seal: Seal) -> None:
    tickers = [f"T{number}" for number in range(500)]
    seal([Trade(ticker, price, T, 1.0) for price in (1.0, 2.0) for ticker in tickers])
    converted = convert(layout)
    assert converted.rows == dict.fromkeys(sorted(tickers), 2)
    assert pq.read_metadata(converted.path).num_row_groups == 1
