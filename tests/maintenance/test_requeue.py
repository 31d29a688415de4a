from __future__ import annotations

import itertools
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stocktrace.clock import Clock
from stocktrace.errors import StoreError, UsageError
from stocktrace.feed.protocol import frame_of
from stocktrace.importing import importer
from stocktrace.importing.importer import SessionTapes
from stocktrace.maintenance.requeue import requeue_rows
from stocktrace.record.recovery import recover
from stocktrace.sessions.report import SessionReport
from stocktrace.store import lock
from stocktrace.store.layout import Layout
from stocktrace.store.names import is_import
from stocktrace.store.quarantine import QuarantinedRow, QuarantineEncoder, parse_quarantine
from stocktrace.verify import dates_of_sessions, verify
from tests.conftest import NOON, SESSION, WINDOW, frame, published, tree
from tests.dying import Killed, Killer, calls_of
from tests.remains import PARTS, SECOND, prices, problems
from tests.sampling import SAMPLED, Pick

STEM = f"{SESSION}-{WINDOW}"
T = NOON // 10**6
IMPORT = "20261123T142958Z_0f1e2d3c4b5a6978_import"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


@pytest.fixture(autouse=True)
def _all_is_well_at_the_end(layout: Layout) -> Any:
    yield
    recover(layout)
    assert problems(layout) == []


def row(price: Any = -1, symbol: Any = "AAPL", t: Any = T) -> dict[str, Any]:
    return {"c": ["1"], "p": price, "s": symbol, "t": t, "v": 100}


def quarantine(layout: Layout, *lines: tuple[Any, Any], name: str = STEM) -> Path:
    """A quarantine file of ``(row, raw frame)``, received a second after one another."""
    path = layout.root / "quarantine" / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    stamps = itertools.count(NOON, SECOND)
    path.write_text(
        "".join(
            QuarantinedRow(stamp, raw, one, "price: not above 0").line()
            for stamp, (one, raw) in zip(stamps, lines, strict=False)
        )
    )
    return path


def mended(
    path: Path, folder: Path, change: Callable[[dict[str, Any]], None], name: str = ""
) -> Path:
    """A copy whose lines were edited by hand."""
    copy = folder / (name or path.name)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        change(line)
    copy.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return copy


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mended")


def good(line: dict[str, Any]) -> None:
    line["row"]["p"] = abs(line["row"]["p"])


# --- what it does ------------------------------------------------------------------------------


def test_a_corrected_row_is_published_with_its_receive_time(layout: Layout, folder: Path) -> None:
    source = quarantine(layout, (row(-1), b"one"), (row(-2, "MSFT"), b"two"))
    report = requeue_rows(layout, mended(source, folder, good))
    assert report is not None
    assert (report.state, report.reason) == ("complete", f"requeued from {STEM}.jsonl")
    assert (report.books.recorded, report.books.quarantined) == (2, 0)
    assert prices(layout) == {"AAPL": [1.0], "MSFT": [2.0]}
    (path,) = layout.dataset.rglob("*.parquet")
    assert path.parent.name == "date=2026-11-23"
    assert path.name.startswith(report.session)


def test_a_row_that_is_still_wrong_is_refused_again(layout: Layout) -> None:
    source = quarantine(layout, (row(-1), b"one"))
    report = requeue_rows(layout, source)
    assert report is not None
    assert (report.books.recorded, report.books.quarantined) == (0, 1)
    assert prices(layout) == {}
    (again,) = layout.root.glob(f"quarantine/{report.session}-*.jsonl")
    (refused,) = parse_quarantine([again.read_text()])
    assert refused.row["p"] == -1.0


def test_no_row_is_requeued_twice_from_the_file_or_a_copy(layout: Layout, folder: Path) -> None:
    source = quarantine(layout, (row(-1), b"one"), (row(-2), b"two"))
    copy = mended(source, folder, good)
    assert requeue_rows(layout, copy) is not None
    assert requeue_rows(layout, copy) is None
    assert requeue_rows(layout, source) is None
    assert prices(layout) == {"AAPL": [1.0, 2.0]}


