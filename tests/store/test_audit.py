from __future__ import annotations

import fcntl
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stocktrace.clock import Clock
from stocktrace.errors import StoreError
from stocktrace.store import audit as module
from stocktrace.store.audit import FIRST_HASH, AuditLog, check_audit_log
from tests.conftest import NOON, tree

#: Appends 50 events, beside another process that does the same.
WRITER = """
import sys
from pathlib import Path
from stocktrace.store.audit import AuditLog
audit = AuditLog(Path(sys.argv[1]), sys.argv[2])
for number in range(50):
    audit("event", number=number)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log" / "audit.jsonl"


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_an_event_is_a_line_with_time_session_facts_and_both_hashes(path: Path) -> None:
    audit = AuditLog(path, "mine", Clock(wall=lambda: NOON))
    audit("start", tickers=["AAPL"])
    audit("end", state="complete")
    first, second = events(path)
    text = path.read_text().splitlines()[0].partition(', "hash"')[0]
    assert first == {
        "at": "2026-11-23T14:30:00+00:00",
        "event": "start",
        "session": "mine",
        "tickers": ["AAPL"],
        "previous": FIRST_HASH,
        "hash": hashlib.blake2b(text.encode(), digest_size=16).hexdigest(),
    }
    assert second["previous"] == first["hash"]
    assert list(check_audit_log(path)) == []


def test_70_events_are_on_the_disk_after_a_sync_of_the_log(
    path: Path, disk_steps: list[str]
) -> None:
    audit = AuditLog(path, "mine")
    audit("start")
    assert "sync audit.jsonl" not in disk_steps
    for _ in range(2):  # the second one has nothing to sync
        audit.sync()
    assert disk_steps[-1] == "sync audit.jsonl"
    assert disk_steps.count("sync audit.jsonl") == 1


def test_two_processes_make_one_chain(path: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in "ab"]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert list(check_audit_log(path)) == []
    for name in "ab":
        assert [e["number"] for e in events(path) if e["session"] == name] == list(range(50))


def test_a_changed_byte_is_found_at_its_line(path: Path) -> None:
    audit = AuditLog(path, "mine")
    for number in range(3):
        audit("event", number=number)
    whole = path.read_bytes()
    ends = [at for at, byte in enumerate(whole) if byte == 10]
    for position in range(len(whole)):
        if position in ends:
            continue
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        line = 1 + sum(end < position for end in ends)
        assert any(f"line {line}:" in words for words in check_audit_log(path)), position


@pytest.mark.parametrize("gone", [0, 1])
def test_a_line_that_is_missing_is_found(path: Path, gone: int) -> None:
    audit = AuditLog(path, "mine")
    for number in range(3):
        audit("event", number=number)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:gone] + lines[gone + 1 :]))
    reason = "the beginning is missing" if gone == 0 else "was changed or is missing"
    (words,) = check_audit_log(path)
    assert reason in words


def test_lines_in_another_order_are_found(path: Path) -> None:
    audit = AuditLog(path, "mine")
    for number in range(3):
        audit("event", number=number)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2] + lines[1])
    assert list(check_audit_log(path))


def test_a_truncated_last_line_becomes_a_fact_of_the_next_one(path: Path) -> None:
    audit = AuditLog(path, "mine")
    audit("one")
    audit("two")
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert list(check_audit_log(path)) == [f"{path}, line 2: the last line is truncated"]
    audit("three")
    first, second = path.read_bytes().splitlines()
    assert first == whole.splitlines()[0]
    assert json.loads(second)["event"] == "three"
    assert json.loads(second)["torn"] == whole.splitlines()[1][:-19].decode()
    assert list(check_audit_log(path)) == []


@pytest.mark.parametrize("what", ["end", "whole line", "end of a line", "lines"])
def test_70_lines_that_a_power_cut_made_zeros_are_cut_off_with_those_after_them(
    path: Path, what: str
) -> None:
    audit = AuditLog(path, "mine")
    for event in ("one", "two", "three", "four"):
        audit(event)
    one, two, three, four = path.read_bytes().splitlines(keepends=True)
    damaged = {
        "end": one + two + three + bytes(len(four)),
        "whole line": one + bytes(len(two)) + three + four,
        "end of a line": one + two[:30] + bytes(len(two) - 30) + three + four,
        "lines": one + bytes(len(two + three + four)),
    }
    path.write_bytes(damaged[what])
    AuditLog(path, "").mend()
    assert list(check_audit_log(path)) == []
    kept = [event["event"] for event in events(path)]
    assert kept == (["one", "two", "three", "mend"] if what == "end" else ["one", "mend"])
    assert events(path)[-1]["torn"]
    before = path.read_bytes()
    AuditLog(path, "").mend()
    assert path.read_bytes() == before


def test_a_changed_byte_is_not_taken_for_a_power_cut(path: Path) -> None:
    audit = AuditLog(path, "mine")
    audit("one")
    audit("two")
    path.write_bytes(path.read_bytes().replace(b"two", b"six"))
    AuditLog(path, "").mend()
    AuditLog(path, "other")("three")
    assert [event["event"] for event in events(path)] == ["one", "six", "three"]
    assert list(check_audit_log(path)) != []


@pytest.mark.parametrize("length", [65_000, 65_536, 70_000, (1 << 20) + 1, 3 << 20])
def test_80_a_long_line_is_part_of_the_chain(path: Path, length: int) -> None:
    audit = AuditLog(path, "mine")
    audit("one")
    audit("long", text="x" * length)
    audit("three")
    assert list(check_audit_log(path)) == []


def test_a_log_that_is_long_is_rotated_and_the_chain_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROTATE_BYTES", 500)
    stamps = iter(range(NOON, NOON + 10**12, 10**9))
    audit = AuditLog(path, "mine", Clock(wall=lambda: next(stamps)))
    for number in range(7):
        audit("event", number=number)
    names = tree(path.parent)
    assert [name for name in names if name.startswith("audit-")] == [
        "audit-20261123T143002.000000Z.jsonl",
        "audit-20261123T143005.000000Z.jsonl",
    ]
    parts = [path.parent / name for name in names if name.startswith("audit-")]
    numbers = [event["number"] for part in [*parts, path] for event in events(part)]
    assert numbers == list(range(7))
    assert list(check_audit_log(path)) == []
    parts[0].unlink()
    assert list(check_audit_log(path)) == [f"{parts[1]}, line 1: the beginning is missing"]


@pytest.mark.parametrize("step_s", [-7200, 0])
def test_80_a_clock_that_is_set_back_between_rotations_does_not_break_the_chain(
    path: Path, monkeypatch: pytest.MonkeyPatch, step_s: int
) -> None:
    monkeypatch.setattr(module, "ROTATE_BYTES", 500)
    stamps = (NOON + number * step_s * 10**9 for number in range(12))
    audit = AuditLog(path, "mine", Clock(wall=lambda: next(stamps)))
    for number in range(12):
        audit("event", number=number)
    parts = sorted(path.parent.glob("audit-*.jsonl"))
    assert len(parts) == 4
    assert [event["number"] for part in parts for event in events(part)] == list(range(12))
    assert list(check_audit_log(path)) == []


def test_80_nobody_rotates_the_log_while_a_check_lists_its_files(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    AuditLog(path, "mine")("event")
    rotated, refused = module._rotated, list[bool]()

    def try_to_lock(path: Path) -> list[Path]:
        with path.with_suffix(".lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                refused.append(True)
        return rotated(path)

    monkeypatch.setattr(module, "_rotated", try_to_lock)
    assert list(check_audit_log(path)) == []
    assert refused == [True]
    AuditLog(path, "mine")("event")  # the lock was released


def test_a_missing_log_is_valid(path: Path) -> None:
    assert list(check_audit_log(path)) == []


def test_facts_that_json_cannot_hold_are_written_as_text(path: Path) -> None:
    AuditLog(path, "mine")("event", where=Path("a/b"), error=ValueError("no"))
    (event,) = events(path)
    assert (event["where"], event["error"]) == ("a/b", "no")


def test_a_log_that_cannot_be_written_is_an_error(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(StoreError, match="Cannot write"):
        AuditLog(path, "mine")("event")
