from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from stocktrace.intervals import CoverageInterval
from stocktrace.maintenance.convert import convert_segments
from stocktrace.record.publish import rebuild_window
from stocktrace.sessions.report import SessionReport
from stocktrace.store import audit, footer
from stocktrace.store.arrow_schema import FILE_SCHEMA
from stocktrace.store.audit import AuditLog
from stocktrace.store.checksum import Content
from stocktrace.store.coverage import write_coverage
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.quarantine import QuarantinedRow, QuarantineEncoder, parse_quarantine
from stocktrace.store.trade_file import (
    WINDOW_FORMAT,
    TradeFileReader,
    with_texts,
    write_trade_files,
)
from stocktrace.verify import Finding, dates_of_sessions, unknown_files, verify
from stocktrace.verify.window import _read_refused
from tests import remains
from tests.conftest import NOON, SESSION, Scenario, Studio, all_of, connected, frame, published
from tests.remains import PARTS, PRICES, SECOND, shorten, snapshot, stamp
from tests.sampling import SAMPLED, Pick
from tests.verify.conftest import cut_off, killed_at_calls

DATE = "2026-11-23"


@pytest.fixture
def layout(a_whole_session: Layout, tmp_path: Path) -> Layout:
    return remains.copy(a_whole_session, tmp_path / "data")


def look(layout: Layout, *, repair: bool = False) -> list[tuple[str, str, bool]]:
    """The findings: file, problem, whether it was repaired."""
    dates = dates_of_sessions(layout).get(SESSION, set())
    return [
        (str(one.path.relative_to(layout.root)), one.problem, one.repaired)
        for one in [*unknown_files(layout), *verify(layout, SESSION, dates, repair=repair)]
    ]


def files_of(layout: Layout) -> set[str]:
    return {path for path, _, _ in look(layout)}


def final(layout: Layout, part: WindowId = PARTS[1]) -> Path:
    return layout.window_file(part)


def rewrite(
    path: Path, change: Callable[[pa.Table], pa.Table], windows: footer.Windows | None = None
) -> None:
    """Another file of trades in the place of one; its footer as it was, or with ``windows``."""
    listed = windows or footer.read_windows(path)
    with TradeFileReader(path) as file:
        table = change(with_texts([file.read()], FILE_SCHEMA.names))
    write_trade_files([path], [table], lambda: listed, rows=len(table), form=WINDOW_FORMAT)


def alter_report(layout: Layout, change: Callable[[dict[str, Any]], Any]) -> None:
    path = layout.report(SESSION)
    report = json.loads(path.read_text())
    change(report)
    path.write_text(json.dumps(report))


def vouch(layout: Layout) -> None:
    """Let the audit log record the hashes of the report as it is."""
    report = SessionReport.read(layout.report(SESSION))
    AuditLog(layout.audit, SESSION)("repair", report=report.digests())


# --- what is well ------------------------------------------------------------------------------


def test_an_intact_session_verifies(layout: Layout) -> None:
    before = snapshot(layout)
    assert look(layout) == []
    assert look(layout, repair=True) == []
    assert snapshot(layout) == before
    assert [*dates_of_sessions(layout)] == [SESSION]


def test_a_capture_with_refused_rows_in_many_batches_verifies(
    studio: Studio,
) -> None:
    """The order of a quarantine is that of batches, which a rebuild does not know."""

    def scenario() -> Scenario:
        yield connected
        total = 0
        for number in range(4):
            exchange.send_raw(b"no JSON %d" % number)
            exchange.send_raw(frame(("MSFT", -1 - number), ("AAPL", 1 + number)))
            exchange.send_raw(frame(("AAPL", -1 - number)))
            total += 3
            yield lambda status, total=total: status.trades >= total and not status.backlog  # type: ignore[misc]

    with studio.exchange() as exchange:
        report = studio.record(exchange, ["AAPL", "MSFT"], scenario(), flush_interval="10ms")
    assert report.books.quarantined == 8
    layout = Layout(studio.data_dir)
    assert list(verify(layout, report.session)) == []


