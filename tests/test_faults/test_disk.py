"""Stories 28, 30 and 31: disks that refuse, fill up and rot."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stocktrace import cli
from stocktrace.errors import DiskFull, StocktraceError
from stocktrace.record.publish import rebuild_window
from stocktrace.record.recovery import recover
from stocktrace.simulator import Simulator, SyntheticMarket
from stocktrace.store.layout import Layout
from tests.conftest import SESSION, Scenario, Studio, frame, published, sent, taped, trades
from tests.test_faults.conftest import (
    PART,
    SLACK,
    all_sent,
    crashed_session,
    findings,
    record,
    report_of,
)


def path_of(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


def broken(call: Callable[..., int | None], ending: str) -> Callable[..., int | None]:
    """``call`` on a descriptor, except that files of this ending give EIO."""

    def broken(descriptor: int, *rest: object) -> int | None:
        if path_of(descriptor).endswith(ending):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return call(descriptor, *rest)

    return broken


@pytest.mark.parametrize(
    ("call", "ending"),
    [
        ("write", ".tape"),
        ("fsync", ".tape"),
        ("write", ".csv.open"),
        ("write", ".jsonl.open"),
        ("write", "audit.jsonl"),
    ],
    ids=lambda value: value,
)
def test_28_a_disk_with_errors_fails_the_run_within_5_s(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, call: str, ending: str
) -> None:
    began = 0.0

    def scenario(exchange: Simulator) -> Scenario:
        nonlocal began
        yield trades(300)
        monkeypatch.setattr(os, call, broken(getattr(os, call), ending))
        began = time.monotonic()
        exchange.send_raw(frame(("AAPL", -1)))  # something for the quarantine
        exchange.drop_all()  # and for the audit log
        yield lambda _: False

    with studio.exchange(SyntheticMarket(rate=1000), settle=0.05) as exchange:
        with pytest.raises(StocktraceError) as failed:
            record(
                studio, exchange, scenario(exchange), flush_interval="100ms", sync_interval="100ms",
                roll_interval="2s",
            )  # fmt: skip
        assert time.monotonic() - began < 5 + SLACK
    assert "Input/output error" in str(failed.value)
    assert re.search(r"Cannot write \S+", str(failed.value))
    monkeypatch.undo()
    session = report_of(studio.data_dir).session
    kept = taped(studio.data_dir, session)
    everything = all_sent(exchange)
    assert len(kept) >= 3
    assert kept == everything[: len(kept)]
    recover(Layout(studio.data_dir))
    assert published(studio.data_dir) == {
        ticker: [row for row in rows if row[1] > 0] for ticker, rows in sent(kept).items()
    }


def test_28_a_window_that_cannot_be_opened_is_not_a_disconnect(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The feed's thread writes the tape: its errors must not be taken for the socket's."""
    opened = os.open

    def scenario() -> Scenario:
        yield trades(10)

        def refuse(path: str | Path, *rest: int, **options: int) -> int:
            if str(path).endswith(".tape"):
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
            return opened(path, *rest, **options)

        monkeypatch.setattr(os, "open", refuse)
        yield lambda _: False

    with studio.exchange(SyntheticMarket(rate=1000), settle=0.05) as exchange:
        with pytest.raises(StocktraceError, match="Too many open files"):
            record(studio, exchange, scenario(), roll_interval="500ms", lasting=10.0)
        assert exchange.dials == 1
    assert report_of(studio.data_dir).state == "failed"


@dataclass(slots=True)
class Small:
    """A small disk, and a way to make it a large one."""

    root: Path
    make_room: Callable[[], None]


def _mounted(root: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "stocktrace-test", str(root)]
    return (
        shutil.which("mount") is not None
        and not subprocess.run(command, capture_output=True, check=False).returncode
    )


class Budget:
    """Where nothing can be mounted: ``os.write`` itself takes so many bytes and no more."""

    def __init__(self, root: Path, size: int) -> None:
        self.left = size
        self._root = str(root)
        self._write = os.write

    def __call__(self, descriptor: int, data: bytes) -> int:
        if not path_of(descriptor).startswith(self._root):
            return self._write(descriptor, data)
        if self.left <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._write(descriptor, data[: self.left])
        self.left -= written
        return written


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Small]:
    """A file system of 1 MB; without the rights to mount one, writes that end after 1 MB."""
    root = tmp_path / "small"
    root.mkdir()
    if _mounted(root):

        def grow() -> None:
            subprocess.run(["mount", "-o", "remount,size=64m", str(root)], check=True)

        try:
            yield Small(root, grow)
        finally:
            subprocess.run(["umount", "-l", str(root)], check=True)
    else:
        budget = Budget(root, 1 << 20)
        monkeypatch.setattr(os, "write", budget)
        monkeypatch.setattr("stocktrace.store.files.free_bytes", lambda _: max(0, budget.left))
        yield Small(root, lambda: setattr(budget, "left", 1 << 30))