def test_later_rows_are_requeued_by_themselves(layout: Layout, folder: Path) -> None:
    requeue_rows(layout, mended(quarantine(layout, (row(-1), b"one")), folder, good))
    source = quarantine(layout, (row(-1), b"one"), (row(-2), b"two"))
    requeue_rows(layout, mended(source, folder, good))
    assert sorted(prices(layout)["AAPL"]) == [1.0, 2.0]


def test_equal_rows_of_one_frame_are_each_requeued(layout: Layout, folder: Path) -> None:
    path = layout.root / "quarantine" / f"{STEM}.jsonl"
    path.parent.mkdir()
    path.write_text(QuarantinedRow(NOON, b"one", row(-1), "price").line() * 3)
    requeue_rows(layout, mended(path, folder, good))
    assert prices(layout) == {"AAPL": [1.0, 1.0, 1.0]}


NAMES = ["a.jsonl", "b", f"{STEM}.jsonl", f"{STEM}-mended.jsonl", "c.jsonl.open"]


@pytest.mark.parametrize("first", range(len(NAMES)))
def test_67_a_row_is_requeued_once_whatever_the_names_of_its_copies(
    layout: Layout, folder: Path, first: int
) -> None:
    source = quarantine(layout, (row(-1), b"one"), (row(-2), b"one"), (row(-3), b"two"))
    names = NAMES[first:] + NAMES[:first]
    copies = [mended(source, folder, good, name) for name in names]
    reports = [requeue_rows(layout, path) for path in (*copies, source)]
    assert [report is not None for report in reports] == [True] + [False] * len(NAMES)
    assert prices(layout) == {"AAPL": [1.0, 2.0, 3.0]}
    assert tree(layout.root / "quarantine") == [f"{STEM}.jsonl", f"{STEM}.requeued"]


@pytest.mark.parametrize("name", ["a.jsonl", f"{STEM}.jsonl"])
def test_equal_rows_of_one_frame_are_each_requeued_once_under_other_names(
    layout: Layout, folder: Path, name: str
) -> None:
    path = layout.quarantine(PARTS[0])
    path.parent.mkdir()
    path.write_text(QuarantinedRow(NOON, b"one", row(-1), "price").line() * 3)
    requeue_rows(layout, mended(path, folder, good, name))
    assert requeue_rows(layout, mended(path, folder, good, "b")) is None
    assert requeue_rows(layout, path) is None
    assert prices(layout) == {"AAPL": [1.0, 1.0, 1.0]}


def test_rows_of_several_windows_in_one_copy_are_each_requeued_once(
    layout: Layout, folder: Path
) -> None:
    paths = [
        quarantine(layout, (row(-n), b"%d" % n), name=part.stem) for n, part in enumerate(PARTS, 1)
    ]
    whole = folder / "all.jsonl"
    requeue_rows(layout, mended(paths[1], folder, good))
    whole.write_text("".join(path.read_text() for path in paths))
    report = requeue_rows(layout, mended(whole, folder, good, "b.jsonl"))
    assert report is not None
    assert report.books.recorded == 2
    assert [requeue_rows(layout, path) for path in (*paths, whole)] == [None] * 4
    assert sorted(prices(layout)["AAPL"]) == [1.0, 2.0, 3.0]


def test_a_row_of_an_open_quarantine_is_requeued_once(layout: Layout, folder: Path) -> None:
    sealed = quarantine(layout, (row(-1), b"one"))
    open_file = sealed.rename(sealed.with_name(f"{sealed.name}.open"))
    requeue_rows(layout, mended(open_file, folder, good, "a"))
    with open_file.open("a") as file:
        file.write('{"reason":"half a li')
    assert requeue_rows(layout, open_file) is None
    assert requeue_rows(layout, mended(folder / "a", folder, good, "b")) is None
    open_file.write_text(QuarantinedRow(NOON, b"one", row(-1), "price").line())
    assert requeue_rows(layout, open_file.rename(sealed)) is None
    assert prices(layout) == {"AAPL": [1.0]}


def test_a_row_of_two_windows_needs_a_copy_named_after_one(layout: Layout, folder: Path) -> None:
    line = QuarantinedRow(NOON, b"one", row(-1), "price").line()
    paths = [layout.quarantine(part) for part in PARTS[:2]]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_text(line)
    stray = mended(paths[0], folder, good, "a.jsonl")
    for path in paths:
        with pytest.raises(UsageError, match=r"a\.jsonl has a row of both .*_00001\.jsonl and "):
            requeue_rows(layout, stray)
        requeue_rows(layout, mended(path, folder, good))
    assert requeue_rows(layout, stray) is None
    assert prices(layout) == {"AAPL": [1.0, 1.0]}


