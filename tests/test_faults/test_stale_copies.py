"""Stories 62 and 69: files that an earlier copy of the folder put over newer ones, or beside them.

Whatever was copied, no published trade and no refused row is lost, in whatever order ``recover``
and ``verify --repair`` run; what neither can decide is left, and is a finding.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from stocktrace.errors import StoreError
from stocktrace.record.publish import publish_window, rebuild_window
from stocktrace.record.recovery import recover
from stocktrace.store.audit import AuditLog
from stocktrace.store.compaction import compact_date, finish_swap, replace_date
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.verify import verify
from tests import remains
from tests.conftest import SESSION
from tests.remains import PARTS, PRICES, STILL, prices

DATE = "2026-11-23"
FIRST, SECOND = PARTS[:2]
OTHER = b"20261123T142958Z_000000"
Damage = Callable[[Layout, Path], Any]


@pytest.fixture
def layout(a_whole_session: Layout, tmp_path: Path) -> Layout:
    return remains.copy(a_whole_session, tmp_path / "data")


def text_of(layout: Layout, window: WindowId) -> bytes:
    with layout.archived_tape(window).open("rb") as file:
        return b"".join(zstandard.ZstdDecompressor().read_to_iter(file))


def archive(layout: Layout, window: WindowId, text: bytes) -> None:
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    layout.archived_tape(window).write_bytes(compressor.compress(text))


def without_end(text: bytes, lines: int) -> bytes:
    return b"".join(text.splitlines(keepends=True)[:-lines])


def stale_segments(layout: Layout, scratch: Path) -> list[Path]:
    old = Layout(scratch)
    rebuild_window(old, SECOND, layout.archived_tape(SECOND))
    shutil.copytree(scratch / "csv", layout.root / "csv", dirs_exist_ok=True)
    return layout.sealed_segments(SECOND)


def shorter_segment(layout: Layout, scratch: Path) -> None:
    path = stale_segments(layout, scratch)[0]
    path.write_bytes(without_end(path.read_bytes(), 1))


def open_segments(layout: Layout, scratch: Path) -> None:
    for path in stale_segments(layout, scratch):
        path.write_bytes(path.read_bytes()[:-9])
        path.rename(f"{path}.open")


def stale_report(layout: Layout, _: Path) -> None:
    path = layout.report(SESSION)
    report = json.loads(path.read_text())
    report |= {"state": "running", "ended": None, "hashes": None, "gaps": [], "reconnects": 0}
    report |= {
        "unpublished": [SECOND.window],
        "windows": {FIRST.window: report["windows"][FIRST.window]},
    }
    report["books"] = report["windows"][FIRST.window]
    halves = {"AAPL": (2, 0), "MSFT": (2, 1)}
    report["per_ticker"] = {
        name: {"trades": recorded + refused, "recorded": recorded, "quarantined": refused}
        for name, (recorded, refused) in halves.items()
    }
    path.write_text(json.dumps(report))


def stale_parquet(layout: Layout, scratch: Path) -> None:
    old = Layout(scratch)
    old.tapes(SESSION).mkdir(parents=True)
    old.tape(SECOND).write_bytes(without_end(text_of(layout, SECOND), 3))
    publish_window(old, SECOND, whole=False)
    shutil.copy(old.window_file(SECOND), layout.window_file(SECOND))


def before_and_after_compaction(layout: Layout, _: Path) -> None:
    old = {path: path.read_bytes() for path in layout.date_folder(DATE).iterdir()}
    compact_date(layout, DATE)
    finish_swap(layout, DATE)
    for path, data in old.items():
        path.write_bytes(data)


def two_compactions(layout: Layout, _: Path) -> None:
    compact_date(layout, DATE)
    finish_swap(layout, DATE)
    (old,) = layout.date_folder(DATE).iterdir()
    data = old.read_bytes()
    replace_date(layout, DATE, [old])
    finish_swap(layout, DATE)
    old.write_bytes(data)


def unpublished(layout: Layout, _: Path) -> None:
    layout.window_file(SECOND).unlink()
    path = layout.report(SESSION)
    path.write_text(json.dumps({**json.loads(path.read_text()), "unpublished": [SECOND.window]}))


def unpublished_with_one_segment(layout: Layout, scratch: Path) -> None:
    unpublished(layout, scratch)
    stale_segments(layout, scratch)[0].unlink()


def run(layout: Layout, step: str) -> None:
    if step == "recover":
        recover(layout, STILL)
    else:
        list(verify(layout, SESSION, repair=True))


#: After these, nothing is left to say.
CURED: dict[str, Damage] = {
    "a sealed segment that is shorter": shorter_segment,
    "open segments": open_segments,
    "a report": stale_report,
    "a Parquet file": stale_parquet,
    "windows beside a compacted date": before_and_after_compaction,
    "a compacted date beside a newer one": two_compactions,
}
BOTH_ORDERS = pytest.mark.parametrize(
    "steps",
    [
        pytest.param(["recover", "repair"], id="recover"),
        pytest.param(["repair", "recover"], id="repair", marks=pytest.mark.slow),
    ],
)


@BOTH_ORDERS
@pytest.mark.parametrize("damage", CURED)
def test_62_what_a_stale_copy_put_there_is_cured(
    layout: Layout, tmp_path: Path, damage: str, steps: list[str]
) -> None:
    quarantine = refused(layout)
    CURED[damage](layout, tmp_path / "scratch")
    for step in steps:
        run(layout, step)
    assert prices(layout) == PRICES
    assert refused(layout) == quarantine
    assert remains.problems(layout) == []
    assert list(layout.root.glob("csv/*/*")) == []


def refused(layout: Layout) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in layout.root.glob("quarantine/*")}


def put_tape(change: Callable[[bytes], bytes], window: WindowId = SECOND) -> Damage:
    return lambda layout, _: archive(layout, window, change(text_of(layout, window)))


def only_a_stale_tape(layout: Layout, _: Path) -> None:
    text = text_of(layout, FIRST)
    layout.archived_tape(FIRST).unlink()
    layout.tape(FIRST).write_bytes(without_end(text, 2))


def truncated_archive_beside_the_tape(layout: Layout, _: Path) -> None:
    text, path = text_of(layout, SECOND), layout.archived_tape(SECOND)
    layout.tape(SECOND).write_bytes(text)
    path.write_bytes(path.read_bytes()[:-20])


def only_a_tape_of_another_session(layout: Layout, _: Path) -> None:
    text = text_of(layout, SECOND).replace(SESSION.encode(), OTHER)
    layout.archived_tape(SECOND).unlink()
    layout.tape(SECOND).write_bytes(text.replace(b'"p":5', b'"p":55'))


def tape_of_another_window(layout: Layout, _: Path) -> None:
    shutil.copy(layout.archived_tape(FIRST), layout.archived_tape(SECOND))


OF_ANOTHER = "is the tape of another session or window: nothing is repaired from it"
LEFT: dict[str, tuple[Damage, str]] = {
    "a shorter archive": (put_tape(lambda text: without_end(text, 3)), "less than the published"),
    "an archive with other prices": (
        put_tape(lambda text: text.replace(b'"p":5', b'"p":55')),
        "than the 4 here: nothing is repaired from it",
    ),
    "only a stale tape": (only_a_stale_tape, "less than the published files and the report"),
    "a truncated archive": (truncated_archive_beside_the_tape, "was set aside because it differs"),
    "a tape of another session": (
        put_tape(lambda text: text.replace(SESSION.encode(), OTHER).replace(b'"p":5', b'"p":55')),
        OF_ANOTHER,
    ),
    "only a tape of another session": (only_a_tape_of_another_session, "was set aside because"),
    "a tape of another window": (tape_of_another_window, OF_ANOTHER),
}


@BOTH_ORDERS
@pytest.mark.parametrize("damage", LEFT)
def test_62_what_cannot_be_decided_is_left_and_reported(
    layout: Layout, tmp_path: Path, damage: str, steps: list[str]
) -> None:
    quarantine = refused(layout)
    act, problem = LEFT[damage]
    act(layout, tmp_path / "scratch")
    for step in steps:
        run(layout, step)
    assert prices(layout) == PRICES
    assert refused(layout) == quarantine
    assert any(problem in text for text in remains.problems(layout)), remains.problems(layout)


def test_62_a_stale_report_whose_tapes_are_deleted_is_left(layout: Layout, tmp_path: Path) -> None:
    log = AuditLog(layout.audit, SESSION)
    for part in PARTS:
        log("delete", file=str(layout.archived_tape(part)), size=1)
        layout.archived_tape(part).unlink()
    stale_report(layout, tmp_path)
    before = remains.snapshot(layout)
    with pytest.raises(StoreError, match="is older than the end of its session, whose tapes were"):
        recover(layout, STILL)
    list(verify(layout, SESSION, repair=True))
    assert remains.snapshot(layout) == before
    assert remains.problems(layout) != []


@pytest.mark.parametrize("step", ["recover", "repair"])
@pytest.mark.parametrize("damage", [unpublished, unpublished_with_one_segment])
def test_69_a_window_that_only_an_archive_has_is_rebuilt(
    layout: Layout, tmp_path: Path, damage: Damage, step: str
) -> None:
    before = layout.window_file(SECOND).read_bytes()
    damage(layout, tmp_path / "scratch")
    run(layout, step)
    assert prices(layout) == PRICES
    assert layout.window_file(SECOND).read_bytes() == before
    assert remains.problems(layout) == []
    assert list(layout.root.glob("csv/*/*")) == []
