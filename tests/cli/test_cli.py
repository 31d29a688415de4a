"""What holds for every command: mistakes and help."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stocktrace import __version__
from tests.cli.conftest import PATIENCE_S, STOCKTRACE, Said, ran, running
from tests.conftest import tree

# --- wrong usage: one sentence, status 2, nothing made -------------------------------------------

GOOD = ("capture", "AAPL", "--for", "1s")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("capture", "--for", "1s"), "Name at least one ticker"),
        (("capture", "é", "--for", "1s"), "'é' is not a ticker"),
        (("capture", "A,B\n", "--for", "1s", "AA\nBB"), "is not a ticker"),
        (("capture", "AAPL"), "Set a duration (--for 30m) or an end time (--until 16:00)"),
        ((*GOOD, "--until", "23:59"), "Set a duration (--for 30m) or an end time (--until 16:00)"),
        (("capture", "AAPL", "--for", "soon"), "'soon' is not a duration"),
        (("capture", "AAPL", "--for", "0s"), "'0s' is not a duration"),
        (("capture", "AAPL", "--for=-5s"), "'-5s' is not a duration"),
        (("capture", "AAPL", "--for", "9999d"), "is not a duration"),
        (("capture", "AAPL", "--until", "2001-01-01T00:00"), "has passed"),
        (("capture", "AAPL", "--until", "25:00"), "'25:00' is not a time"),
        (("capture", "AAPL", "--until", "tomorrow"), "'tomorrow' is not a time"),
        ((*GOOD, "--url", "http://x"), "--url: 'http://x' is not a WebSocket address"),
        ((*GOOD, "--url", "wss://x?token=abc"), "--url: Take the key out of the URL"),
        ((*GOOD, "--url", "ws://:99999"), "--url: "),
        ((*GOOD, "--roll-interval", "often"), "--roll-interval: 'often' is not a duration"),
        ((*GOOD, "--max-pending-rows-per-ticker", "0"), "--max-pending-rows-per-ticker: "),
        ((*GOOD, "--batch-rows", "many"), "--batch-rows: "),
        ((*GOOD, "--roll-size", "big"), "--roll-size: 'big' is not a size"),
        ((*GOOD, "--no-such"), "--no-such"),
        ((*GOOD, "--progress", "fireworks"), "fireworks"),
        (("capture", "AAPL", "--for"), "--for"),
        (("captur", "AAPL"), "captur"),
        (("--no-such",), "--no-such"),
        (("simulator", "--ping-interval", "often"), "'often' is not a duration"),
        (("simulator", "--rate", "0"), "must be above 0"),
        (("simulator", "--port", "99999"), "99999 is not a port"),
        (("simulator", "--key", ""), "key must not be empty"),
        (("demo", "é"), "'é' is not a ticker"),
        (("demo", "--for", "x"), "'x' is not a duration"),
        (("convert", "--data-dir", "nowhere"), "No data folder nowhere"),
        (("sessions", "--data-dir", "nowhere"), "No data folder nowhere"),
        (("trades", "AAPL", "--data-dir", "nowhere"), "No data folder nowhere"),
    ],
)
def test_wrong_usage_is_one_sentence_with_status_2_and_creates_nothing(
    say: Callable[..., Said],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.setenv("FINNHUB_API_KEY", "a-key")
    said = say(*words)
    assert sentence in said.err
    assert said.status == 2
    assert said.out == ""
    assert said.err.startswith("stocktrace: ")
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    assert [name for name in tree(Path.cwd()) if not name.startswith(".")] == []


def test_a_missing_key_is_reported_with_the_way_to_get_one(say: Callable[..., Said]) -> None:
    said = say(*GOOD)
    assert (said.status, said.out) == (2, "")
    assert said.err == (
        "stocktrace: Set FINNHUB_API_KEY in the environment or in a .env file. Get a free key at "
        "https://finnhub.io/register, or try `stocktrace demo` without one.\n"
    )
    assert not Path("data").exists()


def test_a_file_in_place_of_the_data_folder_is_reported(
    say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FINNHUB_API_KEY", "a-key")
    file = tmp_path / "file"
    file.write_text("mine")
    for folder in (file, file / "below"):
        said = say(*GOOD, "--data-dir", folder, "--url", "ws://127.0.0.1:1")
        assert said.status == 2
        assert said.err.startswith(f"stocktrace: Cannot write to the data folder {folder} (")
        assert said.err.endswith("): name another one with --data-dir.\n")
    assert tree(tmp_path) == ["file"]
    assert file.read_text() == "mine"


@pytest.mark.parametrize("command", ["trades AAPL", "sessions", "convert"])
def test_a_file_is_not_accepted_as_a_data_folder(
    say: Callable[..., Said], tmp_path: Path, command: str
) -> None:
    (tmp_path / "file").write_text("mine")
    said = say(*command.split(), "--data-dir", tmp_path / "file")
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("stocktrace: No data folder ")


def test_a_wrong_setting_in_the_environment_is_named(
    say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINNHUB_API_KEY", "a-key")
    monkeypatch.setenv("STOCKTRACE_ROLL_INTERVAL", "often")
    said = say(*GOOD)
    assert said.status == 2
    assert said.err.startswith("stocktrace: STOCKTRACE_ROLL_INTERVAL: 'often' is not a duration")


def test_a_missing_tape_is_reported(say: Callable[..., Said]) -> None:
    said = say("simulator", "--tape", "nowhere.tape")
    assert said.status in {1, 2}
    assert said.err.startswith("stocktrace: No tape at")


# --- help ----------------------------------------------------------------------------------------

LOADED = """
import sys
from stocktrace.cli import run
status = run(sys.argv[1:])
heavy = {"prefect", "pandas", "pandera", "pyarrow", "polars", "duckdb", "websockets", "zstandard"}
print("LOADED", sorted(heavy & set(sys.modules)))
sys.exit(status)
"""


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--help"], 0),
        (["capture", "--help"], 0),
        (["--version"], 0),
        (["capture", "AAPL", "--for", "x"], 2),
        (["capture", "AAPL", "--for", "1s"], 2),
    ],
)
def test_help_and_mistakes_import_nothing_slow(words: list[str], status: int) -> None:
    done = ran(sys.executable, "-c", LOADED, *words)
    assert done.stdout.splitlines()[-1] == "LOADED []"
    assert done.returncode == status
    assert "\x1b" not in done.stdout + done.stderr


def test_importing_the_package_imports_nothing_slow() -> None:
    code = "import stocktrace, sys; print(sorted({'pandas', 'pyarrow'} & set(sys.modules)))"
    done = ran(sys.executable, "-c", code, check=True)
    assert done.stdout == "[]\n"


def test_help_names_every_command(say: Callable[..., Said]) -> None:
    said = say("--help")
    assert said.status == 0
    for command in ("capture", "demo", "simulator", "convert", "trades", "sessions"):
        assert re.search(rf"^\W*{command}\b", said.out, re.MULTILINE)


def test_the_version_is_printed(say: Callable[..., Said]) -> None:
    assert say("--version") == Said(0, f"{__version__}\n", "")


def test_a_reader_that_goes_away_is_not_a_failure(data: Path) -> None:
    with running(*STOCKTRACE, "trades", "AAPL", "--data-dir", str(data)) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
        process.wait(PATIENCE_S)
    assert (process.returncode, err) == (0, "")


def test_python_m_is_the_same_command() -> None:
    assert ran(*STOCKTRACE, "--version", check=True).stdout == f"{__version__}\n"


def test_signal_handlers_are_restored_after_a_command(say: Callable[..., Said]) -> None:
    before = signal.getsignal(signal.SIGINT)
    say("simulator", "--for", "50ms")
    assert signal.getsignal(signal.SIGINT) is before
