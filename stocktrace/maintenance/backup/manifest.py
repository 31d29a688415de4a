"""The manifest of a backup, and the operations on the place where it is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from stocktrace.errors import StoreError
from stocktrace.maintenance.backup.data_files import FOLDERS, FileState, OpenedFile

_FORMAT = 1


class Entry(NamedTuple):
    """A file in a backup: its state at the source, and the bytes that were copied of it."""

    state: FileState
    length: int
    hash: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """All files of a backup, and the identity of the data folder (``audit.first_hash``)."""

    folder: str = ""
    entries: Mapping[str, Entry] = field(default_factory=dict)

    def encode(self) -> Iterator[bytes]:
        """Yield the lines of its file: one for the backup, and one for each file."""
        yield json.dumps({"format": _FORMAT, "folder": self.folder}).encode() + b"\n"
        for name in sorted(self.entries):
            yield encode_entry(name, self.entries[name])

    @classmethod
    def decode(cls, lines: Iterable[bytes]) -> Manifest:
        """Return the manifest in ``lines``; ``ValueError`` if it is not one."""
        rest = iter(lines)
        head = json.loads(next(rest, b""))
        if not isinstance(head, dict) or head.get("format") != _FORMAT:
            raise ValueError("not a manifest of this version")
        return cls(str(head["folder"]), dict(map(decode_entry, rest)))


def encode_entry(name: str, entry: Entry) -> bytes:
    """Return the line of a file."""
    return json.dumps([name, *entry.state, entry.length, entry.hash]).encode() + b"\n"


def decode_entry(line: bytes) -> tuple[str, Entry]:
    """Return the file in a line; ``ValueError`` if it is not one."""
    name, size, mtime_ns, inode, length, digest = json.loads(line)
    folder, *rest = str(name).split("/")
    if folder not in FOLDERS or not rest or not {"", ".", ".."}.isdisjoint(rest):
        raise ValueError(f"{name!r} is not a file of a data folder")
    return str(name), Entry(FileState(size, mtime_ns, inode), length, str(digest))


class Copy(Protocol):
    """A backup: ``manifest`` is that of the last complete one, without entries before."""

    manifest: Manifest
    #: So many files are copied concurrently.
    workers: int

    def copied(self) -> Mapping[str, Entry]:
        """Return the files that an interrupted run has copied for the next manifest."""

    def holds(self, name: str, entry: Entry) -> bool:
        """Return whether a file of the manifest is still there; cheap."""

    def read(self, name: str, entry: Entry) -> Iterator[bytes]:
        """Yield the bytes of a file of the manifest."""

    def local(self, name: str, entry: Entry) -> AbstractContextManager[Path]:
        """Return a file of the manifest as a file on this machine, which must not be changed."""

    def add(self, name: str, file: OpenedFile) -> Entry:
        """Copy a file for the next manifest. The complete backup is not changed."""

    def commit(self, manifest: Manifest, *, sweep: bool) -> None:
        """Replace the backup by ``manifest``; ``sweep`` looks for what killed runs left."""


def decode_manifest(place: str, lines: Iterable[bytes]) -> Manifest:
    """Return the manifest of the backup in ``place``; ``StoreError`` if it cannot be read."""
    try:
        return Manifest.decode(lines)
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(
            f"The manifest of the backup in {place} cannot be read: make a new one elsewhere."
        ) from error
