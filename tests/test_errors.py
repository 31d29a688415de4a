"""An error of the system is wrong usage or a failure of the machine, alike in every place."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import pytest

from stocktrace import cli
from stocktrace.dashboard.server import bind_port
from stocktrace.end_time import parse_until
from stocktrace.errors import (
    DiskFull,
    StocktraceError,
    StoreError,
    UsageError,
    describe,
    is_usage,
)
from stocktrace.importing.column_mapping import ColumnMapping
from stocktrace.live.api import capture
from stocktrace.live.metrics import serve_metrics
from stocktrace.live.session import chain_failure
from stocktrace.maintenance.requeue import requeue_rows
from stocktrace.settings import Settings
from stocktrace.simulator import Simulator, SyntheticMarket
from stocktrace.store.layout import Layout

NOW = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)
USER = [errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EADDRINUSE]
MACHINE = [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENOMEM, errno.ESTALE]


def a_data_folder() -> None:
    settings = Settings.load(url="ws://127.0.0.1:1", finnhub_api_key="a-key")
    capture("AAPL", duration=1, settings=settings)


def a_metrics_address() -> None:
    with serve_metrics(Settings.load(metrics="127.0.0.1:0")):
        pass


def an_exchange_port() -> None:
    with Simulator(SyntheticMarket()):
        pass


def an_env_file() -> None:
    Path(".env").touch()
    Settings.load()


#: The values that a user can give, each with the call of the system that fails for it.
PLACES: dict[str, tuple[str, Callable[[], Any]]] = {
    "a data folder": ("tempfile.TemporaryFile", a_data_folder),
    "a settings file": ("pathlib.Path.read_text", Settings.load),
    "an .env file": ("dotenv.main.open", an_env_file),
    "a quarantine": (
        "pathlib.Path.read_text",
        lambda: requeue_rows(Layout(Path("d")), Path("q.jsonl")),
    ),
    "a metrics address": ("socket.socket.bind", a_metrics_address),
    "a dashboard port": ("socket.socket.bind", lambda: bind_port(0)),
    "an exchange port": ("socket.socket.bind", an_exchange_port),
    "a time zone of an end": (
        "stocktrace.end_time.ZoneInfo",
        lambda: parse_until("16:00 Zulu", NOW),
    ),
    "a time zone of a source": (
        "stocktrace.end_time.ZoneInfo",
        lambda: ColumnMapping().check(),
    ),
}


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> tuple[str, Callable[[], Any]]:
    return PLACES[request.param]


def failing(monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(call, fail, raising=False)


@pytest.mark.parametrize("number", USER, ids=errno.errorcode.get)
def test_a_value_that_the_system_refuses_is_wrong_usage(
    place: tuple[str, Callable[[], Any]], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, use = place
    failing(monkeypatch, call, number)
    with pytest.raises(UsageError):
        use()


@pytest.mark.parametrize("number", MACHINE, ids=errno.errorcode.get)
def test_a_machine_that_fails_is_not_called_wrong_usage(
    place: tuple[str, Callable[[], Any]], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, use = place
    failing(monkeypatch, call, number)
    with pytest.raises(StocktraceError) as failed:
        use()
    assert not isinstance(failed.value, UsageError)


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        (errno.EIO, StoreError, r"Cannot write .*: Input/output error\."),
        (errno.ENOSPC, DiskFull, "Make room"),
    ],
)
def test_a_disk_that_fails_when_a_capture_starts_is_a_failure_of_the_disk(
    number: int,
    kind: type[StoreError],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing(monkeypatch, "tempfile.TemporaryFile", number)
    with pytest.raises(kind, match=said):
        a_data_folder()
    monkeypatch.setenv("FINNHUB_API_KEY", "a-key")
    assert cli.run(["capture", "AAPL", "--for", "1s", "--url", "ws://127.0.0.1:1"]) == 1
    assert "--data-dir" not in capsys.readouterr().err


def test_an_error_that_is_not_from_the_system_is_wrong_usage() -> None:
    assert is_usage(ValueError("not a port"))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "q.csv: No space left on device"),
        (OSError(errno.EIO, "Input/output error", "a.tape"), "a.tape: Input/output error"),
        (OSError("no number"), "q.csv: no number"),
        (KeyError(), "q.csv: KeyError"),
        (StoreError("The disk is gone."), "The disk is gone."),
    ],
)
def test_an_error_is_described_with_its_file_and_in_the_words_of_the_system(
    error: Exception, words: str
) -> None:
    assert describe(error, Path("q.csv")) == words


def test_an_error_of_the_system_that_stops_a_capture_names_the_file() -> None:
    failed = chain_failure(OSError(errno.EIO, "Input/output error", "a.tape"))
    assert str(failed) == "The capture stopped: a.tape: Input/output error"
    assert isinstance(failed, StoreError)
