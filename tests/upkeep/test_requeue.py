from __future__ import annotations

import itertools
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stocktrace.deadline import Clock
from stocktrace.errors import StoreError, UsageError
from stocktrace.record.recovery import recover
from stocktrace.report import Report
from stocktrace.store import lock
from stocktrace.store.layout import Layout
from stocktrace.store.quarantine import Lines, Refused, parse
from stocktrace.upkeep import requeue as module
from stocktrace.upkeep.requeue import requeue
from stocktrace.verify import sessions_of, verify
from tests.conftest import NOON, SESSION, WINDOW, frame, published
from tests.remains import PARTS, SECOND, prices, problems

STEM = f"{SESSION}-{WINDOW}"
T = NOON // 10**6


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
            Refused(stamp, raw, one, "price: not above 0").line()
            for stamp, (one, raw) in zip(stamps, lines, strict=False)
        )
    )
    return path


def mended(path: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy whose lines were edited by hand."""
    copy = folder / path.name
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


def test_a_row_that_was_mended_is_published_with_its_receive_time(
    layout: Layout, folder: Path
) -> None:
    source = quarantine(layout, (row(-1), b"one"), (row(-2, "MSFT"), b"two"))
    report = requeue(layout, mended(source, folder, good))
    assert report is not None
    assert (report.state, report.reason) == ("complete", f"requeued from {STEM}.jsonl")
    assert (report.books.recorded, report.books.quarantined) == (2, 0)
    assert prices(layout) == {"AAPL": [1.0], "MSFT": [2.0]}
    (path,) = layout.dataset.rglob("symbol=MSFT/*.parquet")
    assert path.parent.parent.name == "date=2026-11-23"
    assert path.name.startswith(report.session)


def test_a_row_that_is_still_wrong_is_refused_again(layout: Layout) -> None:
    source = quarantine(layout, (row(-1), b"one"))
    report = requeue(layout, source)
    assert report is not None
    assert (report.books.recorded, report.books.quarantined) == (0, 1)
    assert prices(layout) == {}
    (again,) = layout.root.glob(f"quarantine/{report.session}-*.jsonl")
    (refused,) = parse([again.read_text()])
    assert refused.row["p"] == -1.0


def test_no_row_is_taken_twice_from_the_file_or_a_copy(layout: Layout, folder: Path) -> None:
    source = quarantine(layout, (row(-1), b"one"), (row(-2), b"two"))
    copy = mended(source, folder, good)
    assert requeue(layout, copy) is not None
    assert requeue(layout, copy) is None
    assert requeue(layout, source) is None
    assert prices(layout) == {"AAPL": [1.0, 2.0]}


def test_rows_that_came_later_are_taken_by_themselves(layout: Layout, folder: Path) -> None:
    requeue(layout, mended(quarantine(layout, (row(-1), b"one")), folder, good))
    source = quarantine(layout, (row(-1), b"one"), (row(-2), b"two"))
    requeue(layout, mended(source, folder, good))
    assert sorted(prices(layout)["AAPL"]) == [1.0, 2.0]


def test_equal_rows_of_one_frame_are_taken_each(layout: Layout, folder: Path) -> None:
    path = layout.root / "quarantine" / f"{STEM}.jsonl"
    path.parent.mkdir()
    path.write_text(Refused(NOON, b"one", row(-1), "price").line() * 3)
    requeue(layout, mended(path, folder, good))
    assert prices(layout) == {"AAPL": [1.0, 1.0, 1.0]}


def test_rows_whose_frame_stands_in_a_line_above_are_taken_as_if_it_stood_in_each(
    layout: Layout, folder: Path
) -> None:
    frames = [b"one", b"two\xff", b"one", b"one", b"two\xff"]
    some = [Refused(NOON, each, row(-n), "price") for n, each in enumerate(frames, 1)]
    texts = ["".join(each.line() for each in some), "".join(Lines().of(some))]
    assert texts[1].count('"frame') == len(some) + len(set(frames))  # ids, and frames
    taken = []
    for at, text in enumerate(texts):
        each = Layout(folder / str(at))
        path = each.quarantine(PARTS[0])
        path.parent.mkdir(parents=True)
        path.write_text(text)
        report = requeue(each, mended(path, folder, good))
        assert report is not None
        assert report.books.recorded == len(some)
        assert prices(each) == {"AAPL": [1.0, 2.0, 3.0, 4.0, 5.0]}
        names = each.requeued(path.name).read_text().split()
        taken.append(names[::2])
        # What an earlier version has taken is not taken again after ``verify --repair``.
        path.write_text(texts[1 - at])
        assert requeue(each, path) is None
    assert taken[0] == taken[1]


def test_a_copy_without_the_line_that_has_the_frame_is_told(layout: Layout, folder: Path) -> None:
    path = folder / f"{STEM}.jsonl"
    path.write_text("".join(list(Lines().of([Refused(NOON, b"one", row(1), "r")] * 2))[1:]))
    with pytest.raises(UsageError, match="line 1: its frame stands in no line above"):
        requeue(layout, path)
    assert prices(layout) == {}


def test_a_number_that_was_kept_as_text_is_a_number_again(layout: Layout) -> None:
    requeue(layout, quarantine(layout, (row("1.25", t=str(T)), b"one")))
    assert published(layout.root) == {"AAPL": [(T, 1.25, 100.0, "1")]}


def test_rows_of_several_days_stand_each_in_its_own(layout: Layout) -> None:
    path = layout.root / "quarantine" / f"{STEM}.jsonl"
    path.parent.mkdir()
    stamps = [NOON, NOON + 86_400 * SECOND, NOON - 86_400 * SECOND]
    path.write_text(
        "".join(
            Refused(stamp, b"f", row(number, t=stamp // 10**6), "schema").line()
            for number, stamp in enumerate(stamps, 1)
        )
    )
    report = requeue(layout, path)
    assert report is not None
    assert len(report.windows) == 3
    dates = {path.parent.parent.name for path in layout.dataset.rglob("*.parquet")}
    assert dates == {"date=2026-11-22", "date=2026-11-23", "date=2026-11-24"}


def test_frames_that_could_not_be_read_have_no_row_to_take(layout: Layout) -> None:
    assert requeue(layout, quarantine(layout, (None, b"not JSON"))) is None


@pytest.mark.parametrize("odd", ["null", [], 5, "text"])
def test_what_is_no_row_is_left_and_the_others_are_taken(layout: Layout, odd: Any) -> None:
    requeue(layout, quarantine(layout, (odd, b"one"), (row(2), b"two")))
    assert prices(layout) == {"AAPL": [2.0]}


@pytest.mark.parametrize("symbol", [None, 5, "", "A B", "é"])
def test_a_row_without_a_ticker_is_refused_again(layout: Layout, symbol: Any) -> None:
    report = requeue(layout, quarantine(layout, (row(1, symbol), b"one"), (row(2), b"two")))
    assert report is not None
    assert prices(layout)["AAPL"] == [2.0]
    assert report.books.trades == 2


def test_a_row_mended_by_hand_may_hold_what_unicode_takes_for_a_lines_end(layout: Layout) -> None:
    path = quarantine(layout, (row(1), b"one"))
    path.write_text(path.read_text().replace('"price: not above 0"', '"so be it\u2028or\x85not"'))
    requeue(layout, path)
    assert prices(layout) == {"AAPL": [1.0]}


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", "5", '"x"', "{", '{"row":{},"frame":"f","reason":"r","ts_recv":"x"}',
     '{"row":{},"frame":"f","reason":"r","ts_recv":1e18}',
     '{"row":{},"frame_base64":"abc","reason":"r","ts_recv":1}'],
)  # fmt: skip
def test_a_file_that_is_no_quarantine_is_told_and_nothing_is_taken(
    layout: Layout, folder: Path, text: str
) -> None:
    path = folder / f"{STEM}.jsonl"
    path.write_text(Refused(NOON, b"f", row(1), "r").line() + text + "\n")
    with pytest.raises(UsageError, match=r"line 2: no line of a quarantine\."):
        requeue(layout, path)
    assert prices(layout) == {}


def test_a_file_that_is_not_there_is_told(layout: Layout, folder: Path) -> None:
    with pytest.raises(UsageError, match="Cannot read"):
        requeue(layout, folder / "nothing.jsonl")


def test_the_session_can_be_verified_from_its_tape(layout: Layout) -> None:
    report = requeue(layout, quarantine(layout, (row(1), b"one"), (row(-1), b"two")))
    assert report is not None
    assert list(verify(layout, report.session)) == []
    assert Report.read(layout.report(report.session)).balanced


def test_the_clock_of_the_session_is_now(layout: Layout) -> None:
    report = requeue(layout, quarantine(layout, (row(1), b"one")), Clock(wall=lambda: NOON))
    assert report is not None
    assert report.session.startswith("20261123T143000Z_")


# --- exactly once ------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is gone."""


CALLS = ("write", "fsync", "replace", "rename", "unlink", "mkdir", "rmdir")


@pytest.mark.parametrize("shard", range(4))
def test_killed_at_any_system_call_each_row_is_taken_once(
    layout: Layout, folder: Path, shard: int
) -> None:
    source = mended(quarantine(layout, (row(-1), b"one"), (row(-2), b"two")), folder, good)
    call, done = shard, False
    while not done:
        copy = Layout(folder / str(call))
        shutil.copytree(layout.root, copy.root)
        with pytest.MonkeyPatch.context() as patch:
            left = [call]

            def killing(name: str, left: list[int] = left) -> Callable[..., Any]:
                work = getattr(os, name)

                def work_or_die(*arguments: Any, **options: Any) -> Any:
                    left[0] -= 1
                    if left[0] < 0:
                        raise Killed
                    return work(*arguments, **options)

                return work_or_die

            for name in CALLS:
                patch.setattr(os, name, killing(name))
            try:
                requeue(copy, source)
                done = True
            except Killed:
                pass
        # In either order: by hand again, and what recovers what was left.
        for act in (recover, lambda each: requeue(each, source))[:: 1 if call % 8 < 4 else -1]:
            act(copy)
        recover(copy)
        assert prices(copy) == {"AAPL": [1.0, 2.0]}, f"killed at system call {call}"
        assert requeue(copy, source) is None
        for session in sessions_of(copy):
            assert list(verify(copy, session)) == []
        shutil.rmtree(copy.root)
        call += 4
    assert call > 20


def test_two_at_once_take_each_row_once(
    layout: Layout, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = mended(quarantine(layout, (row(-1), b"one")), folder, good)
    work, at_work, go_on = module._write_tapes, threading.Event(), threading.Event()

    def waiting(*arguments: Any) -> Any:
        at_work.set()
        assert go_on.wait(30)
        return work(*arguments)

    monkeypatch.setattr(module, "_write_tapes", waiting)
    first = threading.Thread(target=requeue, args=(layout, source))
    first.start()
    assert at_work.wait(30)
    with pytest.raises(StoreError, match="Another process is requeuing"):
        requeue(layout, source)
    go_on.set()
    first.join(30)
    assert prices(layout) == {"AAPL": [1.0]}


def test_a_recovery_leaves_a_requeue_that_lives_alone(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stocktrace.record.publish import publish

    seen: list[Any] = []

    def beside(*arguments: Any, **options: Any) -> Any:
        seen.append(recover(layout))
        return publish(*arguments, **options)

    monkeypatch.setattr(module, "publish", beside)
    requeue(layout, quarantine(layout, (row(1), b"one")))
    assert seen == [[]]
    assert prices(layout) == {"AAPL": [1.0]}


def test_what_was_staged_by_a_requeue_that_was_killed_goes(layout: Layout) -> None:
    staged = layout.root / "tape" / f".{SESSION}.{2**22 + 1}.tmp"
    staged.mkdir(parents=True)
    (staged / f"{WINDOW}.tape").write_bytes(b"%d\t%s\n" % (NOON, frame(("AAPL", 1))))
    assert recover(layout) == []
    assert not staged.exists()


def test_a_requeue_holds_the_lock_of_its_session(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = module._write_tapes

    def looking(folder: Path, session: str, lines: Any) -> Any:
        assert lock.is_held(layout.lock(session))
        return work(folder, session, lines)

    monkeypatch.setattr(module, "_write_tapes", looking)
    assert requeue(layout, quarantine(layout, (row(1), b"one"))) is not None
