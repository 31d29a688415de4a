"""A backup in a folder: one complete data folder, and perhaps one that is being made.

    DEST/data                        a link to the complete one
    DEST/tree-00007/                 that one: a data folder, and its manifest ``backup.jsonl``
    DEST/tree-00008/                 the next one, until ``data`` leads to it
    DEST/tree-00008/backup.journal   which files were copied into it, for a run that is killed

A file that has not changed is a hard link in the next tree, so it needs no space. The old tree is
deleted after ``data`` leads to the next one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from stocktrace.errors import StoreError, UsageError
from stocktrace.maintenance.backup.data_files import PIECE_BYTES, OpenedFile
from stocktrace.maintenance.backup.manifest import (
    Entry,
    Manifest,
    decode_entry,
    decode_manifest,
    encode_entry,
)
from stocktrace.store import files, lock

_MANIFEST, _JOURNAL = "backup.jsonl", "backup.journal"
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK)
_TREE = re.compile(r"tree-\d{5,}")


class FolderCopy:
    """A backup in a folder of a file system that has hard links."""

    workers = 1

    def __init__(self, root: Path, *, make: bool) -> None:
        """Read the manifest, and what an interrupted run copied into the next tree."""
        self._root = root
        self._link = root / "data"
        self.manifest = Manifest()
        self._tree = root / "tree-00000"
        if self._link.is_symlink():
            self._tree = root / self._link.readlink()
            try:
                with (self._tree / _MANIFEST).open("rb") as file:
                    self.manifest = decode_manifest(str(root), file)
            except FileNotFoundError as error:
                raise StoreError(f"{error.filename} is missing: make a new backup.") from error
        number = int(self._tree.name.rpartition("-")[2])
        self._next = root / f"tree-{number + 1:05}"
        self._copied: dict[str, Entry] = {}
        #: Folders of the next tree, relative to it.
        self._folders: set[str] = set()
        if make and self._next.exists():
            self._continue()

    def _continue(self) -> None:
        journal = self._next / _JOURNAL
        with contextlib.suppress(FileNotFoundError, ValueError):  # its last line may be truncated
            for line in journal.read_bytes().splitlines():
                self._copied.update([decode_entry(line)])
        journal.unlink(missing_ok=True)
        present: set[str] = set()
        for folder, _, names in os.walk(self._next):
            for path in (Path(folder, name) for name in names):
                name = path.relative_to(self._next).as_posix()
                entry = self._copied.get(name)
                if entry and path.stat().st_size == entry.length:
                    present.add(name)
                    self._folders.add(name.rpartition("/")[0])
                else:
                    path.unlink()
        self._copied = {name: self._copied[name] for name in present}
        self._write_journal(encode_entry(*item) for item in self._copied.items())

    def _write_journal(self, lines: Iterable[bytes]) -> None:
        files.append(self._next / _JOURNAL, b"".join(lines))

    def copied(self) -> Mapping[str, Entry]:
        """See ``Copy``."""
        return self._copied

    def holds(self, name: str, entry: Entry) -> bool:
        """See ``Copy``."""
        try:
            return os.stat(self._path_of(name, entry)).st_size == entry.length  # noqa: PTH116 - a text
        except FileNotFoundError:
            return False

    def _path_of(self, name: str, entry: Entry) -> str:
        """Return a path as a text: it is needed for every file of a run."""
        return f"{self._next if self._copied.get(name) == entry else self._tree}/{name}"

    def read(self, name: str, entry: Entry) -> Iterator[bytes]:
        """See ``Copy``."""
        with Path(self._path_of(name, entry)).open("rb") as file:
            while chunk := file.read(PIECE_BYTES):
                yield chunk

    def local(self, name: str, entry: Entry) -> AbstractContextManager[Path]:
        """See ``Copy``."""
        return contextlib.nullcontext(Path(self._path_of(name, entry)))

    def add(self, name: str, file: OpenedFile) -> Entry:
        """See ``Copy``."""
        final = self._next / name
        self._make_parent(name)
        temporary = final.with_name(f".{final.name}.tmp")
        digest = hashlib.sha256()
        with files.disk_errors(final):
            with temporary.open("wb", buffering=0) as sink:
                for chunk in file.chunks():
                    digest.update(chunk)
                    files.write_all(sink.fileno(), chunk)
                files.sync(sink.fileno())
            temporary.replace(final)
        entry = Entry(file.state, file.length, digest.hexdigest())
        self._copied[name] = entry
        self._write_journal([encode_entry(name, entry)])
        return entry

    def _make_parent(self, name: str) -> None:
        folder = name.rpartition("/")[0]
        if folder not in self._folders:
            with files.disk_errors(self._next / folder):
                (self._next / folder).mkdir(parents=True, exist_ok=True)
            self._folders.add(folder)

    def commit(self, manifest: Manifest, *, sweep: bool) -> None:
        """See ``Copy``."""
        del sweep  # nothing that a killed run left is in the next tree
        for name in self._copied.keys() - manifest.entries.keys():
            (self._next / name).unlink()
        for name, entry in manifest.entries.items():
            if self._copied.get(name) != entry:
                self._link_file(name)
        with files.disk_errors(self._next):
            self._next.mkdir(exist_ok=True)
            with (self._next / _MANIFEST).open("wb", buffering=1 << 20) as sink:
                sink.writelines(manifest.encode())
        files.sync_file(self._next / _MANIFEST)
        folders = {self._next / folder for folder in self._folders}
        folders |= {parent for folder in folders for parent in folder.parents}
        for path in folders:
            if path.is_relative_to(self._next):
                files.sync_file(path)
        new_link = self._root / ".data.tmp"
        with files.disk_errors(self._link):
            new_link.unlink(missing_ok=True)
            new_link.symlink_to(self._next.name)
            files.sync_file(self._root)
            new_link.replace(self._link)
            files.sync_file(self._root)
            (self._next / _JOURNAL).unlink(missing_ok=True)
        for path in list(self._root.iterdir()):
            if _TREE.fullmatch(path.name) and path != self._next:
                shutil.rmtree(path, ignore_errors=True)  # the next run deletes the rest

    def _link_file(self, name: str) -> None:
        self._make_parent(name)
        source, target = f"{self._tree}/{name}", f"{self._next}/{name}"
        try:
            try:
                os.link(source, target)
            except FileExistsError:  # an earlier state of it
                os.unlink(target)  # noqa: PTH108 - a text
                os.link(source, target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                files.raise_disk_error(Path(target), error)
            raise StoreError(
                f"Cannot link {source} ({error.strerror}): a backup needs a file system with hard "
                "links, such as ext4, xfs, btrfs, zfs, APFS or NFS."
            ) from error


@contextlib.contextmanager
def open_folder(root: Path) -> Iterator[FolderCopy]:
    """Open the backup in a folder for a new run, which no other process can do.

    Raises:
        UsageError: It is neither empty nor a backup.
        StoreError: Another process makes a backup there.
    """
    with contextlib.ExitStack() as stack:
        try:
            if root.exists() and not (root / "data" / _MANIFEST).exists():
                strange = [path.name for path in root.iterdir() if not _is_ours(path.name)]
                if strange:
                    raise UsageError(f"{root} is neither empty nor a backup. Name another folder.")
            files.make_folder(root)
            stack.enter_context(lock.hold_lock(root / "backup.lock", {"what": "backup"}))
        except BlockingIOError:
            raise StoreError(f"Another process makes a backup in {root}.") from None
        except OSError as error:
            raise UsageError(f"Cannot make a backup in {root}: {error.strerror}.") from error
        yield FolderCopy(root, make=True)


def _is_ours(name: str) -> bool:
    return name in {".data.tmp", "backup.lock", "lost+found"} or bool(_TREE.fullmatch(name))
