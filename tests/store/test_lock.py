from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from stocktrace.errors import KeyInUse, StoreError
from stocktrace.live import key_lock
from stocktrace.store import files, lock

URL = "wss://ws.finnhub.io"
#: Holds the key's lock until it is told to let go, or killed.
HOLDER = """
import sys
from stocktrace.live import key_lock
with key_lock.acquire_key_lock("secret", "wss://ws.finnhub.io", "the-other"):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_one_process_captures_with_a_key_and_the_next_learns_who() -> None:
    with (
        hold() as process,
        pytest.raises(KeyInUse) as caught,
        key_lock.acquire_key_lock("secret", URL, "mine"),
    ):
        pass
    assert str(caught.value) == (
        "Another capture on this host already uses this API key "
        f"(session the-other, process {process.pid}). Stop it first, or use a second key."
    )


def test_when_the_holder_ends_the_key_is_free() -> None:
    hold().communicate()
    with key_lock.acquire_key_lock("secret", URL, "mine"):
        pass


def test_a_killed_process_holds_nothing() -> None:
    process = hold()
    process.kill()
    process.communicate()
    with key_lock.acquire_key_lock("secret", URL, "mine"):
        pass


def test_within_a_process_too_there_is_one() -> None:
    with (
        key_lock.acquire_key_lock("secret", URL, "mine"),
        pytest.raises(KeyInUse),
        key_lock.acquire_key_lock("secret", URL, "again"),
    ):
        pass
    with key_lock.acquire_key_lock("secret", URL, "later"):
        pass


def test_another_key_and_another_address_are_other_places() -> None:
    with (
        key_lock.acquire_key_lock("secret", URL, "one"),
        key_lock.acquire_key_lock("another", URL, "two"),
        key_lock.acquire_key_lock("secret", "ws://127.0.0.1:1", "three"),
    ):
        assert len(list(Path(tempfile.gettempdir()).glob("stocktrace-*.lock"))) == 3


def test_an_error_inside_releases_the_lock_and_is_raised() -> None:
    with pytest.raises(ZeroDivisionError), key_lock.acquire_key_lock("secret", URL, "one"):
        raise ZeroDivisionError
    with key_lock.acquire_key_lock("secret", URL, "two"):
        pass


def test_the_lock_does_not_contain_the_key() -> None:
    with key_lock.acquire_key_lock("secret", URL, "mine"):
        (path,) = Path(tempfile.gettempdir()).glob("stocktrace-*.lock")
        assert json.loads(path.read_text()) == {
            "session": "mine",
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "machine": lock.machine_id(),
            "user": files.user_name(os.geteuid()),
        }
        assert "secret" not in path.name


@pytest.mark.parametrize("text", ["", "{}", "nonsense", "[]"])
def test_a_lock_without_a_holder_in_its_file_is_still_a_lock(text: str) -> None:
    with key_lock.acquire_key_lock("secret", URL, "mine"):
        (path,) = Path(tempfile.gettempdir()).glob("stocktrace-*.lock")
        path.write_text(text)
        with (
            pytest.raises(KeyInUse, match="its process is not known"),
            key_lock.acquire_key_lock("secret", URL, "again"),
        ):
            pass


def test_whether_a_lock_is_held_can_be_asked_without_taking_it(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.lock"
    assert not lock.is_locked(path)
    with lock.hold_lock(path, {"session": "one"}):
        assert lock.is_locked(path)
        assert lock.is_locked(path)
    assert not lock.is_locked(path)


def test_a_shorter_holder_leaves_nothing_of_a_longer_one(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    for session in ("a-very-long-name", "short"):
        with lock.hold_lock(path, {"session": session}):
            assert json.loads(path.read_text())["session"] == session


def test_a_lock_file_of_another_user_can_be_locked_by_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file = os.open

    def not_ours(path: object, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied")
        return open_file(str(path), flags, mode)

    path = tmp_path / "a.lock"
    path.write_text('{"session":"theirs"}')
    monkeypatch.setattr(os, "open", not_ours)
    with lock.hold_lock(path, {"session": "mine"}):
        assert lock.is_locked(path)
    assert path.read_text() == '{"session":"theirs"}'
    with (
        pytest.raises(StoreError, match="Cannot open the lock"),
        lock.hold_lock(tmp_path / "b", {}),
    ):
        pass