def test_rows_whose_frame_is_in_another_line_than_on_the_tape_verify(
    studio: Studio,
) -> None:
    """Live, a row that could not be decoded comes before those that the schema refuses."""
    raw = frame(*[("AAPL", -1), ("MSFT", -1), ("AAPL", 7)] * 20).replace(b'"p":7', b'"p":"7"')

    def scenario() -> Scenario:
        yield connected
        exchange.send_raw(raw)
        yield all_of(exchange)

    with studio.exchange() as exchange:
        report = studio.record(exchange, ["AAPL", "MSFT"], scenario())
    assert report.books.quarantined == 60
    layout = Layout(studio.data_dir)
    (path,) = layout.root.glob("quarantine/*.jsonl")
    first, *others = path.read_text().splitlines()
    assert '"p":"7"' in first.partition('"frame":')[0]
    assert not any('"frame":' in line for line in others)
    assert list(verify(layout, report.session)) == []


def of_an_earlier_version(layout: Layout) -> Path:
    """The quarantine with the frame in each line, and no id of one."""
    path = layout.quarantine(PARTS[0])
    path.write_text(
        "".join(each.line() for each in parse_quarantine(path.read_text().splitlines()))
    )
    assert "frame_id" not in path.read_text()
    return path


def test_a_quarantine_of_an_earlier_version_verifies(layout: Layout) -> None:
    before = layout.quarantine(PARTS[0]).read_text()
    path = of_an_earlier_version(layout)
    alter_report(layout, lambda report: report.pop("hashes"))  # as that version wrote it
    layout.audit.unlink()  # that of that version has no hashes of the report
    assert path.read_text() != before
    assert look(layout) == []
    path.write_text(path.read_text().replace("-4", "-5"))
    ((damaged, problem, _),) = look(layout)
    assert (damaged, problem[:12]) == (QUARANTINE, "differs from")
    assert look(layout, repair=True) == [(damaged, problem, True)]
    assert path.read_text() == before


