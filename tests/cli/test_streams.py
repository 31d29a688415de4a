"""Stories 55, 56, 57: standard streams that are closed, without a reader, or not read."""

from __future__ import annotations

import contextlib
import logging
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stocktrace.cli.streams import MAX_WAITING_BYTES, ProtectedStream
from stocktrace.simulator import SyntheticMarket
from stocktrace.store.layout import Layout
from stocktrace.trade import Trade
from tests import remains
from tests.cli.conftest import (
    PATIENCE_S,
    STOCKTRACE,
    everything_is_recorded,
    ran,
    sealed,
    started,
)
from tests.conftest import NOON, Studio
from tests.waiting import eventually

# --- 56: closed ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "closed",
    [
        "0<&- 1>&- 2>&-",
        *(
            pytest.param(closed, marks=pytest.mark.slow)
            for closed in ("2>&-", "1>&-", "0<&-", "0<&- 2>&-")
        ),
    ],
)
def test_56_a_capture_whose_standard_streams_are_closed_records(
    studio: Studio, closed: str
) -> None:
    shell = ("bash", "-c", f'exec "$@" {closed}', "_")
    with studio.exchange(SyntheticMarket(rate=2000), settle=0.1) as exchange:
        null = subprocess.DEVNULL
        with started(studio, exchange, *shell, stdout=null, stderr=null) as process:
            exchange.wait_for(lambda each: each.sent_trades > 1000, PATIENCE_S)
            for number in (0, 1, 2):
                name = Path(f"/proc/{process.pid}/fd/{number}").readlink()
                assert not name.is_relative_to(studio.data_dir), "a log line would go there"
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)
        everything_is_recorded(studio, exchange)
    assert process.returncode == 143
    assert studio.report().state == "interrupted"


def test_56_a_command_whose_standard_error_is_closed_has_its_status(tmp_path: Path) -> None:
    for closed in ("1>&-", "2>&-", "1>&- 2>&-"):
        words = (*STOCKTRACE, "sessions", "--data-dir", str(tmp_path / "nowhere"))
        assert ran("bash", "-c", f'exec "$@" {closed}', "_", *words).returncode == 2


# --- 57: without a reader ------------------------------------------------------------------------


