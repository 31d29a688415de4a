"""What commands print for programs, for pipes and for shells."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stocktrace import cli
from stocktrace.cli.streams import ProtectedStream
from stocktrace.sessions.report import Books, SessionReport
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from tests.cli.conftest import PATIENCE_S, STOCKTRACE, ran, running
from tests.conftest import NOON, SESSION, WINDOW
from tests.tables import put, table_of

Command = Callable[..., tuple[int, str, str]]
ADVICE = "Name a file or a pipe."


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A session with 50,000 published trades of one ticker."""
    layout = Layout(tmp_path / "data")
    t = NOON // 10**6
    rows = [(t + number, 1.5 + number, 100.0, "1 12") for number in range(50_000)]
    put(layout, "AAPL", WindowId(SESSION, WINDOW), table_of(rows))
    report = SessionReport(
        SESSION,
        ["AAPL"],
        datetime(2026, 11, 23, 14, 30, tzinfo=UTC),
        state="complete",
        books=Books(trades=50_000, recorded=50_000),
    )
    report.write(layout.report(SESSION))
    return layout


@pytest.fixture
def run(layout: Layout, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*words: str) -> tuple[int, str, str]:
        status = cli.run([*words, "--data-dir", str(layout.root)])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def test_a_table_has_the_last_trades_and_a_program_gets_all(run: Command) -> None:
    _, out, _ = run("trades", "AAPL")
    assert len(out.splitlines()) == 1 + 20
    assert "50000.5" in out.splitlines()[-1].split()
    _, out, _ = run("trades", "AAPL", "--csv")
    assert len(out.splitlines()) == 1 + 50_000
    _, out, _ = run("trades", "AAPL", "--json", "--tail", "3")
    assert [json.loads(line)["price"] for line in out.splitlines()] == [49998.5, 49999.5, 50000.5]


def test_a_table_of_bars_has_ten_digits_and_a_program_gets_all(
    run: Command, layout: Layout
) -> None:
    t = NOON // 10**6
    rows = [(t, 1.0, 0.1, ""), (t + 1, 2.0, 0.2, "")]
    put(layout, "MSFT", WindowId(SESSION, WINDOW), table_of(rows))
    header, line = run("bars", "MSFT")[1].splitlines()
    shown = dict(zip(header.split()[2:], line.split()[3:], strict=True))
    assert (shown["volume"], shown["vwap"]) == ("0.3", "1.666666667")
    (bar,) = [json.loads(each) for each in run("bars", "MSFT", "--json")[1].splitlines()]
    assert (bar["volume"], bar["vwap"]) == (0.1 + 0.2, (0.1 + 2 * 0.2) / (0.1 + 0.2))


def test_trades_go_into_a_parquet_file(run: Command, tmp_path: Path) -> None:
    file = tmp_path / "out.parquet"
    assert run("trades", "AAPL", "--parquet", str(file)) == (0, "", "")
    assert pq.read_table(file).num_rows == 50_000


def test_a_parquet_file_in_a_missing_folder_is_reported(run: Command, tmp_path: Path) -> None:
    status, out, err = run("trades", "AAPL", "--parquet", str(tmp_path / "no" / "out.parquet"))
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert "out.parquet" in err