def test_a_row_requeued_unchanged_can_be_corrected_in_its_new_quarantine(
    layout: Layout, folder: Path
) -> None:
    """Its line there is the same as in the old one."""
    refused = frame_of(row(-1))
    report = requeue_rows(layout, quarantine(layout, (row(-1), refused)))
    assert report is not None
    (path,) = layout.root.glob(f"quarantine/{report.session}-*.jsonl")
    assert requeue_rows(layout, mended(path, folder, good)) is not None
    for name in ("a", f"{STEM}.jsonl", path.name):
        assert requeue_rows(layout, mended(path, folder, good, name)) is None
    assert prices(layout) == {"AAPL": [1.0]}


def test_a_row_of_another_folder_is_requeued_once_even_if_its_quarantine_is_imported_later(
    layout: Layout, folder: Path
) -> None:
    refused = frame_of(row(-1))
    source = quarantine(layout, (row(-1), refused))
    copy, text = mended(source, folder, lambda _: None, "a"), source.read_text()
    source.unlink()
    first = requeue_rows(layout, copy)  # it is refused again
    assert first is not None
    assert (
        requeue_rows(layout, mended(copy, folder, good, "b")) is not None
    )  # from its new quarantine
    assert requeue_rows(layout, mended(copy, folder, good, "c")) is None
    source.write_text(text)
    for name in ("d", f"{STEM}.jsonl"):
        assert requeue_rows(layout, mended(source, folder, good, name)) is None
    assert prices(layout) == {"AAPL": [1.0]}


def test_a_copy_that_lacks_a_row_of_a_frame_is_refused(layout: Layout, folder: Path) -> None:
    """Which of the frame's rows the others are cannot be told; one would be taken for another."""
    source = quarantine(layout, (row(-1), b"one"))
    source.write_text(source.read_text() + QuarantinedRow(NOON, b"one", row(-2), "price").line())
    copy = folder / "a.jsonl"
    copy.write_text(source.read_text().splitlines(keepends=True)[1])
    with pytest.raises(UsageError, match=r"a\.jsonl lacks lines of a frame that .* copy all lines"):
        requeue_rows(layout, copy)
    requeue_rows(layout, mended(source, folder, good))
    assert prices(layout) == {"AAPL": [1.0, 2.0]}


def test_rows_that_an_earlier_version_recorded_under_the_name_of_a_copy_are_not_requeued_again(
    layout: Layout, folder: Path
) -> None:
    source = quarantine(layout, (row(-1), b"one"))
    copy = mended(source, folder, good, "a.jsonl")
    requeue_rows(layout, copy)
    layout.requeue_record(source.name).rename(layout.requeue_record("a.jsonl"))
    assert requeue_rows(layout, copy) is None
    assert prices(layout) == {"AAPL": [1.0]}


@pytest.mark.parametrize("name", ["a.jsonl", f"{IMPORT}-{WINDOW}.jsonl"])
def test_requeued_rows_of_an_import_stay_marked_whatever_the_name_of_the_copy(
    layout: Layout, folder: Path, name: str
) -> None:
    source = quarantine(layout, (row(-1), b"one"), name=f"{IMPORT}-{WINDOW}")
    report = requeue_rows(layout, mended(source, folder, good, name))
    assert report is not None
    assert is_import(report.session)
    assert report.state == "imported"


def test_rows_whose_frame_is_in_a_line_above_are_requeued(layout: Layout, folder: Path) -> None:
    frames = [b"one", b"two\xff", b"one", b"one", b"two\xff"]
    some = [QuarantinedRow(NOON, each, row(-n), "price") for n, each in enumerate(frames, 1)]
    texts = ["".join(each.line() for each in some), "".join(QuarantineEncoder().encode(some))]
    assert texts[1].count('"frame') == len(some) + len(set(frames))  # ids, and frames
    taken = []
    for at, text in enumerate(texts):
        each = Layout(folder / str(at))
        path = each.quarantine(PARTS[0])
        path.parent.mkdir(parents=True)
        path.write_text(text)
        report = requeue_rows(each, mended(path, folder, good))
        assert report is not None
        assert report.books.recorded == len(some)
        assert prices(each) == {"AAPL": [1.0, 2.0, 3.0, 4.0, 5.0]}
        names = each.requeue_record(path.name).read_text().split()
        taken.append(names[::2])
        # What an earlier version has taken is not taken again after ``verify --repair``.
        path.write_text(texts[1 - at])
        assert requeue_rows(each, path) is None
    assert taken[0] == taken[1]