@SAMPLED
@pytest.mark.parametrize("old", [False, True])
def test_each_flipped_bit_of_a_quarantine_is_found(tmp_path: Path, old: bool, pick: Pick) -> None:
    path = tmp_path / "w.jsonl"
    some = [QuarantinedRow(NOON, raw, {"s": "\u00e9"}, "r") for raw in (b"one", b"two\xff", b"one")]
    lines = [each.line() for each in some] if old else QuarantineEncoder().encode(some)
    whole = "".join(lines).encode()
    path.write_bytes(whole)
    wanted = _read_refused(path)
    assert wanted is not None
    for at, bit in itertools.product(pick(range(len(whole))), range(8)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        assert _read_refused(path) != wanted, (at, bit)
    for at in pick(range(len(whole))):
        path.write_bytes(whole[:at])
        assert _read_refused(path) != wanted, at


def test_a_capture_that_was_disconnected_verifies(studio: Studio) -> None:
    def scenario() -> Scenario:
        yield from cut_off(exchange)
        exchange.send_raw(frame(("AAPL", 2)))
        yield all_of(exchange)

    quick: dict[str, Any] = {"backoff_base": "10ms", "backoff_floor": "10ms", "backoff_cap": "20ms"}
    with studio.exchange() as exchange:
        report = studio.record(exchange, ["AAPL"], scenario(), **quick)
    layout = Layout(studio.data_dir)
    assert len(report.outages) == 1
    assert list(verify(layout, report.session)) == []
    # From the tape it is told as it was live, to the last moment.
    before = snapshot(layout)
    for path in layout.root.glob("coverage/*/*.parquet"):
        path.unlink()
    assert [one.repaired for one in verify(layout, report.session, repair=True)] == [True]
    assert snapshot(layout) == before


def test_gaps_of_a_running_session_are_not_requested(layout: Layout) -> None:
    from stocktrace.store import lock

    with lock.hold_lock(layout.lock(SESSION), {}):
        assert [*dates_of_sessions(layout)] == []


# --- what can be wrong, and is mended from the tape --------------------------------------------


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def one_price_changed(table: pa.Table) -> pa.Table:
    prices = table["price"].to_pylist()
    prices[0] += 0.01
    at = table.schema.get_field_index("price")
    return table.set_column(at, table.schema.field(at), pa.array(prices, pa.float64()))


def of_another_ticker(table: pa.Table) -> pa.Table:
    symbols = [*table["symbol"].to_pylist()[:-1], "TSLA"]
    return table.set_column(0, table.schema.field(0), pa.array(symbols))


def of_another_session(table: pa.Table) -> pa.Table:
    at = table.schema.get_field_index("session")
    sessions = [*table["session"].to_pylist()[:-1], "20261123T100000Z_bbbbbb"]
    return table.set_column(at, table.schema.field(at), pa.array(sessions))


def flip_in_page(path: Path) -> None:
    with pq.ParquetFile(path) as file:
        column = file.metadata.row_group(0).column(2)
    begin = column.dictionary_page_offset or column.data_page_offset
    data = bytearray(path.read_bytes())
    data[begin + column.total_compressed_size - 2] ^= 4
    path.write_bytes(data)


def damage_quarantine(layout: Layout) -> None:
    path = layout.quarantine(PARTS[0])
    path.write_text(path.read_text().replace("-4", "-5"))


def sealed_with_another_price(layout: Layout) -> None:
    final(layout).unlink()
    rebuild_window(layout, PARTS[1])
    segment = layout.csv("AAPL", PARTS[1])
    segment.write_text(segment.read_text().replace(",5,", ",6,", 1))


def list_again(layout: Layout, change: Callable[[Content], Content], part: WindowId) -> None:
    """A file whose footer says something else than it did, of ``part``."""
    (content,) = footer.read_windows(final(layout)).values()
    rewrite(final(layout), lambda table: table, {part: change(content)})


def with_another_type(layout: Layout) -> None:
    with pq.ParquetFile(final(layout)) as file:
        table, metadata = file.read(), file.metadata.metadata
    number = table.schema.get_field_index("window_number")
    table = table.set_column(number, "window_number", table["window_number"].cast("int64"))
    pq.write_table(table.replace_schema_metadata(metadata), final(layout))


def with_wrong_statistics(layout: Layout) -> None:
    """The last ticker of a row group is another one, in the footer only."""
    text = final(layout).read_bytes()
    begin = len(text) - 8 - int.from_bytes(text[-8:-4], "little")
    assert b"MSFT" in text[begin:]
    final(layout).write_bytes(text[:begin] + text[begin:].replace(b"MSFT", b"MSFS"))


PARQUET = f"parquet/date={DATE}/{PARTS[1].stem}.parquet"
REPORT = f"sessions/{SESSION}.json"
COVERAGE = f"coverage/date={DATE}/{SESSION}.parquet"
QUARANTINE = f"quarantine/{PARTS[0].stem}.jsonl"
WRONGS: dict[str, tuple[Callable[[Layout], Any], str, str]] = {
    "a file is gone": (lambda layout: final(layout).unlink(), PARQUET, "is missing"),
    "a file is cut short": (lambda layout: cut_short(final(layout)), PARQUET, "cannot be read"),
    "a file is empty": (
        lambda layout: final(layout).write_bytes(b""),
        PARQUET,
        "cannot be read",
    ),
    "a bit of a page is flipped": (
        lambda layout: flip_in_page(final(layout)),
        PARQUET,
        "cannot be read",
    ),
    "a price is another": (
        lambda layout: rewrite(final(layout), one_price_changed),
        PARQUET,
        "has other trades (4) than the 4 of ",
    ),
    "a row is missing": (
        lambda layout: rewrite(final(layout), lambda table: table.slice(1)),
        PARQUET,
        f"(3) than the 4 of {{tapes}}/{PARTS[1].window}.tape.zst: AAPL 1 instead of 2",
    ),
    "a row is of another ticker": (
        lambda layout: rewrite(final(layout), of_another_ticker),
        PARQUET,
        ": MSFT 1 instead of 2, TSLA 1 instead of 0",
    ),
    "a row is of another session": (
        lambda layout: rewrite(final(layout), of_another_session),
        PARQUET,
        "has 1 row of window 2 of 20261123T100000Z_bbbbbb, which its footer does not list",
    ),
    "a row is there twice": (
        lambda layout: rewrite(final(layout), lambda table: pa.concat_tables([table, table])),
        PARQUET,
        "has other trades (8) than the 4",
    ),
    "rows are in another order": (
        lambda layout: rewrite(final(layout, PARTS[0]), lambda table: table.take([1, 0, 2, 3])),
        PARQUET.replace(PARTS[1].stem, PARTS[0].stem),
        "has other trades (4) than the 4",
    ),
    "a column has another name": (
        lambda layout: pq.write_table(
            pq.ParquetFile(final(layout)).read().rename_columns(list("abcdefgh")), final(layout)
        ),
        PARQUET,
        "does not list its windows",
    ),
    "the footer tells another content": (
        lambda layout: list_again(layout, lambda one: replace(one, hash="0" * 32), PARTS[1]),
        PARQUET,
        "its footer does not match its content",
    ),
    "the footer tells another number of rows": (
        lambda layout: list_again(layout, lambda one: replace(one, rows=5), PARTS[1]),
        PARQUET,
        "its footer does not match its content",
    ),
    "the footer tells another window": (
        lambda layout: list_again(layout, lambda one: one, PARTS[2]),
        PARQUET,
        "its footer names another session or window",
    ),
    "the footer tells another time of its window": (
        lambda layout: list_again(
            layout, lambda one: one, WindowId(SESSION, "20261123T143101Z_00002")
        ),
        PARQUET,
        "its footer names another session or window",
    ),
    "the footer tells what is no window": (
        lambda layout: list_again(layout, lambda one: one, WindowId(SESSION, "x")),
        PARQUET,
        "does not list its windows",
    ),
    "a column has another type": (with_another_type, PARQUET, "has unexpected columns"),
    "the footer has wrong statistics": (with_wrong_statistics, PARQUET, "wrong statistics"),
    "a segment holds another price": (
        sealed_with_another_price,
        f"csv/AAPL/{PARTS[1].stem}.csv",
        "differs from",
    ),
    "a refused row is another": (damage_quarantine, QUARANTINE, "differs from"),
    "the quarantine is gone": (
        lambda layout: layout.quarantine(PARTS[0]).unlink(),
        QUARANTINE,
        "differs from",
    ),
    "there is quarantine where nothing was refused": (
        lambda layout: layout.quarantine(PARTS[2]).write_text("{}\n"),
        QUARANTINE.replace(PARTS[0].stem, PARTS[2].stem),
        "differs from",
    ),
    "the books do not balance": (
        lambda layout: alter_report(layout, lambda r: r["books"].update(recorded=11)),
        REPORT,
        "the books: 14 trades received, but 11 recorded and 2 quarantined",
    ),
    "a window has other books": (
        lambda layout: alter_report(
            layout, lambda r: r["windows"][PARTS[1].window].update(control=1)
        ),
        REPORT,
        f"window {PARTS[1].window}",
    ),
    "a window is not in the report": (
        lambda layout: alter_report(layout, lambda r: r["windows"].pop(PARTS[1].window)),
        REPORT,
        f"window {PARTS[1].window}: None in the report",
    ),
    "a ticker has the books of another": (
        lambda layout: alter_report(
            layout,
            lambda r: r["per_ticker"].update(
                AAPL=r["per_ticker"]["MSFT"], MSFT=r["per_ticker"]["AAPL"]
            ),
        ),
        REPORT,
        "AAPL: 4 parquet, on disk 6",
    ),
    "the coverage is gone": (
        lambda layout: layout.coverage(SESSION, DATE).unlink(),
        COVERAGE,
        "is missing",
    ),
    "the coverage is damaged": (
        lambda layout: flip_in_page(layout.coverage(SESSION, DATE)),
        COVERAGE,
        "cannot be read",
    ),
    "the coverage calls a gap listened to": (
        lambda layout: write_coverage(
            layout, SESSION, [CoverageInterval("AAPL", stamp(0, 0), stamp(2, 2), "")]
        ),
        COVERAGE,
        "differs from the marks",
    ),
}


@pytest.mark.parametrize("wrong", WRONGS)
def test_a_wrong_file_is_found_and_repaired_from_the_tape(
    layout: Layout, a_whole_session: Layout, wrong: str
) -> None:
    damage, path, problem = WRONGS[wrong]
    damage(layout)
    before = snapshot(layout)
    found = look(layout)
    problem = problem.replace("{tapes}", str(layout.tapes(SESSION)))
    assert [name for name, text, _ in found if name == path and problem in text], found
    assert not any(repaired for _, _, repaired in found)
    assert snapshot(layout) == before, "looking changes nothing"
    assert all(repaired for _, _, repaired in look(layout, repair=True))
    assert look(layout) == []
    assert published(layout.root) == published(a_whole_session.root)
    names = {name for name in snapshot(layout) if not name.endswith("jsonl")}
    assert names == {name for name in snapshot(a_whole_session) if not name.endswith("jsonl")}


@SAMPLED
def test_a_repair_that_was_killed_at_any_call_is_finished_by_the_next(
    layout: Layout, tmp_path: Path, pick: Pick
) -> None:
    rewrite(final(layout), one_price_changed)
    repairs = killed_at_calls(layout, tmp_path, pick, lambda killed: look(killed, repair=True))
    for call, killed in repairs:
        assert all(repaired for _, _, repaired in look(killed, repair=True)), call
        assert look(killed) == [], call
        assert remains.prices(killed) == PRICES, call
        assert convert_segments(killed).failed == [], call  # deletes what is left of them
        assert killed.sealed_segments() == killed.open_segments(PARTS[1]) == [], call


# --- what is found and not mended --------------------------------------------------------------


def test_a_missing_report_is_found_with_a_remedy(layout: Layout) -> None:
    layout.report(SESSION).unlink()
    problem = "the report is missing or cannot be read: run `stocktrace recover`"
    assert look(layout, repair=True) == [(REPORT, problem, False)]


def test_an_unpublished_window_is_found(layout: Layout) -> None:
    alter_report(layout, lambda report: report.update(unpublished=[PARTS[0].window]))
    problem = f"window {PARTS[0].window} is not published: run `stocktrace recover`"
    assert look(layout) == [(REPORT, problem, False)]
    assert look(layout, repair=True) == [(REPORT, problem, True)]
    assert look(layout) == []


def test_a_file_in_the_folder_of_another_date_is_found_even_if_its_rows_are_right(
    layout: Layout,
) -> None:
    elsewhere = layout.dataset / "date=2026-11-24" / final(layout).name
    elsewhere.parent.mkdir(parents=True)
    shutil.copy(final(layout), elsewhere)
    name = str(elsewhere.relative_to(layout.root))
    assert look(layout, repair=True) == [(name, "is in the wrong folder: remove it", False)]
    assert files_of(layout) == {name}


@pytest.mark.parametrize(
    "name", ["copy.parquet", f"symbol=AAPL/{PARTS[1].stem}.parquet", f"{SESSION}-copy.parquet"]
)
def test_a_file_that_no_session_recorded_is_found(layout: Layout, name: str) -> None:
    path = layout.dataset / f"date={DATE}" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(final(layout), path)
    assert str(path.relative_to(layout.root)) in files_of(layout)
    assert [*dates_of_sessions(layout)] == [SESSION]


def test_a_session_with_published_files_only_is_known(layout: Layout) -> None:
    shutil.rmtree(layout.tapes(SESSION))
    layout.report(SESSION).unlink()
    assert [*dates_of_sessions(layout)] == [SESSION]
    assert files_of(layout) == {REPORT}


# --- without a tape to trust -------------------------------------------------------------------


def replace_tape(layout: Layout, part: WindowId, change: Callable[[bytes], bytes]) -> Path:
    """The tape of a window as it was before it was archived, changed."""
    archived, tape = layout.archived_tape(part), layout.tape(part)
    with archived.open("rb") as file:
        text = b"".join(zstandard.ZstdDecompressor().read_to_iter(file))
    tape.write_bytes(change(text))
    archived.unlink()
    return tape


def test_a_damaged_tape_is_named_and_the_files_are_checked_by_themselves(layout: Layout) -> None:
    tape = layout.archived_tape(PARTS[1])
    data = bytearray(tape.read_bytes())
    data[40] ^= 1
    tape.write_bytes(data)
    ((name, problem, repaired),) = look(layout, repair=True)
    assert name == f"tape/{SESSION}/{PARTS[1].window}.tape.zst"
    assert "is damaged" in problem or "that cannot be read" in problem
    assert not repaired
    flip_in_page(final(layout))
    assert files_of(layout) == {name, PARQUET}
    assert not any(repaired for _, _, repaired in look(layout, repair=True))


def delete(layout: Layout, *parts: WindowId) -> None:
    """Tapes are deleted as retention does it: the audit log has it first."""
    for part in parts or PARTS:
        AuditLog(layout.audit, SESSION)("delete", file=str(layout.archived_tape(part)), size=1)
        layout.archived_tape(part).unlink()


def test_without_a_tape_a_file_is_checked_against_its_footer(layout: Layout) -> None:
    delete(layout)
    assert look(layout) == []
    rewrite(final(layout), one_price_changed)
    assert look(layout, repair=True) == [(PARQUET, "its footer does not match its content", False)]


def test_without_tape_and_file_the_report_shows_that_trades_are_missing(layout: Layout) -> None:
    layout.archived_tape(PARTS[1]).unlink()
    final(layout).unlink()
    found = look(layout, repair=True)
    assert (
        f"tape/{SESSION}/{PARTS[1].window}.tape.zst",
        "cannot prove its trades: 0 are published, but 4 reported",
        False,
    ) in found
    assert (REPORT, "AAPL: 6 parquet, on disk 4", False) in found


def test_an_intact_file_is_not_replaced_from_a_plain_tape(
    layout: Layout,
) -> None:
    """A tape that is not archived proves nothing; the file proves itself."""
    tape = replace_tape(layout, PARTS[1], lambda text: text.replace(b'"p":6,', b'"p":2,'))
    before = snapshot(layout)
    ((name, problem, repaired),) = look(layout, repair=True)
    assert name == str(tape.relative_to(layout.root))
    assert problem == (
        f"{final(layout)}, which is intact, has other trades (4) than the 4 here: nothing is "
        "repaired from it"
    )
    assert not repaired
    assert snapshot(layout) == before


def test_a_damaged_file_is_repaired_from_a_plain_tape(layout: Layout) -> None:
    replace_tape(layout, PARTS[1], lambda text: text)
    flip_in_page(final(layout))
    assert [repaired for _, _, repaired in look(layout, repair=True)] == [True]
    assert look(layout) == []
    assert {t: [row[1] for row in rows] for t, rows in published(layout.root).items()} == PRICES


def test_a_truncated_tape_is_found(layout: Layout) -> None:
    tape = replace_tape(layout, PARTS[2], lambda text: text + b"123")
    assert look(layout) == [
        (
            str(tape.relative_to(layout.root)),
            "is truncated: the last line is incomplete (3 B)",
            False,
        )
    ]


def test_lines_that_are_not_tape_lines_are_found(layout: Layout) -> None:
    tape = replace_tape(layout, PARTS[2], lambda text: text + b"nonsense\n")
    assert look(layout) == [
        (str(tape.relative_to(layout.root)), "has 1 line that cannot be read", False)
    ]


def test_a_mark_without_its_facts_is_found(layout: Layout) -> None:
    tape = replace_tape(layout, PARTS[1], lambda text: text.replace(b'"reason"', b'"rfason"'))
    assert look(layout) == [
        (
            str(tape.relative_to(layout.root)),
            "has 2 marks with missing or invalid facts",
            False,
        )
    ]


def test_a_finding_is_a_value(layout: Layout) -> None:
    layout.coverage(SESSION, DATE).unlink()
    (found,) = verify(layout, SESSION)
    assert found == Finding(SESSION, layout.coverage(SESSION, DATE), "is missing")


def test_a_repaired_report_keeps_what_is_not_on_the_tape(layout: Layout) -> None:
    alter_report(layout, lambda report: report.update(notices=["mind this"]))
    vouch(layout)
    alter_report(layout, lambda report: report["books"].update(frames=0))
    assert all(repaired for _, _, repaired in look(layout, repair=True))
    report = SessionReport.read(layout.report(SESSION))
    assert (report.notices, report.books.frames, report.state) == (["mind this"], 11, "recovered")


def test_a_gap_that_is_too_short_by_a_microsecond_is_found(layout: Layout) -> None:
    from stocktrace.record.tape_facts import read_tape_facts

    coverage = read_tape_facts(layout, SESSION).coverage
    shorter = [
        CoverageInterval(one.ticker, one.start, one.end - 1000, one.reason)
        if one.reason.startswith("closed")
        else one
        for one in coverage.intervals
    ]
    write_coverage(layout, SESSION, shorter)
    assert look(layout) == [(COVERAGE, f"differs from the marks on {layout.tapes(SESSION)}", False)]
    assert coverage.intervals[0].end == stamp(0, 0) + SECOND


def test_a_session_whose_first_tapes_were_deleted_verifies(
    layout: Layout,
) -> None:
    delete(layout, PARTS[0])
    assert look(layout) == []
    final(layout).unlink()
    assert PARQUET in files_of(layout)
    look(layout, repair=True)
    assert look(layout) == []


# --- a tape that is gone -----------------------------------------------------------------------


def tape_name(part: WindowId) -> str:
    return f"tape/{SESSION}/{part.window}.tape.zst"


GONE = "is missing, and the audit log does not record its deletion"


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.window)
def test_63_a_tape_missing_without_a_recorded_deletion_is_found(
    layout: Layout, part: WindowId
) -> None:
    layout.archived_tape(part).unlink()
    assert look(layout, repair=True) == [(tape_name(part), GONE, False)]
    delete(layout, *(other for other in PARTS if other != part))
    assert look(layout) == [(tape_name(part), GONE, False)]