def test_a_parquet_file_that_a_link_names_is_replaced_and_the_link_stays(
    run: Command, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "out.parquet", tmp_path / "latest.parquet"
    link.symlink_to("elsewhere/out.parquet")
    for _ in range(2):  # into nothing, and over a file
        assert run("trades", "AAPL", "--parquet", str(link)) == (0, "", "")
        assert (link.is_symlink(), link.resolve()) == (True, target)
        assert pq.read_table(target).num_rows == 50_000
    assert [path.name for path in target.parent.iterdir()] == ["out.parquet"]


@contextmanager
def pipe_into(file: Path) -> Iterator[Path]:
    """A pipe beside ``file`` that is read into it to its end."""
    pipe = file.with_name("pipe")
    os.mkfifo(pipe)
    with running("sh", "-c", 'exec cat "$0" > "$1"', str(pipe), str(file)) as reader:
        yield pipe
        reader.wait(PATIENCE_S)
    assert pipe.is_fifo()
    pipe.unlink()


def test_a_pipe_is_written_and_stays(run: Command, tmp_path: Path) -> None:
    file = tmp_path / "out.parquet"
    for words in (("trades", "AAPL"), ("bars", "AAPL"), ("gaps",), ("sessions",)):
        with pipe_into(file) as pipe:
            assert run(*words, "--parquet", str(pipe)) == (0, "", "")
            assert pipe.is_fifo()
        found = pq.read_table(file)
        assert found.num_rows == {"trades": 50_000, "bars": 1, "gaps": 0, "sessions": 1}[words[0]]


def test_a_pipe_whose_reader_has_gone_is_not_a_failure(layout: Layout) -> None:
    command = f"{' '.join(STOCKTRACE)} trades AAPL --parquet /dev/fd/1 --data-dir {layout.root}"
    done = ran("bash", "-c", f"set -o pipefail; {command} | head -c 4")
    assert (done.returncode, done.stdout, done.stderr) == (0, "PAR1", "")


@contextmanager
def standard_output(opened: int) -> Iterator[None]:
    """Make ``opened`` the standard output of this process for a while."""
    before = os.dup(1)
    os.dup2(opened, 1)
    os.close(opened)
    try:
        yield
    finally:
        os.dup2(before, 1)
        os.close(before)


@contextmanager
def redirected(how: str, file: Path) -> Iterator[None]:
    """Send what this process writes to ``file`` as a shell does it."""
    if how != "| cat >":
        more = {">": os.O_TRUNC, ">>": os.O_APPEND}[how]
        with standard_output(os.open(file, os.O_WRONLY | os.O_CREAT | more)):
            yield
        return
    with file.open("wb") as into:
        cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=into)
    assert cat.stdin is not None
    with cat, standard_output(os.dup(cat.stdin.fileno())):
        cat.stdin.close()
        yield


REDIRECTIONS = pytest.mark.parametrize("how", ["| cat >", ">", ">>"])


@REDIRECTIONS
def test_the_standard_output_can_be_named_as_the_file(
    run: Command, tmp_path: Path, how: str
) -> None:
    file = tmp_path / "out"
    with redirected(how, file):
        assert run("trades", "AAPL", "--parquet", "/dev/fd/1") == (0, "", "")
    assert pq.read_table(file).num_rows == 50_000


@contextmanager
def device(folder: Path) -> Iterator[Path]:
    """A link to a device; a terminal, beside which nobody can make a file."""
    ours, theirs = os.openpty()
    link = folder / "terminal"
    link.symlink_to(os.ttyname(theirs))
    yield link
    os.close(ours)
    os.close(theirs)


def states(folder: Path) -> dict[str, tuple[int, ...]]:
    """All that a change of a file would change; following a link is no change, but has a time."""
    return {
        path.name: (
            status.st_mode, status.st_ino, status.st_dev, status.st_nlink, status.st_uid,
            status.st_gid, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
        )
        for path in folder.iterdir()
        if (status := path.lstat())
    }  # fmt: skip


def test_a_device_a_folder_and_a_socket_are_refused_and_stay(run: Command, tmp_path: Path) -> None:
    folder, address = tmp_path / "folder", tmp_path / "socket"
    folder.mkdir()
    with device(tmp_path) as terminal, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        before = states(tmp_path)
        for path, kind in ((terminal, "a device"), (folder, "a folder"), (address, "a socket")):
            for words in (("trades", "AAPL", "--parquet"), ("report", SESSION, "--out")):
                assert run(*words, str(path)) == (
                    2,
                    "",
                    f"stocktrace: Cannot write {path}: it is {kind}. {ADVICE}\n",
                )
        assert states(tmp_path) == before
    assert list(folder.iterdir()) == []


