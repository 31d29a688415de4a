from __future__ import annotations

import errno
import fcntl
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from stocktrace.errors import DiskFull, StoreError
from stocktrace.store import files
from tests.conftest import tree


def test_appending_makes_the_file_and_keeps_what_it_held(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.append(path, b"one\n")
    files.append(path, memoryview(b"-two\n-")[1:-1])
    assert path.read_bytes() == b"one\ntwo\n"


def test_no_handle_stays_open_after_an_append_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> int:
        raise OSError(5, "Input/output error")

    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(os, "write", broken)
    with pytest.raises(StoreError, match=r"Cannot write .*/a: Input/output error\."):
        files.append(tmp_path / "a", b"x")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("number", [28, 122])
def test_a_full_disk_or_quota_is_reported_as_such(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "free_bytes", {tmp_path / "not" / "there": 4711}.__getitem__)
    with pytest.raises(DiskFull) as caught, files.disk_errors(tmp_path / "not" / "there"):
        raise OSError(number, os.strerror(number))
    assert caught.value.path == tmp_path / "not" / "there"
    assert caught.value.free_bytes == 4711
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("error", [FileNotFoundError(2, "gone"), FileExistsError(17, "there")])
def test_files_that_come_and_go_are_the_callers_to_judge(tmp_path: Path, error: OSError) -> None:
    with pytest.raises(type(error)), files.disk_errors(tmp_path):
        raise error


def test_publishing_replaces_the_file_as_a_whole(tmp_path: Path) -> None:
    final = tmp_path / "a"
    final.write_text("old")
    with files.locked_temporary(final) as temporary:
        temporary.write_text("new")
        files.publish_file(temporary, final)
    assert final.read_text() == "new"
    assert tree(tmp_path) == ["a"]


def test_a_temporary_name_is_hidden_and_nobody_elses(tmp_path: Path) -> None:
    names = {files.temporary_for(tmp_path / "a.csv").name for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith(".a.csv.") and name.endswith(".tmp") for name in names)
    # In a container of its own, another process can have the same number.
    assert not any(str(os.getpid()) in name.split(".") for name in names)


@pytest.mark.parametrize("make", [files.locked_temporary, files.temporary_folder])
def test_68_a_temporary_is_removed_only_when_nobody_writes_it(tmp_path: Path, make: Any) -> None:
    with make(tmp_path / "a") as temporary:
        files.remove_abandoned(temporary)
        assert temporary.exists()
    assert tree(tmp_path) == []
    for leave in (Path.touch, Path.mkdir):
        leave(temporary)
        files.remove_abandoned(temporary)
        assert tree(tmp_path) == []
        assert not temporary.exists()


@pytest.mark.parametrize("make", [files.locked_temporary, files.temporary_folder])
def test_a_temporary_that_is_swept_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    lock, swept = fcntl.flock, list[Path]()

    def sweeping(descriptor: int, operation: int) -> None:
        if not swept:
            swept.extend(tmp_path.iterdir())
            files.remove_abandoned(swept[0])
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", sweeping)
    with make(tmp_path / "a") as temporary:
        assert temporary.exists()
        assert not swept[0].exists()
    assert tree(tmp_path) == []


def test_a_renamed_temporary_stays(tmp_path: Path) -> None:
    with files.temporary_folder(tmp_path / "a") as temporary:
        (temporary / "b").touch()
        temporary.rename(tmp_path / "a")
        files.remove_abandoned(temporary)
    assert tree(tmp_path) == ["a/b"]


def test_a_sweep_follows_no_link_and_waits_for_no_pipe(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    link, pipe = tmp_path / ".a.tmp", tmp_path / ".b.tmp"
    link.symlink_to(tmp_path / "kept")
    os.mkfifo(pipe)
    files.remove_abandoned(link)
    files.remove_abandoned(pipe)
    assert (tmp_path / "kept").is_dir()


@pytest.mark.parametrize("make", [files.locked_temporary, files.temporary_folder])
def test_no_handle_of_a_temporary_stays_open(tmp_path: Path, make: Any) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(KeyError), make(tmp_path / "a"):
        raise KeyError
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert tree(tmp_path) == []


def test_70_a_text_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, disk_steps: list[str]
) -> None:
    files.replace_text(tmp_path / "a", "text\n")
    synced, *rest = disk_steps
    assert synced.startswith("sync .a.")
    assert rest == ["rename a", f"sync {tmp_path.name}"]


@pytest.mark.parametrize("step", ["write_text", "replace"])
def test_a_text_that_cannot_be_replaced_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise OSError(5, "Input/output error")

    path = tmp_path / "folder" / "a"
    files.replace_text(path, "old\n")
    monkeypatch.setattr(Path, step, broken)
    with pytest.raises(StoreError):
        files.replace_text(path, "new\n")
    monkeypatch.undo()
    assert path.read_text() == "old\n"
    files.replace_text(path, "new\n")
    assert path.read_text() == "new\n"
    assert tree(tmp_path) == ["folder/a"]


def test_free_space_is_that_of_the_nearest_folder_there_is(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    free = files.free_bytes(tmp_path / "a" / "b")
    assert abs(free - status.f_bavail * status.f_frsize) < 1 << 30


def test_writing_continues_after_a_short_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:3]))
    files.append(tmp_path / "a", b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_70_on_macos_a_sync_also_waits_for_the_cache_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    path = tmp_path / "file"
    path.touch()
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(os, "fsync", lambda _: calls.append("fsync"))
    monkeypatch.setattr(fcntl, "fcntl", lambda _, command: calls.append(command))
    files.sync_file(path)
    assert calls == [51]

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    files.sync_file(path)
    assert calls == [51, "fsync"]


def test_70_a_new_folder_is_synced_in_each_new_folder_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync_file", synced.append)
    files.make_folder(tmp_path / "a" / "b" / "c")
    assert synced == [tmp_path / "a" / "b", tmp_path / "a", tmp_path]
    files.make_folder(tmp_path / "a" / "b" / "c")
    assert len(synced) == 3