@pytest.fixture
def nobody() -> Iterator[int]:
    """A pipe that nobody reads from any more."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


def test_57_verify_without_a_reader_exits_with_the_status_of_its_findings(
    a_whole_session: Layout, tmp_path: Path, nobody: int
) -> None:
    layout = remains.copy(a_whole_session, tmp_path / "data")
    command = [*STOCKTRACE, "verify", "--data-dir", str(layout.root)]
    assert subprocess.run(command, stdout=nobody, check=False).returncode == 0
    next(layout.dataset.glob("*/*.parquet")).unlink()
    for streams in ({"stdout": nobody}, {"stdout": nobody, "stderr": nobody}):
        assert subprocess.run(command, check=False, **streams).returncode == 1  # type: ignore[call-overload]


def test_57_a_capture_without_a_reader_has_its_own_status(studio: Studio, nobody: int) -> None:
    none: dict[str, Any] = {"stdout": nobody, "stderr": nobody}
    with started(studio, "ws://127.0.0.1:1", lasting="300ms", **none) as process:
        assert process.wait(PATIENCE_S) == 1
    studio.report()  # the only one
    again = Studio(studio.data_dir / "again", studio.key)
    with (
        studio.exchange(SyntheticMarket(rate=2000), settle=0.1) as exchange,
        started(again, exchange, lasting="2s", **none) as process,
    ):
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize(
    "form",
    ["--csv", *(pytest.param(form, marks=pytest.mark.slow) for form in ("--json", "--tail=0"))],
)
def test_57_a_command_that_prints_rows_ends_quietly_when_its_reader_has_gone(
    tmp_path: Path, form: str
) -> None:
    layout = sealed(tmp_path, *(Trade("AAPL", 1.5, NOON // 10**6 + n, 1.0) for n in range(10_000)))
    ran(*STOCKTRACE, "convert", "--data-dir", str(layout.root), check=True)
    command = f"{' '.join(STOCKTRACE)} trades AAPL {form} --data-dir {layout.root}"
    done = ran("bash", "-c", f"set -o pipefail; {command} | head -1")
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)


def test_57_a_full_disk_behind_standard_output_is_a_failure_in_one_sentence(data: Path) -> None:
    command = f"{' '.join(STOCKTRACE)} trades AAPL --data-dir {data}"
    done = ran("bash", "-c", f"{command} > /dev/full")
    assert (done.returncode, done.stderr) == (
        1,
        "stocktrace: The system: No space left on device.\n",
    )


# --- 55: not read --------------------------------------------------------------------------------


@pytest.fixture
def hung() -> Iterator[int]:
    """A terminal that is full, and from which nobody reads."""
    reading, writing = pty.openpty()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 1000)
    os.set_blocking(writing, True)
    yield writing
    os.close(writing)
    os.close(reading)


def test_55_a_capture_ends_on_time_even_if_nobody_reads_its_terminal(
    studio: Studio, hung: int
) -> None:
    with studio.exchange(SyntheticMarket(rate=2000), settle=0.1) as exchange:
        streams: dict[str, Any] = {"stdin": hung, "stdout": hung, "stderr": hung}
        with started(studio, exchange, lasting="3s", **streams) as process:
            assert process.wait(PATIENCE_S) == 0
        everything_is_recorded(studio, exchange)
    assert studio.report().state == "complete"


@pytest.mark.slow
def test_55_a_capture_obeys_sigterm_even_if_nobody_reads_its_terminal(
    studio: Studio, hung: int
) -> None:
    with studio.exchange(SyntheticMarket(rate=2000), settle=0.1) as exchange:
        streams: dict[str, Any] = {"stdin": hung, "stdout": hung, "stderr": hung}
        with started(studio, exchange, roll_interval="1s", **streams) as process:
            eventually(lambda: list(studio.data_dir.rglob("*.parquet")), within=PATIENCE_S)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 143
        everything_is_recorded(studio, exchange)
    assert studio.report().state == "interrupted"


def test_55_lines_that_nobody_reads_are_dropped_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    reading, writing = os.pipe()
    stream = ProtectedStream(writing, is_error=True)
    stream.write_in_background()
    written = 2 * MAX_WAITING_BYTES // 10 + 20_000  # the pipe takes some, too
    for _ in range(written):
        stream.write(b"012345678\n")
    assert stream.is_behind
    assert not caplog.records
    os.set_blocking(reading, False)
    taken = bytearray()

    def has_caught_up() -> bool:
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(reading, MAX_WAITING_BYTES):
                taken.extend(piece)
        return bool(caplog.records)

    eventually(has_caught_up)
    has_caught_up()  # what came between the last reading and the message
    assert not stream.is_behind
    stream.write(b"again\n")
    stream.finish()
    assert os.read(reading, 10) == b"again\n"
    assert set(bytes(taken).split(b"\n")) == {b"012345678", b""}
    dropped = written - taken.count(b"\n")
    assert caplog.messages == [
        f"{dropped:,} lines of output were dropped because nobody read standard error."
    ]
    os.close(writing)
    os.close(reading)


def test_55_a_slow_reader_gets_everything_at_the_end() -> None:
    reading, writing = os.pipe()
    stream = ProtectedStream(writing, is_error=True)
    stream.write_in_background()
    stream.write(b"x" * 3 * MAX_WAITING_BYTES)
    taken = bytearray()

    def read() -> None:
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            while piece := pipe.read(10_000):
                taken.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    stream.finish()
    assert not stream.gone
    os.close(writing)
    reader.join()
    assert len(taken) == 3 * MAX_WAITING_BYTES
