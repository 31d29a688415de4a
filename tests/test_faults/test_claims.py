"""Stories 63 to 65: what must be there and is not, and what is there and is false."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stocktrace import cli
from stocktrace.sessions.report import SessionReport
from stocktrace.store import audit
from stocktrace.store.audit import AuditLog, find_breaks
from stocktrace.store.layout import Layout
from stocktrace.verify import check_folder, verify
from tests import remains
from tests.conftest import SESSION
from tests.remains import PARTS

REPORT = f"sessions/{SESSION}.json: "
LATER = "2030-01-01T00:00:00Z"
#: A false value of each field of a report.
FALSE: dict[str, Callable[[Any], Any]] = {
    "session": lambda _: "20261123T142958Z_000000",
    "tickers": lambda tickers: [*tickers, "TSLA"],
    "started": lambda _: LATER,
    "state": lambda _: "complete",
    "reason": lambda _: "its end time was reached",
    "ended": lambda _: LATER,
    "books": lambda books: {name: 2 * count for name, count in books.items()},
    "per_ticker": lambda tickers: {**tickers, "AAPL": {**tickers["AAPL"], "last": LATER}},
    "windows": lambda windows: {
        window: {name: 2 * count for name, count in books.items()}
        for window, books in windows.items()
    },
    "unpublished": lambda _: [PARTS[0].window],
    "files": lambda files: files + 1,
    "size": lambda size: size + 1,
    "gaps": lambda gaps: gaps[1:],
    "changes": lambda _: [{"at": LATER, "by": "cli", "added": ["TSLA"], "removed": []}],
    "reconnects": lambda reconnects: reconnects + 1,
    "latency": lambda _: {"p50": 1.0, "p99": 1.0, "max": 1.0},
    "silent": lambda _: {"AAPL": 60.0},
    "refused": lambda _: {"AAPL": "no"},
    "errors": lambda _: {"no": 1},
    "notices": lambda _: ["all is well"],
    "spilled": lambda _: {PARTS[0].window: ["AAPL"]},
    "duplicates": lambda _: {"AAPL": 1},
    "hashes": lambda hashes: dict(list(hashes.items())[1:]),
    "settings": lambda settings: {**settings, "roll_interval": 1.0},
    "versions": lambda versions: {**versions, "stocktrace": "0"},
    "host": lambda _: "another",
    "pid": lambda pid: pid + 1,
}
#: Fields that change after the end, and are not checked.
UNCHECKED = {
    "upload_error": "only says why files wait in the outbox, which `recover` sends",
    "appended": "a report that says it has lines beside it cannot be read, which is found",
}


@pytest.fixture
def layout(a_whole_session: Layout, tmp_path: Path) -> Layout:
    return remains.copy(a_whole_session, tmp_path / "data")


def prune(layout: Layout) -> None:
    log = AuditLog(layout.audit, SESSION)
    for part in PARTS:
        log("delete", file=str(layout.archived_tape(part)), size=1)
        layout.archived_tape(part).unlink()


def falsify(layout: Layout, field: str) -> None:
    path = layout.report(SESSION)
    report = json.loads(path.read_text())
    report[field] = FALSE[field](report[field])
    path.write_text(json.dumps(report))
    SessionReport.read(path)


def problems(layout: Layout) -> list[str]:
    return [f"{one.path.relative_to(layout.root)}: {one.problem}" for one in check(layout)]


def check(layout: Layout) -> list[Any]:
    return [*check_folder(layout), *(verify(layout, SESSION) if layout.has(SESSION) else ())]


def test_65_each_field_of_a_report_has_a_falsified_value() -> None:
    fields = {field.name for field in msgspec.structs.fields(SessionReport)}
    assert fields == FALSE.keys() | UNCHECKED.keys()


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory, a_whole_session: Layout) -> Layout:
    layout = remains.copy(a_whole_session, tmp_path_factory.mktemp("pruned") / "data")
    prune(layout)
    assert problems(layout) == []
    return layout


@pytest.mark.parametrize("field", FALSE)
def test_65_each_falsified_field_of_a_report_is_found_without_tapes(
    pruned: Layout, field: str
) -> None:
    path = pruned.report(SESSION)
    text = path.read_bytes()
    try:
        falsify(pruned, field)
        found = problems(pruned)
    finally:
        path.write_bytes(text)
    assert [text for text in found if text.startswith(REPORT)], found


#: What the tapes prove, and so what ``verify`` finds even if the audit log has the same falsehood.
PROVEN = {
    "started": "started 2030-01-01 00:00:00+00:00 in the report, 2026-11-23 14:30:00+00:00 on the",
    "state": "is complete in the report, but the tapes do not have its end",
    "ended": "ended 2030-01-01 00:00:00+00:00 in the report, 2026-11-23 14:32:02+00:00 on the",
    "tickers": "its tickers are not those of the tapes",
    "gaps": "1 gap in the report, other than the 2 of the tapes",
    "reconnects": "2 reconnects in the report, 1 on the tapes",
    "refused": "refused tickers are not those on the tapes",
    "errors": "the errors of the server are not those on the tapes",
    "books": "the books: ",
    "windows": f"window {PARTS[0].window}: Books(",
    "per_ticker": "AAPL: 2030-01-01 00:00:00+00:00 last, on disk 2026-11-23 14:32:02+00:00",
    "files": "4 files in the report, 3 on disk",
}


@pytest.mark.parametrize("field", PROVEN)
def test_65_each_field_that_the_tapes_prove_is_compared_with_them_and_repaired(
    layout: Layout, field: str
) -> None:
    before = layout.report(SESSION).read_bytes()
    if field == "books":  # alone; false windows make a balance
        report = {**json.loads(before), "books": {"frames": 1}}
        layout.report(SESSION).write_text(json.dumps(report))
    else:
        falsify(layout, field)
    digests = SessionReport.read(layout.report(SESSION)).digests()
    AuditLog(layout.audit, SESSION)("repair", report=digests)
    found = list(verify(layout, SESSION, repair=True))
    assert any(PROVEN[field] in one.problem for one in found), found
    if field == "state":  # only a person knows which end it had
        assert [one.repaired for one in found] == [False]
    else:
        assert all(one.repaired for one in found)
        assert problems(layout) == []
        assert json.loads(layout.report(SESSION).read_bytes()) == json.loads(before)


def test_65_a_repair_does_not_vouch_for_a_false_field_that_no_tape_has(layout: Layout) -> None:
    falsify(layout, "host")
    falsify(layout, "reconnects")
    host = f"{REPORT}was changed: the audit log has another hash of host"
    assert host in problems(layout)
    assert not all(one.repaired for one in verify(layout, SESSION, repair=True))
    assert problems(layout) == [host]


def test_65_a_report_that_says_running_after_its_end_is_found(layout: Layout) -> None:
    path = layout.report(SESSION)
    path.write_text(path.read_text().replace('"recovered"', '"running"'))
    assert f"{REPORT}says that its session runs, but it has ended: run `stocktrace recover`" in (
        problems(layout)
    )


# --- story 64 ----------------------------------------------------------------------------------


def test_64_a_session_of_which_all_is_gone_is_found_until_its_removal_is_recorded(
    layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> int:
        return cli.run([*arguments, "--data-dir", str(layout.root)])

    assert run("audit", "--removed", SESSION) == 2
    for path in [*layout.root.glob(f"*/date=*/{SESSION}*"), *layout.root.glob(f"*/{SESSION}*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    capsys.readouterr()
    assert run("verify") == 1
    assert f"{SESSION}.json: is missing, and so are the tapes" in capsys.readouterr().out
    assert run("audit", "--removed", SESSION) == 0
    assert run("audit", "--removed", SESSION) == 2
    assert run("verify") == 0


def cut_lines(begin: int | None, end: int | None) -> Callable[[Layout], None]:
    def cut(layout: Layout) -> None:
        lines = layout.audit.read_bytes().splitlines(keepends=True)
        layout.audit.write_bytes(b"".join(lines[begin:end]))

    return cut


def remove_line(layout: Layout) -> None:
    lines = layout.audit.read_bytes().splitlines(keepends=True)
    layout.audit.write_bytes(b"".join(lines[:1] + lines[2:]))


def change_line(layout: Layout) -> None:
    layout.audit.write_bytes(layout.audit.read_bytes().replace(b"event", b"evenT", 1))


def remove_rotated(which: int) -> Callable[[Layout], None]:
    def remove(layout: Layout) -> None:
        sorted(layout.audit.parent.glob("audit-*.jsonl"))[which].unlink()

    return remove


LOST_END = f"does not record the end of session {SESSION}: lines are missing"
DAMAGES: dict[str, tuple[Callable[[Layout], None], str]] = {
    "deleted": (lambda layout: layout.audit.unlink(), LOST_END),
    "head": (cut_lines(1, None), "line 1: the beginning is missing"),
    "tail": (cut_lines(None, 2), LOST_END),
    "line removed": (remove_line, "line 2: the line before it was changed or is missing"),
    "line changed": (change_line, "line 1: the line was changed or is truncated"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_64_a_deleted_or_cut_audit_log_is_found(layout: Layout, damage: str) -> None:
    (end,) = layout.audit.read_bytes().splitlines(keepends=True)
    layout.audit.unlink()
    log = AuditLog(layout.audit, SESSION)
    log("connect")
    log("disconnect")
    log("recover", report=json.loads(end)["report"])
    assert problems(layout) == []
    act, problem = DAMAGES[damage]
    act(layout)
    assert f"log/audit.jsonl: {problem}" in problems(layout)
    log("later")
    assert f"log/audit.jsonl: {problem}" in problems(layout), "it is still found later"


@pytest.mark.parametrize("which", [0, 1, -1])
def test_64_a_rotated_audit_log_that_is_gone_is_found(
    layout: Layout, which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "ROTATE_BYTES", 500)
    log = AuditLog(layout.audit, "")
    for number in range(12):
        log("event", number=number)
    assert problems(layout) == []
    assert list(layout.audit.parent.glob("audit-*.jsonl"))[2:]
    remove_rotated(which)(layout)
    assert len(list(find_breaks(layout.audit))) == 1
    assert problems(layout) != []
