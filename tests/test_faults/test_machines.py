"""Stories 74 to 79: file systems, users and folders that are not as on our machines."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stocktrace import cli
from stocktrace.errors import DiskFull, KeyInUse, StocktraceError, StoreError, UsageError
from stocktrace.live.key_lock import acquire_key_lock, key_lock_path
from stocktrace.record.recovery import recover
from stocktrace.sessions.status import CaptureStatus
from stocktrace.simulator import SyntheticMarket
from stocktrace.store import files, lock
from stocktrace.store.layout import Layout
from tests.conftest import Scenario, Studio, frame, published, sent, taped, trades, tree
from tests.test_faults.conftest import crashed_session, findings, record, report_of

URL = "ws://127.0.0.1:9"
SLOW = pytest.mark.slow


def failing(number: int) -> Callable[..., Any]:
    """A system call that fails."""

    def fail(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


# --- 74: folders that cannot be synced ---------------------------------------------------------


def refuse_folder_syncs(patch: pytest.MonkeyPatch, number: int) -> None:
    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))

    patch.setattr(os, "fsync", fsync)
    patch.setattr(files, "_unsynced_devices", set())


@pytest.mark.parametrize("number", [errno.EINVAL, pytest.param(errno.EOPNOTSUPP, marks=SLOW)])
def test_74_a_capture_goes_on_where_folders_cannot_be_synced_and_says_so_once(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    refuse_folder_syncs(monkeypatch, number)
    with studio.exchange(SyntheticMarket(rate=1000), settle=0.05) as exchange:
        report = record(studio, exchange, iter_trades(100))
    assert report.balanced
    words = "does not sync folders: a power cut can take the names of new files"
    assert report.notices == [f"the file system of {studio.data_dir} {words}"]
    assert len([text for text in caplog.messages if "does not sync folders" in text]) == 1
    assert published(studio.data_dir) == sent(taped(studio.data_dir))
    assert findings(studio.data_dir) == []


def test_74_a_recovery_logs_once_that_folders_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    crashed_session(tmp_path, [frame(("AAPL", 1))])
    refuse_folder_syncs(monkeypatch, errno.EOPNOTSUPP)
    recover(Layout(tmp_path))
    assert len([text for text in caplog.messages if "does not sync folders" in text]) == 1
    assert published(tmp_path).keys() == {"AAPL"}


def test_74_another_error_of_a_folder_sync_is_still_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_folder_syncs(monkeypatch, errno.EIO)
    with pytest.raises(StoreError, match="Input/output error"):
        files.sync_file(tmp_path)


def iter_trades(count: int) -> Scenario:
    yield trades(count)


# --- 75: folders on other disks ----------------------------------------------------------------


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another disk."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    with tempfile.TemporaryDirectory(dir=memory, prefix="stocktrace-test-") as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    "name",
    [
        "tape csv sessions quarantine log",
        *(pytest.param(name, marks=SLOW) for name in ("tape", "csv", "sessions", "log")),
    ],
)
def test_75_a_part_of_the_data_folder_may_be_a_link_to_another_disk(
    studio: Studio, other_disk: Path, name: str
) -> None:
    studio.data_dir.mkdir()
    for each in name.split():
        (other_disk / each).mkdir()
        (studio.data_dir / each).symlink_to(other_disk / each)
    with studio.exchange(SyntheticMarket(rate=1000), settle=0.05) as exchange:
        report = record(studio, exchange, iter_trades(50))
    assert report.balanced
    assert published(studio.data_dir) == sent(taped(studio.data_dir))
    assert findings(studio.data_dir) == []
    assert [*other_disk.rglob("*")] != [] or name == "quarantine"


@pytest.mark.parametrize("name", ["parquet", "coverage", "converting"])
def test_75_a_link_over_which_no_file_can_be_renamed_is_refused_before_the_capture(
    studio: Studio, other_disk: Path, name: str
) -> None:
    studio.data_dir.mkdir()
    (studio.data_dir / name).symlink_to(other_disk)
    with studio.exchange() as exchange:
        with pytest.raises(UsageError, match=r"is on another disk than .* the whole data folder"):
            record(studio, exchange, iter_trades(1))
        assert exchange.dials == 0
    assert tree(studio.data_dir) == []
    assert tree(other_disk) == []


def test_75_a_recovery_over_such_a_link_says_what_to_do_and_loses_nothing(
    tmp_path: Path, other_disk: Path
) -> None:
    crashed_session(tmp_path, [frame(("AAPL", 1))])
    (tmp_path / "parquet").symlink_to(other_disk)
    with pytest.raises(StoreError, match="another disk than the data folder"):
        recover(Layout(tmp_path))
    (tmp_path / "parquet").unlink()
    recover(Layout(tmp_path))
    assert len(published(tmp_path)["AAPL"]) == 1


def test_75_parquet_may_be_a_link_to_another_folder_of_the_same_disk(
    studio: Studio, tmp_path: Path
) -> None:
    studio.data_dir.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (studio.data_dir / "parquet").symlink_to(tmp_path / "elsewhere")
    with studio.exchange(SyntheticMarket(rate=1000), settle=0.05) as exchange:
        record(studio, exchange, iter_trades(50))
    assert published(studio.data_dir) == sent(taped(studio.data_dir))
    assert findings(studio.data_dir) == []


# --- 76: two users -----------------------------------------------------------------------------


def test_76_the_umask_decides_the_modes_of_a_group_folder(studio: Studio) -> None:
    studio.data_dir.mkdir()
    studio.data_dir.chmod(0o2775)
    before = os.umask(0o002)
    try:
        with studio.exchange(SyntheticMarket(rate=1000), settle=0.05) as exchange:

            def scenario() -> Scenario:
                yield trades(20)
                exchange.send_raw(frame(("AAPL", -1)))  # for the quarantine
                yield lambda status: status.quarantined > 0 and status.rolled > 0

            record(studio, exchange, scenario(), roll_interval="1s", csv_retention="forever")
    finally:
        os.umask(before)
    wrong = {}
    for path in studio.data_dir.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode != (0o2775 if path.is_dir() else 0o664):
            wrong[str(path.relative_to(studio.data_dir))] = oct(mode)
    assert wrong == {}


def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")


@pytest.fixture
def as_nobody(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Makes this process nobody's."""
    needs_root()
    for folder in (tmp_path, *tmp_path.parents, *Path(tempfile.gettempdir()).parents):
        if not folder.stat().st_mode & stat.S_IXOTH and folder.is_relative_to("/tmp"):
            folder.chmod(0o755)
    Path(tempfile.gettempdir()).chmod(0o1777)
    yield lambda: os.seteuid(65534)
    os.seteuid(0)