def test_30_a_full_disk_leaves_no_partial_row_and_a_clean_resume(
    studio: Studio, small: Small
) -> None:
    studio.data_dir = small.root / "data"
    with studio.exchange(SyntheticMarket(rate=5000), settle=0.05) as exchange:
        with pytest.raises(DiskFull) as failed:
            record(
                studio, exchange, lasting=30.0, flush_interval="100ms", tickers=["AAPL", "MSFT"],
                pong_timeout="10s",
            )  # fmt: skip
        everything = all_sent(exchange)
    assert "Make room, then run `stocktrace recover`" in str(failed.value)
    small.make_room()
    session = next((studio.data_dir / "tape").iterdir()).name
    kept = taped(studio.data_dir, session)
    assert len(kept) > 100
    assert kept == everything[: len(kept)]
    recover(Layout(studio.data_dir))
    assert published(studio.data_dir) == sent(kept)
    assert findings(studio.data_dir) == []
    with studio.exchange(SyntheticMarket(rate=500), settle=0.05) as exchange:
        again = record(studio, exchange, enough())
        more = all_sent(exchange)
    resumed = taped(studio.data_dir, again.session)
    assert resumed == more[: len(resumed)]
    assert again.balanced
    assert findings(studio.data_dir) == []


def enough() -> Scenario:
    yield trades(100)


def test_30_the_capture_stops_cleanly_before_the_disk_is_full(studio: Studio, small: Small) -> None:
    studio.data_dir = small.root / "data"
    with studio.exchange(SyntheticMarket(rate=3000), settle=0.05) as exchange:
        with pytest.raises(DiskFull):
            record(
                studio, exchange, lasting=30.0, flush_interval="100ms", min_free_space="500KB",
                tickers=["AAPL", "MSFT"],
            )  # fmt: skip
        everything = all_sent(exchange)
    report = report_of(studio.data_dir)
    assert report.state == "failed"
    assert "left. Make room" in report.reason
    kept = taped(studio.data_dir, report.session)
    assert kept == everything[: len(kept)]
    for path in studio.data_dir.glob("csv/*/*"):
        assert path.read_bytes().endswith(b"\n")
    small.make_room()
    recover(Layout(studio.data_dir))
    assert published(studio.data_dir) == sent(kept)
    assert findings(studio.data_dir) == []


def flips(text: bytes, count: int = 12) -> Iterator[bytes]:
    """``text`` with one bit of it the other way, here and there."""
    for n in range(count):
        position = n * (len(text) - 1) // (count - 1)
        flipped = bytes([text[position] ^ (1 << n % 8)])
        yield text[:position] + flipped + text[position + 1 :]


def verified(data_dir: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    status = cli.run(["verify", SESSION, "--data-dir", str(data_dir), *flags])
    return status, capsys.readouterr().out


def read_as(path: Path) -> Any:
    """All that a reader relies on in a Parquet file: rows and statistics."""
    try:
        facts = pq.read_metadata(path)
        columns = [
            facts.row_group(group).column(column).statistics
            for group in range(facts.num_row_groups)
            for column in range(facts.num_columns)
        ]
        told = [each and (each.min, each.max, each.null_count) for each in columns]
        return pq.read_table(path).to_pydict(), told
    except (OSError, ArithmeticError, pa.ArrowException) as error:
        return type(error)


FRAMES = [frame(("AAPL", n), ("AAPL", n + 0.25)) for n in range(1, 21)]


def test_31_verify_names_a_parquet_file_with_other_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = Layout(tmp_path)
    crashed_session(tmp_path, FRAMES)
    recover(layout)
    path = layout.window_file(PART)
    text, whole, named = path.read_bytes(), read_as(path), 0
    for flipped in flips(text, 100):
        path.write_bytes(flipped)
        status, shown = verified(tmp_path, capsys)
        if f"{path}: " in shown:
            assert status == 1
            named += 1
        else:  # a byte that says nothing to any reader, as in the name of the writer
            rows, statistics = read_as(path)
            assert rows == whole[0]
            for found, true in zip(statistics, whole[1], strict=True):
                assert found in (true, None)  # without them, a reader skips nothing
    assert named > 25
    assert verified(tmp_path, capsys, "--repair")[0] == 0
    assert verified(tmp_path, capsys)[0] == 0
    assert read_as(path) == whole


@pytest.mark.parametrize("kind", ["csv", "archive", "quarantine"])
def test_31_verify_names_the_file_with_bit_rot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    layout = Layout(tmp_path)
    crashed_session(tmp_path, [*FRAMES, frame(("AAPL", -1))])
    if kind == "csv":
        rebuild_window(layout, PART)
    else:
        recover(layout)
    path = {
        "csv": layout.csv("AAPL", PART),
        "archive": layout.archived_tape(PART),
        "quarantine": layout.quarantine(PART),
    }[kind]
    text = path.read_bytes()
    for flipped in flips(text):
        path.write_bytes(flipped)
        status, shown = verified(tmp_path, capsys)
        assert status == 1
        assert f"{path}: " in shown


def test_31_verify_reports_a_tape_with_bit_rot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tape that is not compressed has no checksum: it differs from its views."""
    layout = Layout(tmp_path)
    tape = crashed_session(tmp_path, FRAMES)
    text = tape.read_bytes()
    recover(layout)
    layout.archived_tape(PART).unlink()
    tape.write_bytes(text)
    assert verified(tmp_path, capsys) == (0, "1 session verified, 0 findings\n")
    for flipped in flips(text, 20):
        tape.write_bytes(flipped)
        status, shown = verified(tmp_path, capsys)
        assert status == 1
        assert str(tmp_path) in shown