def test_a_copy_without_the_line_that_has_the_frame_is_refused(
    layout: Layout, folder: Path
) -> None:
    path = folder / f"{STEM}.jsonl"
    rows = [QuarantinedRow(NOON, b"one", row(1), "r")] * 2
    path.write_text("".join(list(QuarantineEncoder().encode(rows))[1:]))
    with pytest.raises(UsageError, match="line 1: its frame is not in a line above"):
        requeue_rows(layout, path)
    assert prices(layout) == {}


def test_a_number_that_was_kept_as_text_is_a_number_again(layout: Layout) -> None:
    requeue_rows(layout, quarantine(layout, (row("1.25", t=str(T)), b"one")))
    assert published(layout.root) == {"AAPL": [(T, 1.25, 100.0, "1")]}


def test_rows_of_several_days_are_in_their_own_days(layout: Layout) -> None:
    path = layout.root / "quarantine" / f"{STEM}.jsonl"
    path.parent.mkdir()
    stamps = [NOON, NOON + 86_400 * SECOND, NOON - 86_400 * SECOND]
    path.write_text(
        "".join(
            QuarantinedRow(stamp, b"f", row(number, t=stamp // 10**6), "schema").line()
            for number, stamp in enumerate(stamps, 1)
        )
    )
    report = requeue_rows(layout, path)
    assert report is not None
    assert len(report.windows) == 3
    dates = {path.parent.name for path in layout.dataset.rglob("*.parquet")}
    assert dates == {"date=2026-11-22", "date=2026-11-23", "date=2026-11-24"}


def test_unreadable_frames_have_no_row_to_requeue(layout: Layout) -> None:
    assert requeue_rows(layout, quarantine(layout, (None, b"not JSON"))) is None


@pytest.mark.parametrize("odd", ["null", [], 5, "text"])
def test_lines_without_a_row_are_skipped(layout: Layout, odd: Any) -> None:
    requeue_rows(layout, quarantine(layout, (odd, b"one"), (row(2), b"two")))
    assert prices(layout) == {"AAPL": [2.0]}


@pytest.mark.parametrize("symbol", [None, 5, "", "A B", "é"])
def test_a_row_without_a_ticker_is_refused_again(layout: Layout, symbol: Any) -> None:
    report = requeue_rows(layout, quarantine(layout, (row(1, symbol), b"one"), (row(2), b"two")))
    assert report is not None
    assert prices(layout)["AAPL"] == [2.0]
    assert report.books.trades == 2


def test_an_edited_row_may_contain_a_unicode_line_separator(layout: Layout) -> None:
    path = quarantine(layout, (row(1), b"one"))
    path.write_text(path.read_text().replace('"price: not above 0"', '"so be it\u2028or\x85not"'))
    requeue_rows(layout, path)
    assert prices(layout) == {"AAPL": [1.0]}


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", "5", '"x"', "{", '{"row":{},"frame":"f","reason":"r","ts_recv_ns":"x"}',
     '{"row":{},"frame":"f","reason":"r","ts_recv_ns":1e18}',
     '{"row":{},"frame_base64":"abc","reason":"r","ts_recv_ns":1}'],
)  # fmt: skip
def test_a_file_that_is_not_a_quarantine_file_is_refused(
    layout: Layout, folder: Path, text: str
) -> None:
    path = folder / f"{STEM}.jsonl"
    path.write_text(QuarantinedRow(NOON, b"f", row(1), "r").line() + text + "\n")
    with pytest.raises(UsageError, match=r"line 2: not a line of a quarantine file\."):
        requeue_rows(layout, path)
    assert prices(layout) == {}


def test_a_missing_file_is_a_usage_error(layout: Layout, folder: Path) -> None:
    with pytest.raises(UsageError, match="Cannot read"):
        requeue_rows(layout, folder / "nothing.jsonl")


def test_the_session_can_be_verified_from_its_tape(layout: Layout) -> None:
    report = requeue_rows(layout, quarantine(layout, (row(1), b"one"), (row(-1), b"two")))
    assert report is not None
    assert list(verify(layout, report.session)) == []
    assert SessionReport.read(layout.report(report.session)).balanced


def test_gaps_are_requested_by_the_given_clock(layout: Layout) -> None:
    report = requeue_rows(layout, quarantine(layout, (row(1), b"one")), Clock(wall=lambda: NOON))
    assert report is not None
    assert report.session.startswith("20261123T143000Z_")


# --- exactly once ------------------------------------------------------------------------------


@SAMPLED
def test_67_a_row_is_requeued_once_after_a_kill_at_any_system_call(
    layout: Layout, folder: Path, pick: Pick
) -> None:
    source = mended(quarantine(layout, (row(-1), b"one"), (row(-2), b"two")), folder, good)
    other = mended(source, folder, good, "other name")

    def copied(name: object) -> Layout:
        shutil.copytree(layout.root, folder / str(name))
        return Layout(folder / str(name))

    unharmed = copied("unharmed")
    calls = calls_of(lambda: requeue_rows(unharmed, source))
    assert len(calls) > 20
    for call in pick(calls):
        copy = copied(call)
        with pytest.MonkeyPatch.context() as patch:
            Killer(patch, call)
            with pytest.raises(Killed):
                requeue_rows(copy, source)
        # In either order: by hand again, and what recovers what was left.
        for act in (recover, lambda each: requeue_rows(each, other))[:: 1 if call % 2 else -1]:
            act(copy)
        recover(copy)
        assert prices(copy) == {"AAPL": [1.0, 2.0]}, f"killed at system call {call}"
        assert requeue_rows(copy, source) is None
        for session in dates_of_sessions(copy):
            assert list(verify(copy, session)) == []
        shutil.rmtree(copy.root)


def test_67_two_requeues_at_once_take_each_row_once(
    layout: Layout, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = mended(quarantine(layout, (row(-1), b"one")), folder, good)
    work, at_work, go_on = SessionTapes.write, threading.Event(), threading.Event()

    def waiting(*arguments: Any) -> Any:
        at_work.set()
        assert go_on.wait(30)
        return work(*arguments)

    monkeypatch.setattr(SessionTapes, "write", waiting)
    first = threading.Thread(target=requeue_rows, args=(layout, source))
    first.start()
    assert at_work.wait(30)
    with pytest.raises(StoreError, match="Another process is requeuing"):
        requeue_rows(layout, source)
    go_on.set()
    first.join(30)
    assert prices(layout) == {"AAPL": [1.0]}


def test_a_recovery_ignores_a_running_requeue(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stocktrace.record.publish import publish_window

    seen: list[Any] = []

    def beside(*arguments: Any, **options: Any) -> Any:
        seen.append(recover(layout))
        return publish_window(*arguments, **options)

    monkeypatch.setattr(importer, "publish_window", beside)
    requeue_rows(layout, quarantine(layout, (row(1), b"one")))
    assert seen == [[]]
    assert prices(layout) == {"AAPL": [1.0]}


def test_the_staged_folder_of_a_killed_requeue_is_deleted(layout: Layout) -> None:
    staged = layout.root / "tape" / f".{SESSION}.{2**22 + 1}.tmp"
    staged.mkdir(parents=True)
    (staged / f"{WINDOW}.tape").write_bytes(b"%d\t%s\n" % (NOON, frame(("AAPL", 1))))
    assert recover(layout) == []
    assert not staged.exists()


def test_a_requeue_holds_the_lock_of_its_session(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = SessionTapes.write

    def looking(tapes: SessionTapes, *arguments: Any) -> Any:
        (locked,) = (path for path in layout.root.rglob("*.lock") if path.name[0].isdigit())
        assert lock.is_locked(locked)
        return work(tapes, *arguments)

    monkeypatch.setattr(SessionTapes, "write", looking)
    assert requeue_rows(layout, quarantine(layout, (row(1), b"one"))) is not None