def test_76_a_key_in_use_is_reported_with_the_user_who_uses_it(
    as_nobody: Callable[[], None],
) -> None:
    as_nobody()
    user = files.user_name(65534)
    with acquire_key_lock("key", URL, "theirs"):
        os.seteuid(0)
        with (
            pytest.raises(KeyInUse, match=rf"\(session theirs, process \d+ of user {user}\)"),
            acquire_key_lock("key", URL, "ours"),
        ):
            pass


def test_76_a_lock_of_another_user_that_cannot_be_opened_says_whose_it_is(
    as_nobody: Callable[[], None], tmp_path: Path
) -> None:
    before = os.umask(0o077)
    try:
        with acquire_key_lock("key", URL, "theirs"):
            pass
        with lock.hold_lock(tmp_path / "sessions" / "x.lock", {}):
            pass
    finally:
        os.umask(before)
    as_nobody()
    for path in (key_lock_path("key", URL), tmp_path / "sessions" / "x.lock"):
        with pytest.raises(StoreError) as refused:
            lock.open_lock_file(path)
        words = f"Cannot open the lock {path}: Permission denied."
        assert str(refused.value).startswith(words)
    with pytest.raises(StoreError, match=r"It belongs to root\. Set TMPDIR to one folder"):
        lock.open_lock_file(key_lock_path("key", URL))


# --- 77: inodes --------------------------------------------------------------------------------


@pytest.fixture
def few_inodes(tmp_path: Path) -> Iterator[Path]:
    """A file system with much space for few files."""
    root = tmp_path / "few"
    root.mkdir()
    options = "size=64m,nr_inodes=60,mode=700"
    command = ["mount", "-t", "tmpfs", "-o", options, "stocktrace-test", str(root)]
    if shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield root
    subprocess.run(["umount", "-l", str(root)], check=True)


def test_77_a_capture_ends_in_order_before_the_inodes_are_used_up(
    studio: Studio, few_inodes: Path
) -> None:
    studio.data_dir = few_inodes / "data"
    with (
        studio.exchange(SyntheticMarket(rate=1000), settle=0.05) as exchange,
        pytest.raises(DiskFull, match=r"only \d+ inodes \(one for each file\) and 6\d MB"),
    ):
        record(studio, exchange, roll_interval="100ms", flush_interval="50ms")
    report = report_of(studio.data_dir)
    assert report.state == "failed"
    assert "inodes" in report.reason
    assert report.books.trades > 0
    recover(Layout(studio.data_dir))
    assert published(studio.data_dir) == sent(taped(studio.data_dir))
    assert findings(studio.data_dir) == []


def test_77_a_write_without_an_inode_names_the_inodes(few_inodes: Path) -> None:
    for number in range(files.free_inodes(few_inodes) or 0):
        files.append(few_inodes / str(number), b"")
    with pytest.raises(DiskFull, match="only 0 inodes"):
        files.append(few_inodes / "one more", b"")


# --- 78: a data folder that moves --------------------------------------------------------------


def move(data: Path, old: Path) -> None:
    data.rename(old)


def replace_by_empty(data: Path, old: Path) -> None:
    data.rename(old)
    data.mkdir()