def test_deletions_are_found_in_a_log_that_was_rotated(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "ROTATE_BYTES", 1)
    delete(layout)
    assert len(list(layout.audit.parent.glob("audit-*.jsonl"))) >= len(PARTS)
    assert not layout.audit.exists()
    assert look(layout) == []


def test_a_deletion_of_another_session_or_in_a_changed_line_does_not_explain_a_missing_tape(
    layout: Layout,
) -> None:
    layout.archived_tape(PARTS[1]).unlink()
    file = str(layout.archived_tape(PARTS[1]))
    AuditLog(layout.audit, "20261123T142958Z_000000")("delete", file=file, size=1)
    assert look(layout) == [(tape_name(PARTS[1]), GONE, False)]
    AuditLog(layout.audit, SESSION)("delete", file=str(layout.archived_tape(PARTS[0])), size=1)
    *lines, last = layout.audit.read_text().splitlines(keepends=True)
    layout.audit.write_text("".join([*lines, last.replace(PARTS[0].window, PARTS[1].window)]))
    assert look(layout) == [(tape_name(PARTS[1]), GONE, False)]


def add_coverage(layout: Layout) -> None:
    path = layout.coverage(SESSION, "2026-11-24")
    path.parent.mkdir()
    shutil.copy(layout.coverage(SESSION, DATE), path)