def test_a_file_that_grows_too_large_is_reported_and_the_old_one_stays(
    layout: Layout, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    file = folder / "out.parquet"
    file.write_text("of an earlier time")
    command = f"{' '.join(STOCKTRACE)} trades AAPL --parquet {file} --data-dir {layout.root}"
    # What coverage writes at the end would be too large as well.
    unmeasured = {name: text for name, text in os.environ.items() if "COVERAGE" not in name}
    done = ran("bash", "-c", f"ulimit -f 8; {command}", env=unmeasured)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"stocktrace: Cannot write {file}: File too large.\n"
    assert [path.name for path in folder.iterdir()] == ["out.parquet"]
    assert file.read_text() == "of an earlier time"


def test_a_page_follows_a_link_and_fills_a_pipe(run: Command, tmp_path: Path) -> None:
    link, target, file = (tmp_path / name for name in ("day.html", "target.html", "day.svg"))
    link.symlink_to(target)
    with pipe_into(file) as pipe:
        said = run("report", SESSION, "--out", str(link), "--svg", str(pipe))
        assert said == (0, f"{link}\n{pipe}\n", "")
        assert (link.is_symlink(), pipe.is_fifo()) == (True, True)
    assert "</html>" in target.read_text()
    assert file.read_text().startswith("<svg")
    assert file.read_text().rstrip().endswith("</svg>")


@REDIRECTIONS
def test_a_page_on_the_standard_output_is_alone_there(
    run: Command, tmp_path: Path, how: str
) -> None:
    file = tmp_path / "page.html"
    with redirected(how, file):
        assert run("report", SESSION, "--out", "/dev/fd/1") == (0, "", "")
    assert file.read_text().startswith("<!")
    assert file.read_text().rstrip().endswith("</html>")


def test_sessions_are_rows_for_programs(run: Command, tmp_path: Path) -> None:
    _, out, _ = run("sessions", "--csv")
    wanted = {
        "session": SESSION,
        "state": "complete",
        "started": "2026-11-23 14:30:00.000000Z",
        "tickers": "1",
        "trades": "50000",
        "gaps": "0",
        "quarantined": "0",
        "unpublished": "0",
    }
    assert list(csv.DictReader(io.StringIO(out))) == [wanted]
    file = tmp_path / "sessions.parquet"
    assert run("sessions", "--parquet", str(file)) == (0, "", "")
    assert pq.read_table(file)["trades"].to_pylist() == [50_000]


def test_an_empty_list_of_sessions_has_typed_columns(run: Command, layout: Layout) -> None:
    shutil.rmtree(layout.sessions)
    file = layout.root / "sessions.parquet"
    assert run("sessions", "--parquet", str(file)) == (0, "", "")
    assert pq.read_schema(file).field("trades").type == pa.int64()
    assert pq.read_schema(file).field("started").type == pa.timestamp("us", "UTC")


@pytest.mark.parametrize("command", ["gaps", "sessions"])
def test_two_output_formats_at_once_are_refused(run: Command, command: str) -> None:
    status, out, err = run(command, "--json", "--csv")
    assert (status, out) == (2, "")
    assert "--json" in err
    assert "--csv" in err
    assert err.count("\n") == 1


FORMS = ["sessions", "trades AAPL --csv", "trades AAPL --json", "trades AAPL"]


@pytest.mark.parametrize("words", FORMS)
def test_a_reader_that_has_gone_is_not_a_failure(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    read, write = os.pipe()
    os.close(read)
    gone = io.TextIOWrapper(io.BufferedWriter(ProtectedStream(write, is_error=False)))
    monkeypatch.setattr(sys, "stdout", gone)
    assert cli.run([*words.split(), "--data-dir", str(layout.root)]) == 0
    os.close(write)
    assert capsys.readouterr().err == ""


def test_head_can_stop_reading_without_an_error(layout: Layout) -> None:
    command = f"{' '.join(STOCKTRACE)} trades AAPL --csv --data-dir {layout.root} | head -1"
    done = ran("bash", "-c", f"set -o pipefail; {command}")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("words", ["--help", "trades AAPL", "sessions", "watch", "no-such"])
def test_a_pipe_gets_no_escapes(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], words: str
) -> None:
    monkeypatch.setenv("STOCKTRACE_DATA_DIR", str(layout.root))
    monkeypatch.setenv("TERM", "xterm-256color")
    cli.run(words.split())
    said = "".join(capfd.readouterr())
    assert said
    assert "\x1b" not in said


# --- completion ------------------------------------------------------------------------------

COMPLETE = """
set -u
source "$HOME/.local/share/bash-completion/completions/stocktrace"
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_stocktrace stocktrace "${COMP_WORDS[$COMP_CWORD]}"
echo "${COMPREPLY[@]}"
"""


def test_the_shell_completes_commands_and_flags(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    assert bash
    environment = {**os.environ, "HOME": str(tmp_path), "SHELL": bash}
    ran(*STOCKTRACE, "--install-completion", env=environment, check=True)

    def completed(*words: str) -> set[str]:
        command = (bash, "-c", COMPLETE, "bash", "stocktrace", *words)
        return set(ran(*command, env=environment, check=True).stdout.split())

    assert completed("ca") == {"capture"}
    assert {"--json", "--csv", "--parquet", "--tail"} <= completed("trades", "--")
    assert {"--roll-interval", "--metrics", "--for"} <= completed("capture", "--")
    assert completed("capture", "--progress", "l") == {"live", "log"}
