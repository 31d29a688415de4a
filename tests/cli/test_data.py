"""What commands print for programs, for pipes and for shells."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stocktrace import cli
from stocktrace.report import Books, Report
from stocktrace.store.layout import Layout
from stocktrace.store.names import Part
from tests.cli.conftest import STOCKTRACE, ran
from tests.conftest import NOON, SESSION, WINDOW
from tests.tables import put, table_of

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A session with 50,000 published trades of one ticker."""
    layout = Layout(tmp_path / "data")
    t = NOON // 10**6
    rows = [(t + number, 1.5 + number, 100.0, "1 12") for number in range(50_000)]
    put(layout, "AAPL", Part(SESSION, WINDOW), table_of(rows))
    report = Report(
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
    put(layout, "MSFT", Part(SESSION, WINDOW), table_of(rows))
    header, line = run("bars", "MSFT")[1].splitlines()
    shown = dict(zip(header.split()[2:], line.split()[3:], strict=True))
    assert (shown["volume"], shown["vwap"]) == ("0.3", "1.666666667")
    (bar,) = [json.loads(each) for each in run("bars", "MSFT", "--json")[1].splitlines()]
    assert (bar["volume"], bar["vwap"]) == (0.1 + 0.2, (0.1 + 2 * 0.2) / (0.1 + 0.2))


def test_trades_go_into_a_parquet_file(run: Command, tmp_path: Path) -> None:
    file = tmp_path / "out.parquet"
    assert run("trades", "AAPL", "--parquet", str(file)) == (0, "", "")
    assert pq.read_table(file).num_rows == 50_000


def test_a_parquet_file_in_a_folder_that_is_not_there_is_told(run: Command, tmp_path: Path) -> None:
    status, out, err = run("trades", "AAPL", "--parquet", str(tmp_path / "no" / "out.parquet"))
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert "out.parquet" in err


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


def test_of_no_session_the_columns_have_their_types(run: Command, layout: Layout) -> None:
    shutil.rmtree(layout.sessions)
    file = layout.root / "sessions.parquet"
    assert run("sessions", "--parquet", str(file)) == (0, "", "")
    assert pq.read_schema(file).field("trades").type == pa.int64()
    assert pq.read_schema(file).field("started").type == pa.timestamp("us", "UTC")


@pytest.mark.parametrize("command", ["gaps", "sessions"])
def test_two_forms_at_once_are_refused(run: Command, command: str) -> None:
    status, out, err = run(command, "--json", "--csv")
    assert (status, out) == (2, "")
    assert "--json" in err
    assert "--csv" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "lines"),
    [("sessions", 0), ("trades AAPL --csv", 1), ("trades AAPL --json", 1), ("trades AAPL", 1)],
)
def test_head_takes_what_it_wants_and_nobody_complains(
    layout: Layout, words: str, lines: int
) -> None:
    command = f"{' '.join(STOCKTRACE)} {words} --data-dir {layout.root} | head -{lines}"
    done = ran("bash", "-c", f"set -o pipefail; {command}")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == lines


@pytest.mark.parametrize("words", ["--help", "trades AAPL", "sessions", "watch", "no-such"])
def test_what_is_no_terminal_gets_no_escapes(layout: Layout, words: str) -> None:
    given = {"STOCKTRACE_DATA_DIR": str(layout.root), "TERM": "xterm-256color"}
    done = ran(*STOCKTRACE, *words.split(), env=os.environ | given)
    assert done.stdout + done.stderr
    assert "\x1b" not in done.stdout + done.stderr


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
    assert {"--roll-every", "--metrics", "--for"} <= completed("capture", "--")
    assert completed("capture", "--progress", "l") == {"live", "log"}