#: What is falsified once the tapes are gone; the file, and what ``verify`` says of it.
UNVOUCHED: dict[str, tuple[Callable[[Layout], Any], str, str]] = {
    "the coverage is gone": (
        lambda layout: layout.coverage(SESSION, DATE).unlink(),
        COVERAGE,
        "is missing",
    ),
    "the coverage calls a gap listened to": (
        lambda layout: write_coverage(
            layout, SESSION, [CoverageInterval("AAPL", stamp(0, 0), stamp(2, 2), "")]
        ),
        COVERAGE,
        "was changed: its hash is not the one in the report",
    ),
    "the coverage is damaged": (
        lambda layout: flip_in_page(layout.coverage(SESSION, DATE)),
        COVERAGE,
        "was changed: its hash is not the one in the report",
    ),
    "there is coverage of another day": (
        add_coverage,
        COVERAGE.replace(DATE, "2026-11-24"),
        "is not in the report of its session",
    ),
    "the quarantine is gone": (
        lambda layout: layout.quarantine(PARTS[0]).unlink(),
        QUARANTINE,
        "is missing",
    ),
    "a refused row is another": (
        damage_quarantine,
        QUARANTINE,
        "was changed: its hash is not the one in the report",
    ),
    "there is quarantine where nothing was refused": (
        lambda layout: layout.quarantine(PARTS[2]).write_text("{}\n"),
        QUARANTINE.replace(PARTS[0].stem, PARTS[2].stem),
        "is not in the report of its session",
    ),
}