def replace_by_copy(data: Path, old: Path) -> None:
    data.rename(old)
    for name in ("sessions", "tape", "csv", "log", "parquet"):
        (data / name).mkdir(parents=True)


@pytest.mark.parametrize(
    "change",
    [replace_by_copy, *(pytest.param(each, marks=SLOW) for each in (move, replace_by_empty))],
)
def test_78_a_data_folder_that_is_moved_ends_the_capture_and_nothing_is_lost(
    studio: Studio, tmp_path: Path, change: Callable[[Path, Path], None]
) -> None:
    data, old = studio.data_dir, tmp_path / "old"
    statuses: list[CaptureStatus] = studio.statuses
    moved_at = 0

    def scenario() -> Scenario:
        nonlocal moved_at
        yield trades(100)
        change(data, old)
        moved_at = len(statuses)
        yield lambda _: False

    with studio.exchange(SyntheticMarket(rate=1000), settle=0.05) as exchange:
        with pytest.raises(StoreError) as ended:
            record(studio, exchange, scenario(), flush_interval="50ms", roll_interval="300ms")
        everything = [each for connection in exchange.connections for each in connection.frames]
    assert str(ended.value) == (
        f"The data folder {data} was moved to {old} during the capture. Everything received is on "
        f"the tape there: run `stocktrace recover --data-dir {old}`."
    )
    assert tree(data) == []
    report = report_of(old)
    assert report.state == "failed"
    assert report.reason == str(ended.value)
    recover(Layout(old))
    kept = taped(old)
    assert len(kept) >= 3
    assert kept == everything[: len(kept)]
    assert published(old) == sent(kept)
    assert findings(old) == []
    assert len(statuses) - moved_at <= 1  # noticed at the next look, twice a second


def test_78_a_data_folder_that_is_deleted_ends_the_capture_with_a_sentence(studio: Studio) -> None:
    def scenario() -> Scenario:
        yield trades(10)
        shutil.rmtree(studio.data_dir)
        yield lambda _: False

    with (
        studio.exchange(SyntheticMarket(rate=1000), settle=0.05) as exchange,
        pytest.raises(StoreError, match="was moved, replaced or deleted during the capture"),
    ):
        record(studio, exchange, scenario())
    assert not studio.data_dir.exists()


# --- 79: what a machine lacks ------------------------------------------------------------------


def test_79_without_a_lock_service_the_sentence_names_the_path_and_the_remedy(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))
    with studio.exchange() as exchange:
        with pytest.raises(StoreError) as failed:
            record(studio, exchange, iter_trades(1))
        assert exchange.dials == 0
    path = key_lock_path(studio.key, exchange.url)
    assert str(failed.value) == (
        f"Cannot lock {path}: its file system has no lock service (No locks available). Use a "
        "folder on a local disk, or start the lock service of the network file system."
    )


def test_79_a_data_folder_without_locks_is_refused_before_the_capture(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_file = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_relative_to(studio.data_dir):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        lock_file(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with studio.exchange() as exchange:
        with pytest.raises(StoreError, match=rf"Cannot lock {studio.data_dir}/.*: its file system"):
            record(studio, exchange, iter_trades(1))
        assert exchange.dials == 0


@pytest.mark.parametrize("falls_back", [False, True])
def test_79_without_a_temporary_folder_the_sentence_says_to_set_one(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, falls_back: bool
) -> None:
    """Python takes the working folder then, in which no other capture looks for the lock."""
    monkeypatch.delenv("TMPDIR")
    here = Path.cwd()

    def gettempdir() -> str:
        if falls_back:
            return str(here)
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in [...]")

    monkeypatch.setattr(tempfile, "gettempdir", gettempdir)
    with studio.exchange() as exchange, pytest.raises(StocktraceError) as failed:
        record(studio, exchange, iter_trades(1))
    assert str(failed.value) == (
        "Cannot lock the API key: no temporary folder can be written (/tmp, /var/tmp, /usr/tmp). "
        "Set TMPDIR to one folder that all captures on this host can write to."
    )


def test_79_a_temporary_folder_that_is_read_only_is_named(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = key_lock_path(studio.key, URL)
    monkeypatch.setattr(os, "open", failing(errno.EROFS))
    with pytest.raises(StoreError) as failed:
        lock.open_lock_file(path)
    assert str(failed.value) == (
        f"Cannot open the lock {path}: Read-only file system. "
        "Set TMPDIR to one folder that all captures on this host can write to."
    )


@pytest.mark.parametrize("command", [["capture", "AAPL", "--for", "1s"], ["verify"], ["recover"]])
def test_79_a_working_folder_that_is_gone_is_the_reason_that_is_given(
    studio: Studio, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, command: list[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("FINNHUB_API_KEY", studio.key)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert cli.run(command) == 2
    said = capsys.readouterr().err
    assert said.endswith("The working folder no longer exists: change to another one (cd) first.\n")
