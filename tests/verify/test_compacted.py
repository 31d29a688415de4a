"""A compacted date is compared with the tapes of all its windows, and rebuilt from them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stocktrace.sessions.report import SessionReport
from stocktrace.store import compaction, footer, trade_file
from stocktrace.store.arrow_schema import FILE_SCHEMA
from stocktrace.store.compaction import compact_date, finish_swap
from stocktrace.store.dataset import find_published, hash_windows
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.trade_file import DATE_FORMAT, TradeFileReader, with_texts, write_trade_files
from stocktrace.verify import dates_of_sessions, unknown_files, verify
from stocktrace.verify import published as verified
from tests import remains
from tests.conftest import NOON, SESSION
from tests.opened import opened_below
from tests.remains import PARTS, PRICES, prices
from tests.sampling import SAMPLED, Pick
from tests.tables import put, table_of
from tests.verify.conftest import killed_at_calls

DATE = "2026-11-23"
DAY = f"parquet/date={DATE}/day-00001.parquet"
#: A window of a session that has neither a report nor a tape.
OTHER = WindowId("20261123T100000Z_bbbbbb", "20261123T100000Z_00001")


def compact(layout: Layout) -> None:
    assert compact_date(layout, DATE) is not None
    assert finish_swap(layout, DATE)


@pytest.fixture
def layout(a_whole_session: Layout, tmp_path: Path) -> Layout:
    """A compacted session."""
    layout = remains.copy(a_whole_session, tmp_path / "data")
    compact(layout)
    return layout


def look(layout: Layout, *, repair: bool = False) -> list[tuple[str, str, bool]]:
    return [
        (str(one.path.relative_to(layout.root)), one.problem, one.repaired)
        for one in verify(layout, SESSION, repair=repair)
    ]


def day(layout: Layout) -> Path:
    return layout.root / DAY


def rewrite(
    layout: Layout,
    change: Callable[[pa.Table], pa.Table] = lambda table: table,
    windows: Callable[[footer.Windows], footer.Windows] = lambda windows: windows,
) -> None:
    """Another file in the place of the compacted one."""
    listed = windows(footer.read_windows(day(layout)))
    with TradeFileReader(day(layout)) as file:
        table = change(with_texts([file.read()], FILE_SCHEMA.names))
    write_trade_files([day(layout)], [table], lambda: listed, rows=len(table), form=DATE_FORMAT)


def add_other(layout: Layout, ticker: str, count: int) -> None:
    """Compact ``OTHER``, too."""
    put(layout, ticker, OTHER, table_of([(NOON // 10**6, n + 1.0, 1.0, "1") for n in range(count)]))
    day(layout).rename(day(layout).with_name("day-00000.parquet"))
    compact(layout)


def damage_page(layout: Layout, group: int = 0, column: int = 3) -> None:
    """Change one bit of the prices in a row group."""
    with pq.ParquetFile(day(layout)) as file:
        chunk = file.metadata.row_group(group).column(column)
    begin = chunk.dictionary_page_offset or chunk.data_page_offset
    flip(day(layout), begin + chunk.total_compressed_size - 2)


def damage_footer(layout: Layout) -> None:
    """Change one bit of the length of the footer."""
    flip(day(layout), -7)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 8
    path.write_bytes(data)


def is_of(table: pa.Table, part: WindowId) -> list[bool]:
    return [number == part.number for number in table["window_number"].to_pylist()]


def without_a_row(table: pa.Table) -> pa.Table:
    """The first row of the second window is missing."""
    at = is_of(table, PARTS[1]).index(True)
    return pa.concat_tables([table.slice(0, at), table.slice(at + 1)])


def without_a_window(table: pa.Table) -> pa.Table:
    return table.filter(pa.array([not is_second for is_second in is_of(table, PARTS[1])]))


def in_another_order(table: pa.Table) -> pa.Table:
    """The first two rows, of the third window, change places."""
    return table.take([1, 0, *range(2, len(table))])


def with_another_price(table: pa.Table) -> pa.Table:
    numbers = [*table["price"].to_pylist()]
    numbers[0] += 1
    at = table.schema.get_field_index("price")
    return table.set_column(at, table.schema.field(at), pa.array(numbers))


def of_another_window(table: pa.Table) -> pa.Table:
    """The last row is from a window that no footer lists."""
    numbers = [*table["window_number"].to_pylist()[:-1], 7]
    at = table.schema.get_field_index("window_number")
    return table.set_column(at, table.schema.field(at), pa.array(numbers, pa.int32()))


def unlisted(windows: footer.Windows) -> footer.Windows:
    return {window: content for window, content in windows.items() if window != PARTS[1]}


def another_hash(windows: footer.Windows) -> footer.Windows:
    return {**windows, PARTS[1]: replace(windows[PARTS[1]], hash="0" * 32)}


def test_an_intact_date_verifies_and_nothing_is_changed(layout: Layout) -> None:
    before = remains.snapshot(layout)
    assert look(layout) == look(layout, repair=True) == []
    assert list(unknown_files(layout)) == []
    assert remains.snapshot(layout) == before
    assert dates_of_sessions(layout) == {SESSION: {DATE}}


WRONGS: dict[str, tuple[Callable[[Layout], object], str]] = {
    "a row is missing": (
        lambda layout: rewrite(layout, without_a_row),
        f"of window {PARTS[1].stem} (3) than the 4 of {{tape}}: AAPL 1 instead of 2",
    ),
    "a window is missing": (
        lambda layout: rewrite(layout, without_a_window),
        "(0) than the 4 of {tape}: AAPL 0 instead of 2, MSFT 0 instead of 2",
    ),
    "rows are in another order": (
        lambda layout: rewrite(layout, in_another_order),
        f"has other trades of window {PARTS[2].stem} (4) than the 4 of ",
    ),
    "a price is another": (
        lambda layout: rewrite(layout, with_another_price),
        f"has other trades of window {PARTS[2].stem} (4) than the 4 of ",
    ),
    "the footer has another hash": (
        lambda layout: rewrite(layout, windows=another_hash),
        f"its footer does not match the content of window {PARTS[1].stem}",
    ),
    "the footer does not list a window": (
        lambda layout: rewrite(layout, windows=unlisted),
        f"has 4 rows of window 2 of {SESSION}, which its footer does not list",
    ),
    "a page is damaged": (damage_page, "CRC checksum verification failed"),
    "the footer is damaged": (damage_footer, "cannot be read"),
    "the file is empty": (lambda layout: day(layout).write_bytes(b""), "cannot be read"),
}


@pytest.mark.parametrize("wrong", WRONGS)
def test_a_wrong_date_is_found_and_rebuilt_from_the_tapes(layout: Layout, wrong: str) -> None:
    damage, wanted = WRONGS[wrong]
    damage(layout)
    before = remains.snapshot(layout)
    (path, problem, repaired), *others = look(layout)
    assert {other for other, _, _ in others} <= {f"sessions/{SESSION}.json"}
    assert (path, repaired) == (DAY, False)
    assert wanted.format(tape=layout.archived_tape(PARTS[1])) in problem
    assert remains.snapshot(layout) == before
    assert look(layout, repair=True) == [(DAY, problem, True)]
    assert look(layout) == []
    assert list(unknown_files(layout)) == []
    assert prices(layout) == PRICES
    assert not day(layout).exists()
    assert [*layout.root.glob(".scratch.*"), *layout.root.glob("compacting/date=*")] == []


def test_a_window_that_is_missing_beside_a_compacted_date_gets_a_file_of_its_own(
    layout: Layout,
) -> None:
    rewrite(layout, without_a_window, unlisted)
    own = layout.window_file(PARTS[1])
    found = [(str(own.relative_to(layout.root)), "is missing", False)]
    report = f"sessions/{SESSION}.json"
    assert look(layout) == [
        *found,
        (report, "AAPL: 6 parquet, on disk 4", False),
        (report, "MSFT: 4 parquet, on disk 2", False),
    ]
    assert look(layout, repair=True) == [(path, problem, True) for path, problem, _ in found]
    assert look(layout) == []
    assert {name: sorted(rows) for name, rows in prices(layout).items()} == PRICES


# --- what is not repaired -----------------------------------------------------------------------


def lose_tape(layout: Layout) -> None:
    layout.archived_tape(PARTS[1]).unlink()


def cut_tape(layout: Layout) -> None:
    tape = layout.archived_tape(PARTS[1])
    tape.write_bytes(tape.read_bytes()[:-3])


def shorten_tape(layout: Layout) -> None:
    remains.shorten(layout, PARTS[1], b'"p":7,')


@pytest.mark.parametrize("damage", [damage_page, damage_footer])
@pytest.mark.parametrize("spoil", [lose_tape, cut_tape, shorten_tape])
def test_a_damaged_date_is_not_rebuilt_without_all_its_tapes(
    layout: Layout, damage: Callable[[Layout], None], spoil: Callable[[Layout], None]
) -> None:
    damage(layout)
    spoil(layout)
    before = remains.snapshot(layout)
    found = look(layout, repair=True)
    assert not any(repaired for _, _, repaired in found)
    (problem,) = [problem for path, problem, _ in found if path == DAY]
    assert "; it cannot be repaired: " in problem
    assert PARTS[1].window in problem.partition("; it cannot be repaired: ")[2]
    assert remains.snapshot(layout) == before


def test_rows_stay_if_the_tape_has_less_than_footer_and_books(layout: Layout) -> None:
    tape = remains.shorten(layout, PARTS[1], b'"p":7,')
    before = remains.snapshot(layout)
    ((path, problem, repaired),) = look(layout, repair=True)
    assert (path, repaired) == (str(tape.relative_to(layout.root)), False)
    assert problem.endswith("nothing is repaired from it")
    assert remains.snapshot(layout) == before


def test_rows_that_no_tape_has_are_never_removed(layout: Layout) -> None:
    rewrite(layout, of_another_window)
    before = remains.snapshot(layout)
    found = look(layout, repair=True)
    assert not any(repaired for _, _, repaired in found)
    assert {path for path, _, _ in found} >= {DAY}
    assert any(f"No tape has window 7 of {SESSION}" in problem for _, problem, _ in found)
    assert remains.snapshot(layout) == before


def test_a_footer_that_calls_a_window_by_another_name_is_found(layout: Layout) -> None:
    other = WindowId(SESSION, "20261123T143101Z_00002")
    rewrite(layout, windows=lambda windows: {**unlisted(windows), other: windows[PARTS[1]]})
    before = remains.snapshot(layout)
    found = look(layout, repair=True)
    assert not any(repaired for _, _, repaired in found)
    assert any(
        problem.startswith(f"its footer calls window {PARTS[1].stem} {other.stem}")
        for _, problem, _ in found
    )
    assert remains.snapshot(layout) == before


def test_without_tapes_a_date_is_checked_against_its_footer(layout: Layout) -> None:
    shutil.rmtree(layout.tapes(SESSION))
    rewrite(layout, without_a_row)
    before = remains.snapshot(layout)
    found = look(layout, repair=True)
    assert (DAY, f"its footer does not match the content of window {PARTS[1].stem}", False) in found
    assert not any(repaired for _, _, repaired in found)
    assert remains.snapshot(layout) == before


def test_an_intact_date_is_not_replaced_from_a_plain_tape(layout: Layout) -> None:
    layout.archived_tape(PARTS[1]).unlink()
    tape = remains.write_tape(layout, PARTS[1], remains.ENTRIES[1])
    tape.write_bytes(tape.read_bytes().replace(b'"p":6,', b'"p":2,'))
    before = remains.snapshot(layout)
    ((path, problem, repaired),) = look(layout, repair=True)
    assert (path, repaired) == (str(tape.relative_to(layout.root)), False)
    assert problem == (
        f"{day(layout)}, which is intact, has other trades of window {PARTS[1].stem} (4) "
        "than the 4 here: nothing is repaired from it"
    )
    assert remains.snapshot(layout) == before


# --- the windows of others ----------------------------------------------------------------------


def test_windows_without_a_tape_are_kept_when_another_is_rebuilt(layout: Layout) -> None:
    add_other(layout, "MSFT", 5)
    rewrite(layout, in_another_order)
    assert [repaired for _, _, repaired in look(layout, repair=True)] == [True]
    assert look(layout) == []
    assert prices(layout) == PRICES | {"MSFT": [1, 2, 3, 4, 5, *PRICES["MSFT"]]}
    published = find_published(layout, OTHER)
    assert published is not None
    assert published.paths == (day(layout).with_name("day-00002.parquet"),)


def test_intact_rows_of_a_damaged_file_are_kept_without_their_tape(layout: Layout) -> None:
    add_other(layout, "ZM", 10_000)  # a row group of its own
    damage_page(layout)
    assert [repaired for _, _, repaired in look(layout, repair=True)] == [True]
    assert look(layout) == []
    assert prices(layout) == PRICES | {"ZM": [n + 1.0 for n in range(10_000)]}


def test_a_file_is_not_rebuilt_if_the_damaged_rows_have_no_tape(layout: Layout) -> None:
    add_other(layout, "ZM", 10_000)
    damage_page(layout, group=1, column=2)
    before = remains.snapshot(layout)
    ((path, problem, repaired),) = look(layout, repair=True)
    assert (path, repaired) == (DAY, False)
    assert problem.endswith(
        f"; it cannot be repaired: Window {OTHER.stem} has no intact archived tape."
    )
    assert remains.snapshot(layout) == before


def test_late_windows_are_compacted_when_their_date_is_rebuilt(layout: Layout) -> None:
    put(layout, "ZM", OTHER, table_of([(NOON // 10**6, 3.0, 1.0, "1")]))
    damage_page(layout)
    assert [repaired for _, _, repaired in look(layout, repair=True)] == [True]
    assert [path.name for path in layout.date_folder(DATE).iterdir()] == ["day-00002.parquet"]
    assert prices(layout) == PRICES | {"ZM": [3.0]}


# --- kills --------------------------------------------------------------------------------------


@SAMPLED
def test_a_repair_that_was_killed_at_any_call_is_finished_by_the_next(
    layout: Layout, tmp_path: Path, pick: Pick
) -> None:
    rewrite(layout, in_another_order)
    repairs = killed_at_calls(layout, tmp_path, pick, lambda killed: look(killed, repair=True))
    for call, killed in repairs:
        assert {name: sorted(rows) for name, rows in prices(killed).items()} == PRICES, call
        assert all(repaired for _, _, repaired in look(killed, repair=True)), call
        assert look(killed) == [], call
        assert prices(killed) == PRICES, call
        finish_swap(killed, DATE)  # as the next compaction does
        assert not list(killed.root.glob("compacting/date=*")), call


# --- several files ------------------------------------------------------------------------------


def test_a_date_of_several_files_is_read_as_one(
    a_whole_session: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "MAX_BYTES", 1)
    monkeypatch.setattr(trade_file, "_SHARED_ROWS", (1, 1))
    layout = remains.copy(a_whole_session, tmp_path / "data")
    compact(layout)
    names = ["day-00001-002.parquet", "day-00001-003.parquet", "day-00001.parquet"]
    assert sorted(path.name for path in layout.date_folder(DATE).iterdir()) == names
    assert look(layout) == []
    second = layout.date_folder(DATE) / names[0]
    whole = second.read_bytes()
    for spoil in (lambda: flip(second, -7), lambda: second.write_bytes(whole[:-9])):
        spoil()
        assert [(path, repaired) for path, _, repaired in look(layout)] == [
            (str(second.relative_to(layout.root)), False)
        ]
    second.unlink()
    found = look(layout)
    assert [path for path, _, _ in found if path == DAY] == [DAY] * 3
    assert all(repaired for _, _, repaired in look(layout, repair=True))
    assert look(layout) == []
    assert prices(layout) == PRICES


def test_trades_that_are_in_two_files_are_found(layout: Layout) -> None:
    published = find_published(layout, PARTS[1])
    assert published is not None
    (rows,) = published.read()
    own = layout.window_file(PARTS[1])
    put(layout, "MSFT", PARTS[1], rows.filter(pa.compute.equal(rows["symbol"], "MSFT")))
    put(layout, "AAPL", PARTS[1], rows.filter(pa.compute.equal(rows["symbol"], "AAPL")))
    before = remains.snapshot(layout)
    problem = f"has trades of window {PARTS[1].stem} that {own} has too: remove one of the files"
    assert look(layout) == [(DAY, problem, False)]
    assert remains.snapshot(layout) == before
    name = str(own.relative_to(layout.root))
    problem = f"had only trades that {day(layout)} has too"
    assert look(layout, repair=True) == [(name, problem, True)]
    assert look(layout) == []
    put(layout, "MSFT", PARTS[1], rows.filter(pa.compute.equal(rows["symbol"], "MSFT")))
    look(layout, repair=True)
    assert own.exists(), "its rows are others"


def test_a_compacted_file_in_another_folder_is_found(layout: Layout) -> None:
    other = layout.date_folder("2026-11-24") / "day-00001.parquet"
    other.parent.mkdir()
    day(layout).rename(other)
    assert [(one.path, one.problem) for one in unknown_files(layout)] == [
        (other, "is in the wrong folder: remove it")
    ]


# --- the report ---------------------------------------------------------------------------------


def test_a_session_alone_known_by_a_compacted_date_is_verified(layout: Layout) -> None:
    layout.report(SESSION).unlink()
    shutil.rmtree(layout.tapes(SESSION))
    assert dates_of_sessions(layout) == {SESSION: {DATE}}
    assert [problem for _, problem, _ in look(layout)] == [
        "the report is missing or cannot be read: run `stocktrace recover`"
    ]


def test_a_report_counts_the_rows_of_a_compacted_date(layout: Layout) -> None:
    report = SessionReport.read(layout.report(SESSION))
    report.per_ticker["AAPL"].parquet += 1
    report.files += 1  # as the session published them: compacted, they are fewer
    report.write(layout.report(SESSION))
    path = f"sessions/{SESSION}.json"
    assert (path, "AAPL: 7 parquet, on disk 6", False) in look(layout)
    assert all(repaired for _, _, repaired in look(layout, repair=True))
    assert look(layout) == []


# --- the cost -----------------------------------------------------------------------------------


def test_the_files_of_a_date_are_read_once_for_all_its_windows(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def count(paths: Sequence[Path], on_damage: Any) -> Any:
        read.extend(paths)
        return hash_windows(paths, on_damage)

    monkeypatch.setattr(verified, "hash_windows", count)
    assert look(layout) == []
    assert read == [day(layout)]


@pytest.mark.parametrize("compacted", [False, True])
def test_a_session_is_verified_without_opening_the_files_of_others(
    a_whole_session: Layout, tmp_path: Path, compacted: bool
) -> None:
    layout = remains.copy(a_whole_session, tmp_path / "data")
    source = layout.window_file(PARTS[0])
    if compacted:
        compact(layout)
        source = day(layout)
    own = set(layout.dataset.rglob("*.parquet"))
    folders = [layout.date_folder(f"2025-{month:02}-{n:02}") for month in (1, 2) for n in range(28)]
    for folder in [layout.date_folder(DATE), *folders]:
        folder.mkdir(exist_ok=True)
        for number in range(1, 51):
            other = WindowId(OTHER.session, f"20261123T100000Z_{number:05}")
            os.link(source, folder / f"{other.stem}.parquet")
    with opened_below([layout.dataset]) as opened:
        assert look(layout) == []
    assert opened == {layout.date_folder(DATE), *own}