@pytest.mark.parametrize("wrong", UNVOUCHED)
def test_63_the_hashes_of_the_report_are_compared_when_the_tapes_are_gone(
    layout: Layout, wrong: str
) -> None:
    delete(layout)
    assert look(layout) == []
    damage, path, problem = UNVOUCHED[wrong]
    damage(layout)
    before = snapshot(layout)
    assert look(layout, repair=True) == [(path, problem, False)]
    assert snapshot(layout) == before


@pytest.mark.parametrize("wrong", [name for name in WRONGS if "coverage" in name])
def test_coverage_is_compared_if_one_tape_is_deleted(layout: Layout, wrong: str) -> None:
    delete(layout, PARTS[0])
    damage, path, _ = WRONGS[wrong]
    damage(layout)
    assert [(name, repaired) for name, _, repaired in look(layout, repair=True)] == [(path, False)]


@pytest.mark.parametrize("path", [COVERAGE, QUARANTINE])
def test_a_wrong_hash_in_the_report_is_found_and_repaired_by_the_tapes(
    layout: Layout, path: str
) -> None:
    whole = snapshot(layout)
    alter_report(layout, lambda report: report["hashes"].update({path: "0" * 64}))
    problem = f"does not have the hash of {layout.root / path}, which matches the tapes"
    assert look(layout) == [(REPORT, problem, False)]
    assert look(layout, repair=True) == [(REPORT, problem, True)]
    assert snapshot(layout) == whole


