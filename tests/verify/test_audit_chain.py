"""The audit log through the life of a data folder: one chain over all that write to it."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stocktrace.errors import DiskFull
from stocktrace.record.recovery import recover
from stocktrace.store import audit as module
from stocktrace.store.audit import AuditLog, check_audit_log
from stocktrace.store.layout import Layout
from stocktrace.verify import verify
from tests import remains
from tests.conftest import SESSION, Studio
from tests.remains import STILL
from tests.verify.conftest import cut_off


def events(layout: Layout) -> list[tuple[str, str]]:
    """Session and event of each line."""
    lines = [json.loads(line) for line in layout.audit.read_text().splitlines()]
    return [(line["session"], line["event"]) for line in lines]


def test_captures_recoveries_and_repairs_write_one_chain(studio: Studio) -> None:
    layout = remains.dead(studio.data_dir)

    quick: dict[str, Any] = {"backoff_base": "10ms", "backoff_floor": "10ms"}
    with studio.exchange() as exchange:
        report = studio.record(exchange, ["AAPL"], cut_off(exchange), **quick)
    layout.window_file(remains.PARTS[1]).unlink()
    dead = json.loads(layout.report(SESSION).read_text())
    layout.report(SESSION).write_text(json.dumps({**dead, "books": {}}))
    assert all(one.repaired for one in verify(layout, SESSION, repair=True))
    found = events(layout)
    assert (SESSION, "recover") in found
    assert (SESSION, "repair") in found
    live = [event for session, event in found if session == report.session]
    assert [event for event in live if event not in ("roll", "convert")] == [
        "start", "gap", "connect", "disconnect", "retry", "gap", "connect", "end",
    ]  # fmt: skip
    assert live.count("roll") == live.count("convert") == len(report.windows)
    assert list(check_audit_log(layout.audit)) == []


def test_threads_of_one_process_write_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"

    def write(name: str) -> None:
        audit = AuditLog(path, name)
        for number in range(40):
            audit("event", number=number)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert list(check_audit_log(path)) == []
    assert len(path.read_bytes().splitlines()) == 160


@pytest.mark.parametrize("taken", [0, 1, 50, 150])
def test_a_line_that_is_written_half_leaves_the_chain_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    """Found by the soak: a full disk is no reason to call the log changed."""
    path = tmp_path / "audit.jsonl"
    audit = AuditLog(path, "mine", STILL)
    audit("one")
    write = os.write
    calls = [taken]

    def full(descriptor: int, data: bytes) -> int:
        if calls and (size := calls.pop()):
            return write(descriptor, bytes(data)[:size])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DiskFull):
        audit("two")
    monkeypatch.undo()
    assert path.read_bytes().count(b"\n") == 1
    assert list(check_audit_log(path)) == []
    audit("three")
    assert list(check_audit_log(path)) == []


def test_a_kill_before_the_log_is_rotated_leaves_the_chain_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.jsonl"
    monkeypatch.setattr(module, "ROTATE_BYTES", 300)
    audit = AuditLog(path, "mine")

    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    rotations = 0
    for number in range(12):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "rename", killed)
            try:
                audit("event", number=number)
            except Killed:
                rotations += 1
    assert rotations > 3
    audit("event", number=12)
    parts = sorted(tmp_path.glob("audit-*.jsonl"))
    lines = [line for part in parts for line in part.read_text().splitlines()]
    numbers = [json.loads(line)["number"] for line in lines]
    assert numbers == list(range(13))
    assert list(check_audit_log(path)) == []


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("log") / "audit.jsonl"
    audit = AuditLog(path, SESSION, STILL)
    for number in range(6):
        audit("event", number=number, text="é\u2028")
    return path.read_bytes()


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_change_except_a_cut_at_a_line_end_is_found(
    tmp_path_factory: pytest.TempPathFactory, chain: bytes, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("log") / "audit.jsonl"
    begin = data.draw(st.integers(0, len(chain) - 1))
    end = data.draw(st.integers(begin, min(len(chain), begin + 400)))
    changed = chain[:begin] + data.draw(st.binary(max_size=8)) + chain[end:]
    whole = chain.startswith(changed) and (not changed or changed.endswith(b"\n"))
    path.write_bytes(changed)
    assert (list(check_audit_log(path)) == []) == whole


def test_the_log_survives_a_recovery(tmp_path: Path) -> None:
    layout = remains.dead(tmp_path)
    before = layout.audit.read_bytes() if layout.audit.exists() else b""
    recover(layout, STILL)
    assert layout.audit.read_bytes().startswith(before)
    assert list(check_audit_log(layout.audit)) == []
