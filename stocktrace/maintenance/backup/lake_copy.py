"""A backup in a lake: ``manifest.jsonl``, and ``files/<name>.<hash>`` for each content of a file.

An object never changes. Those that a new manifest does not list any more are deleted after it has
replaced the old one.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from stocktrace.errors import LakeError
from stocktrace.maintenance.backup.data_files import OpenedFile, hash_chunks
from stocktrace.maintenance.backup.manifest import Entry, Manifest, decode_manifest
from stocktrace.store import files
from stocktrace.store.lake import Lake

_MANIFEST = "manifest.jsonl"


class LakeCopy:
    """A backup in a lake: ``manifest.jsonl``, and ``files/<name>.<hash>``."""

    workers = 8

    def __init__(self, lake: Lake) -> None:
        """Read the manifest."""
        self._lake = lake
        lines = b"".join(lake.download(_MANIFEST)).splitlines()
        self.manifest = decode_manifest(lake.url, lines) if lines else Manifest()

    @staticmethod
    def _key(name: str, digest: str) -> str:
        return f"files/{name}.{digest[:16]}"

    def _keys(self, manifest: Manifest) -> set[str]:
        return {self._key(name, entry.hash) for name, entry in manifest.entries.items()}

    def copied(self) -> Mapping[str, Entry]:
        """See ``Copy``; ``add`` finds them."""
        return {}

    def holds(self, name: str, entry: Entry) -> bool:
        """See ``Copy``; no object of a manifest is ever changed."""
        del name, entry
        return True

    def read(self, name: str, entry: Entry) -> Iterator[bytes]:
        """See ``Copy``."""
        return self._lake.download(self._key(name, entry.hash))

    @contextlib.contextmanager
    def local(self, name: str, entry: Entry) -> Iterator[Path]:
        """See ``Copy``."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, Path(name).name)
            with files.disk_errors(path), path.open("wb") as sink:
                sink.writelines(self.read(name, entry))
            yield path

    def add(self, name: str, file: OpenedFile) -> Entry:
        """See ``Copy``. An object that an interrupted run has sent is only compared."""
        entry = Entry(file.state, file.length, file.hash())
        key = self._key(name, entry.hash)
        if self._hash(key) != entry.hash:
            self._lake.upload(file.chunks(), key)
            if self._hash(key) != entry.hash:
                raise LakeError(f"{key} in {self._lake.url} has other content than was sent.")
        return entry

    def _hash(self, key: str) -> str:
        return hash_chunks(self._lake.download(key))

    def commit(self, manifest: Manifest, *, sweep: bool) -> None:
        """See ``Copy``."""
        self._lake.put_bytes(b"".join(manifest.encode()), _MANIFEST)
        old = self._keys(self.manifest)
        if sweep:
            old.update(
                info.path[len(self._lake.root) + 1 :]
                for info in self._lake.list_files("files", recursive=True)
                if info.is_file
            )
        for key in old - self._keys(manifest):
            self._lake.delete(f"{self._lake.root}/{key}")