def test_coverage_after_the_last_line_of_the_tapes_is_not_compared(layout: Layout) -> None:
    later = CoverageInterval("AAPL", stamp(24 * 60, 0), stamp(24 * 60, 1), "")
    write_coverage(layout, SESSION, [later])
    before = snapshot(layout)
    path = COVERAGE.replace(DATE, "2026-11-24")
    assert look(layout, repair=True) == [(path, "is not in the report of its session", False)]
    assert snapshot(layout) == before


# --- a tape that has less than the books -------------------------------------------------------


def less(found: str, told: str, witness: str = "the report") -> str:
    return f"has {found}, less than {witness} ({told}): nothing is repaired from it"


def test_nothing_is_repaired_from_a_tape_with_less_than_parquet_and_report(
    layout: Layout,
) -> None:
    shorten(layout, PARTS[1], b'"p":7,')
    before = snapshot(layout)
    problem = less("2 frames and 3 valid trades", "3 and 4", "the published files and the report")
    assert look(layout, repair=True) == [(tape_name(PARTS[1]), problem, False)]
    assert snapshot(layout) == before


@pytest.mark.parametrize("wrong", ["the quarantine is gone", "a refused row is another"])
def test_a_quarantine_is_not_replaced_from_an_incomplete_tape(layout: Layout, wrong: str) -> None:
    shorten(layout, PARTS[0], b"not JSON")
    damage, path, problem = UNVOUCHED[wrong]
    damage(layout)
    before = snapshot(layout)
    assert look(layout, repair=True) == [
        (tape_name(PARTS[0]), less("4 frames and 4 valid trades", "5 and 4"), False),
        (path, problem, False),
    ]
    assert snapshot(layout) == before


@pytest.mark.parametrize("wrong", ["the coverage is gone", "the coverage calls a gap listened to"])
def test_coverage_is_not_replaced_from_an_incomplete_tape(layout: Layout, wrong: str) -> None:
    shorten(layout, PARTS[2], b'"p":10,')
    damage, path, problem = UNVOUCHED[wrong]
    damage(layout)
    before = snapshot(layout)
    found = look(layout, repair=True)
    assert [name for name, _, _ in found] == [tape_name(PARTS[2]), path]
    assert found[1] == (path, problem, False)
    assert snapshot(layout) == before


def test_parquet_and_a_window_of_the_report_prove_a_tape_incomplete_if_the_total_is_wrong(
    layout: Layout,
) -> None:
    shorten(layout, PARTS[1], b'"p":7,')
    alter_report(layout, lambda report: report["books"].update(frames=99))
    files = {path: path.read_bytes() for path in layout.dataset.rglob("*.parquet")}
    assert (tape_name(PARTS[1]), False) in [
        (name, repaired) for name, _, repaired in look(layout, repair=True)
    ]
    assert {path: path.read_bytes() for path in layout.dataset.rglob("*.parquet")} == files


def test_a_report_that_does_not_add_up_is_repaired_even_if_it_has_more_than_the_tape(
    layout: Layout,
) -> None:
    alter_report(
        layout, lambda report: report["windows"][PARTS[1].window].update(frames=9, recorded=7)
    )
    assert [(name, repaired) for name, _, repaired in look(layout, repair=True)] == [(REPORT, True)]
    assert look(layout) == []


# --- two tapes of one window -------------------------------------------------------------------


def test_a_plain_tape_beside_an_archive_is_found_and_the_archive_is_used(
    layout: Layout,
) -> None:
    archived = layout.archived_tape(PARTS[1]).read_bytes()
    tape = replace_tape(layout, PARTS[1], lambda text: text[: len(text) // 2])
    layout.archived_tape(PARTS[1]).write_bytes(archived)
    before = snapshot(layout)
    assert look(layout, repair=True) == [
        (
            str(tape.relative_to(layout.root)),
            "is beside an archive of the same window: run `stocktrace recover`",
            False,
        )
    ]
    assert snapshot(layout) == before


def test_a_tape_that_was_set_aside_is_found_until_it_is_moved(layout: Layout) -> None:
    aside = layout.archived_tape(PARTS[1]).with_suffix(".aside-1")
    aside.write_bytes(b"")
    ((name, problem, _),) = look(layout)
    assert name == str(aside.relative_to(layout.root))
    assert problem.startswith("was set aside because it differs from the tape of its window")
    aside.unlink()
    assert look(layout) == []
